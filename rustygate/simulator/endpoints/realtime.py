"""The Realtime API: a text conversation over a WebSocket, `GET /v1/realtime?model=...`.

Input audio is counted by its length but not interpreted. There is no output audio and no turn
detection. The events are those of the current API, plus the beta's `conversation.item.created`.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from rustygate.simulator.charges import Charges
from rustygate.simulator.endpoints.conversation import Conversation, complete_item, item_turn
from rustygate.simulator.errors import ApiError, ErrorResponse
from rustygate.simulator.prompt import Prompt, Turn
from rustygate.simulator.response_bodies import Event, json_text, new_id
from rustygate.simulator.schemas import Name, Usage
from rustygate.simulator.text import (
    GeneratedText,
    estimate_tokens,
    generate_text,
    output_tokens,
    seed_from,
)
from rustygate.simulator.transport.parsing import convert, parse_json

# OpenAI's limit on the output of a response.
MAX_RESPONSE_TOKENS = 4096

# One token of audio, a tenth of a second of 16-bit PCM at 24 kHz, in base64.
_BASE64_CHARS_PER_TOKEN = 6400


class RealtimeQuery(msgspec.Struct):
    """The query string of the URL."""

    model: Name


class SessionSettings(msgspec.Struct):
    """The settings of a session or of one response that the simulator reads."""

    instructions: str | None = None
    max_output_tokens: (
        Annotated[int, Meta(ge=1, le=MAX_RESPONSE_TOKENS)] | Literal["inf"] | None
    ) = None
    output_modalities: tuple[Literal["text"], ...] = ("text",)
    conversation: Literal["auto", "none"] = "auto"
    input: list[dict[str, Any]] | None = None
    metadata: dict[str, str] | None = None

    @property
    def token_limit(self) -> int | None:
        return self.max_output_tokens if isinstance(self.max_output_tokens, int) else None


class ClientEvent(msgspec.Struct, tag_field="type", kw_only=True):
    """An event from the client."""

    event_id: str | None = None


class SessionUpdate(ClientEvent, tag="session.update"):
    session: dict[str, Any]


class ItemCreate(ClientEvent, tag="conversation.item.create"):
    item: dict[str, Any]
    previous_item_id: str | None = None


class ItemRetrieve(ClientEvent, tag="conversation.item.retrieve"):
    item_id: str


class ItemDelete(ClientEvent, tag="conversation.item.delete"):
    item_id: str


class AudioAppend(ClientEvent, tag="input_audio_buffer.append"):
    audio: str


class AudioCommit(ClientEvent, tag="input_audio_buffer.commit"):
    pass


class AudioClear(ClientEvent, tag="input_audio_buffer.clear"):
    pass


class ResponseCreate(ClientEvent, tag="response.create"):
    response: dict[str, Any] | None = None


class ResponseCancel(ClientEvent, tag="response.cancel"):
    pass


@dataclass(frozen=True, slots=True)
class PlannedResponse:
    """A response before it is sent: its text, its usage, and its cost in tokens."""

    text: GeneratedText
    usage: Usage
    cost: int


class RealtimeSession:
    """One session: its settings, its conversation, and its responses."""

    def __init__(self, model: str, charges: Charges) -> None:
        self._charges = charges
        self._model = model
        self._settings: dict[str, Any] = {
            "type": "realtime",
            "object": "realtime.session",
            "id": new_id("sess_"),
            "model": model,
            "output_modalities": ["text"],
            "instructions": "",
            "tools": [],
            "tool_choice": "auto",
            "max_output_tokens": "inf",
        }
        self._conversation = Conversation()
        self._audio_chars = 0
        self._audio_tokens = 0
        self._responding = False
        self._cancelled = False

    def initial_events(self) -> Iterator[Event]:
        yield _server_event("session.created", session=self._settings)

    def handle_immediately(self, message: str) -> bool:
        """Handle a `response.cancel` during a response."""
        if not self._responding or not _is_cancel(message):
            return False
        self._cancelled = True
        return True

    def handle_message(self, message: str) -> Iterator[Event]:
        event: ClientEvent | None = None
        try:
            event = _parse_event(message)
            yield from _HANDLERS[type(event)](self, event)
        except ApiError as error:
            error_fields = error.response.error | {"event_id": event and event.event_id}
            yield _server_event("error", error=error_fields)

    def _update_session(self, event: SessionUpdate) -> Iterator[Event]:
        settings = self._settings | event.session
        convert(settings, SessionSettings, strict=True)
        self._settings = settings | {"id": self._settings["id"], "model": self._model}
        yield _server_event("session.updated", session=self._settings)

    def _create_item(self, event: ItemCreate) -> Iterator[Event]:
        yield from self._add_item(complete_item(event.item), event.previous_item_id)

    def _retrieve_item(self, event: ItemRetrieve) -> Iterator[Event]:
        item = self._conversation.find(event.item_id)
        yield _server_event("conversation.item.retrieved", item=item)

    def _delete_item(self, event: ItemDelete) -> Iterator[Event]:
        self._conversation.remove(event.item_id)
        yield _server_event("conversation.item.deleted", item_id=event.item_id)

    def _append_audio(self, event: AudioAppend) -> Iterator[Event]:
        self._audio_chars += len(event.audio)
        return iter(())

    def _commit_audio(self, event: AudioCommit) -> Iterator[Event]:
        if not self._audio_chars:
            message = "The audio buffer is empty. Append audio before you commit it."
            raise ApiError(ErrorResponse(400, message))
        self._audio_tokens += -(-self._audio_chars // _BASE64_CHARS_PER_TOKEN)
        self._audio_chars = 0
        content = [{"type": "input_audio", "transcript": None}]
        item = complete_item({"type": "message", "role": "user", "content": content})
        yield _server_event(
            "input_audio_buffer.committed", item_id=item["id"], previous_item_id=None
        )
        yield from self._add_item(item)

    def _clear_audio(self, event: AudioClear) -> Iterator[Event]:
        self._audio_chars = 0
        yield _server_event("input_audio_buffer.cleared")

    def _reject_cancel(self, event: ResponseCancel) -> Iterator[Event]:
        """Reject a late cancel; `handle_immediately` handles those during a response."""
        message = "There is no response in progress to cancel."
        raise ApiError(ErrorResponse(400, message, code="response_cancel_not_active"))

    def _add_item(self, item: dict[str, Any], after: str | None = None) -> Iterator[Event]:
        """Add a complete item, and announce it."""
        previous = self._conversation.add(item, after)
        for name in ("created", "added", "done"):
            yield _server_event(f"conversation.item.{name}", previous_item_id=previous, item=item)

    def _create_response(self, event: ResponseCreate) -> Iterator[Event]:
        settings = convert(self._settings | (event.response or {}), SessionSettings, strict=True)
        plan, response = self._plan(settings), _response(settings)
        yield _server_event("response.created", response=response)
        try:
            self._charges.charge(self._model, plan.cost)
        except ApiError as error:
            details = {"type": "failed", "error": error.response.error}
            failed = {"status": "failed", "status_details": details}
            yield _server_event("response.done", response=response | failed)
            return
        self._charges.record_usage(plan.usage)
        yield _server_event("rate_limits.updated", rate_limits=self._charges.rate_limits())
        yield from self._stream_response(plan, response, settings.conversation == "auto")

    def _plan(self, settings: SessionSettings) -> PlannedResponse:
        prompt = self._prompt(settings)
        token_limit, forced_tokens = settings.token_limit, self._charges.forced_tokens
        seed = seed_from(self._model, prompt)
        words = Prompt(self._turns(settings)).words()
        text = generate_text(seed, token_limit, forced_tokens, repeated=words)
        tokens_in = estimate_tokens(prompt) + self._audio_tokens
        usage = Usage(tokens_in, output_tokens(token_limit, forced_tokens))
        return PlannedResponse(text, usage, tokens_in + max(usage.tokens_out, token_limit or 0))

    def _turns(self, settings: SessionSettings) -> tuple[Turn, ...]:
        """The instructions and the response's own input or the conversation."""
        custom_input = settings.input
        items = self._conversation.turns if custom_input is None else map(item_turn, custom_input)
        return Turn("system", settings.instructions or ""), *items

    def _prompt(self, settings: SessionSettings) -> str:
        return "\n".join(turn.text for turn in self._turns(settings) if turn.text)

    def _stream_response(
        self, plan: PlannedResponse, response: dict[str, Any], in_conversation: bool
    ) -> Iterator[Event]:
        """Stream a response, and add it to the conversation if it is `in_conversation`."""
        item = complete_item({"type": "message", "role": "assistant", "content": []})
        item["status"] = "in_progress"
        location = {"response_id": response["id"], "output_index": 0}
        yield _server_event("response.output_item.added", **location, item=item)
        previous = self._conversation.add(item) if in_conversation else None
        for name in ("created", "added") if in_conversation else ():
            yield _server_event(f"conversation.item.{name}", previous_item_id=previous, item=item)
        sent_tokens = yield from self._stream_text(plan.text, location | {"item_id": item["id"]})
        final_fields = _final_fields(plan, sent_tokens, self._cancelled)
        item["content"] = [{"type": "output_text", "text": "".join(sent_tokens)}]
        item["status"] = "completed" if final_fields["status"] == "completed" else "incomplete"
        if in_conversation:
            yield _server_event("conversation.item.done", previous_item_id=previous, item=item)
        yield _server_event("response.output_item.done", **location, item=item)
        yield _server_event("response.done", response=response | final_fields | {"output": [item]})

    def _stream_text(
        self, text: GeneratedText, item_location: dict[str, Any]
    ) -> Generator[Event, None, list[str]]:
        """Stream a text until it ends or is cancelled; return the tokens sent."""
        location, sent = item_location | {"content_index": 0}, list[str]()
        yield _server_event("response.content_part.added", **location, part=_part(""))
        self._responding, self._cancelled = True, False
        for token in text.tokens:
            if self._cancelled:
                break
            sent.append(token)
            yield _server_event("response.output_text.delta", paced=True, **location, delta=token)
        self._responding = False
        sent_text = "".join(sent)
        yield _server_event("response.output_text.done", **location, text=sent_text)
        yield _server_event("response.content_part.done", **location, part=_part(sent_text))
        return sent


_HANDLERS: dict[type[ClientEvent], Callable[[RealtimeSession, Any], Iterator[Event]]] = {
    SessionUpdate: RealtimeSession._update_session,
    ItemCreate: RealtimeSession._create_item,
    ItemRetrieve: RealtimeSession._retrieve_item,
    ItemDelete: RealtimeSession._delete_item,
    AudioAppend: RealtimeSession._append_audio,
    AudioCommit: RealtimeSession._commit_audio,
    AudioClear: RealtimeSession._clear_audio,
    ResponseCreate: RealtimeSession._create_response,
    ResponseCancel: RealtimeSession._reject_cancel,
}
_CLIENT_EVENTS = reduce(or_, _HANDLERS)


def _parse_event(message: str) -> ClientEvent:
    return parse_json(message, _CLIENT_EVENTS)


def _is_cancel(message: str) -> bool:
    try:
        return isinstance(_parse_event(message), ResponseCancel)
    except ApiError:
        return False


def _server_event(name: str, paced: bool = False, **fields: Any) -> Event:
    data = {"type": name, "event_id": new_id("event_"), **fields}
    return Event(json_text(data), name, paced)


def _part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _response(settings: SessionSettings) -> dict[str, Any]:
    """A response that has just started."""
    return {
        "id": new_id("resp_"),
        "object": "realtime.response",
        "status": "in_progress",
        "status_details": None,
        "output": [],
        "output_modalities": ["text"],
        "max_output_tokens": settings.token_limit or "inf",
        "usage": None,
        "metadata": settings.metadata,
    }


def _final_fields(
    plan: PlannedResponse, sent_tokens: list[str], cancelled: bool
) -> dict[str, Any]:
    """The fields of a response that change when it ends."""
    status, reason = "completed", None
    if cancelled:
        status, reason = "cancelled", "client_cancelled"
    elif not plan.text.complete:
        status, reason = "incomplete", "max_output_tokens"
    details = reason and {"type": status, "reason": reason}
    usage = _usage(Usage(plan.usage.tokens_in, len(sent_tokens)))
    return {"status": status, "status_details": details, "usage": usage}


def _usage(usage: Usage) -> dict[str, Any]:
    details = {"text_tokens": usage.tokens_in, "audio_tokens": 0, "cached_tokens": 0}
    return {
        "input_tokens": usage.tokens_in,
        "input_token_details": details,
        "output_tokens": usage.tokens_out,
        "output_token_details": {"text_tokens": usage.tokens_out, "audio_tokens": 0},
        "total_tokens": usage.total,
    }
