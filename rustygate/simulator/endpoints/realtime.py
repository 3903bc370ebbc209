"""The Realtime API: a conversation in text over a WebSocket, `GET /v1/realtime?model=...`.

Audio can be put in, and is counted by its length, but nobody listens to it; nothing is spoken,
and no turn is detected. The events are those of the API as it is now, and the beta's
`conversation.item.created` besides.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from rustygate.simulator.charges import Account
from rustygate.simulator.endpoints.conversation import Conversation, text_of, whole
from rustygate.simulator.errors import ApiError, Failure
from rustygate.simulator.response_bodies import Event, json_text, new_id
from rustygate.simulator.schemas import Name, Usage
from rustygate.simulator.text import Text, input_tokens, length, seed_of, write
from rustygate.simulator.transport.parsing import convert, read

# OpenAI's own bound on an answer.
LONGEST_ANSWER = 4096

# Base64 characters of PCM, 16 bits at 24 kHz, that make a token: there are ten to the second.
_AUDIO_PER_TOKEN = 6400


class RealtimeAsked(msgspec.Struct):
    """What the URL says."""

    model: Name


class Settings(msgspec.Struct):
    """What of a session's settings, or of a response's, matters here."""

    instructions: str | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=LONGEST_ANSWER)] | Literal["inf"] | None = None
    output_modalities: tuple[Literal["text"], ...] = ("text",)
    conversation: Literal["auto", "none"] = "auto"
    input: list[dict[str, Any]] | None = None
    metadata: dict[str, str] | None = None

    @property
    def cap(self) -> int | None:
        return self.max_output_tokens if isinstance(self.max_output_tokens, int) else None


class Heard(msgspec.Struct, tag_field="type", kw_only=True):
    """An event from the client."""

    event_id: str | None = None


class SessionUpdate(Heard, tag="session.update"):
    session: dict[str, Any]


class ItemCreate(Heard, tag="conversation.item.create"):
    item: dict[str, Any]
    previous_item_id: str | None = None


class ItemRetrieve(Heard, tag="conversation.item.retrieve"):
    item_id: str


class ItemDelete(Heard, tag="conversation.item.delete"):
    item_id: str


class AudioAppend(Heard, tag="input_audio_buffer.append"):
    audio: str


class AudioCommit(Heard, tag="input_audio_buffer.commit"):
    pass


class AudioClear(Heard, tag="input_audio_buffer.clear"):
    pass


class ResponseCreate(Heard, tag="response.create"):
    response: dict[str, Any] | None = None


class ResponseCancel(Heard, tag="response.cancel"):
    pass


@dataclass(frozen=True, slots=True)
class Turn:
    """A response that is to be given: its text, what it takes and may take."""

    text: Text
    usage: Usage
    cost: int


class Session:
    """A session: what is said in it, and what is said to that."""

    def __init__(self, model: str, account: Account) -> None:
        self._account = account
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
        self._audio = 0
        self._audio_tokens = 0
        self._responding = False
        self._cancelled = False

    def greeting(self) -> Iterator[Event]:
        yield _said("session.created", session=self._settings)

    def interrupts(self, message: str) -> bool:
        """Heed a `response.cancel` while there is a response to be cancelled."""
        if not self._responding or not _is_cancel(message):
            return False
        self._cancelled = True
        return True

    def answers(self, message: str) -> Iterator[Event]:
        heard: Heard | None = None
        try:
            heard = _read(message)
            yield from _ANSWERS[type(heard)](self, heard)
        except ApiError as error:
            told = error.failure.error | {"event_id": heard and heard.event_id}
            yield _said("error", error=told)

    def _update(self, heard: SessionUpdate) -> Iterator[Event]:
        settings = self._settings | heard.session
        convert(settings, Settings, strict=True)
        self._settings = settings | {"id": self._settings["id"], "model": self._model}
        yield _said("session.updated", session=self._settings)

    def _create_item(self, heard: ItemCreate) -> Iterator[Event]:
        yield from self._add(whole(heard.item), heard.previous_item_id)

    def _retrieve_item(self, heard: ItemRetrieve) -> Iterator[Event]:
        item = self._conversation.find(heard.item_id)
        yield _said("conversation.item.retrieved", item=item)

    def _delete_item(self, heard: ItemDelete) -> Iterator[Event]:
        self._conversation.remove(heard.item_id)
        yield _said("conversation.item.deleted", item_id=heard.item_id)

    def _append_audio(self, heard: AudioAppend) -> Iterator[Event]:
        self._audio += len(heard.audio)
        return iter(())

    def _commit_audio(self, heard: AudioCommit) -> Iterator[Event]:
        if not self._audio:
            raise ApiError(Failure(400, "The audio buffer is empty; there is nothing to commit."))
        self._audio_tokens += -(-self._audio // _AUDIO_PER_TOKEN)
        self._audio = 0
        content = [{"type": "input_audio", "transcript": None}]
        item = whole({"type": "message", "role": "user", "content": content})
        yield _said("input_audio_buffer.committed", item_id=item["id"], previous_item_id=None)
        yield from self._add(item)

    def _clear_audio(self, heard: AudioClear) -> Iterator[Event]:
        self._audio = 0
        yield _said("input_audio_buffer.cleared")

    def _refuse_cancel(self, heard: ResponseCancel) -> Iterator[Event]:
        """One that comes in time interrupts, and does not get here."""
        message = "There is no response that could be cancelled."
        raise ApiError(Failure(400, message, code="response_cancel_not_active"))

    def _add(self, item: dict[str, Any], after: str | None = None) -> Iterator[Event]:
        """Add an item that is whole, and say so."""
        before = self._conversation.add(item, after)
        for name in ("created", "added", "done"):
            yield _said(f"conversation.item.{name}", previous_item_id=before, item=item)

    def _respond(self, heard: ResponseCreate) -> Iterator[Event]:
        settings = convert(self._settings | (heard.response or {}), Settings, strict=True)
        turn, response = self._turn(settings), _response(settings)
        yield _said("response.created", response=response)
        try:
            self._account.charge(self._model, turn.cost)
        except ApiError as error:
            details = {"type": "failed", "error": error.failure.error}
            failed = {"status": "failed", "status_details": details}
            yield _said("response.done", response=response | failed)
            return
        self._account.settle(turn.usage)
        yield _said("rate_limits.updated", rate_limits=self._account.levels())
        yield from self._speak(turn, response, settings.conversation == "auto")

    def _turn(self, settings: Settings) -> Turn:
        texts = (
            self._conversation.texts if settings.input is None else map(text_of, settings.input)
        )
        prompt = "\n".join(filter(None, [settings.instructions, *texts]))
        cap, wanted = settings.cap, self._account.wanted
        text = write(seed_of(self._model, prompt), cap, wanted, as_json=False)
        usage = Usage(input_tokens(prompt) + self._audio_tokens, length(cap, wanted))
        return Turn(text, usage, usage.tokens_in + max(usage.tokens_out, cap or 0))

    def _speak(self, turn: Turn, response: dict[str, Any], joins: bool) -> Iterator[Event]:
        """Say a response, which is part of the conversation if it `joins` it."""
        item = whole({"type": "message", "role": "assistant", "content": []})
        item["status"] = "in_progress"
        here = {"response_id": response["id"], "output_index": 0}
        yield _said("response.output_item.added", **here, item=item)
        before = self._conversation.add(item) if joins else None
        for name in ("created", "added") if joins else ():
            yield _said(f"conversation.item.{name}", previous_item_id=before, item=item)
        said = yield from self._say_text(turn.text, here | {"item_id": item["id"]})
        ended = _ended(turn, said, self._cancelled)
        item["content"] = [{"type": "output_text", "text": "".join(said)}]
        item["status"] = "completed" if ended["status"] == "completed" else "incomplete"
        if joins:
            yield _said("conversation.item.done", previous_item_id=before, item=item)
        yield _said("response.output_item.done", **here, item=item)
        yield _said("response.done", response=response | ended | {"output": [item]})

    def _say_text(self, text: Text, at_item: dict[str, Any]) -> Generator[Event, None, list[str]]:
        """Say a text until it ends or is cancelled; the tokens that were said."""
        at_part, said = at_item | {"content_index": 0}, list[str]()
        yield _said("response.content_part.added", **at_part, part=_part(""))
        self._responding, self._cancelled = True, False
        for token in text.tokens:
            if self._cancelled:
                break
            said.append(token)
            yield _said("response.output_text.delta", paced=True, **at_part, delta=token)
        self._responding = False
        yield _said("response.output_text.done", **at_part, text="".join(said))
        yield _said("response.content_part.done", **at_part, part=_part("".join(said)))
        return said


_ANSWERS: dict[type[Heard], Callable[[Session, Any], Iterator[Event]]] = {
    SessionUpdate: Session._update,
    ItemCreate: Session._create_item,
    ItemRetrieve: Session._retrieve_item,
    ItemDelete: Session._delete_item,
    AudioAppend: Session._append_audio,
    AudioCommit: Session._commit_audio,
    AudioClear: Session._clear_audio,
    ResponseCreate: Session._respond,
    ResponseCancel: Session._refuse_cancel,
}
_HEARD = reduce(or_, _ANSWERS)


def _read(message: str) -> Heard:
    return read(message, _HEARD)


def _is_cancel(message: str) -> bool:
    try:
        return isinstance(_read(message), ResponseCancel)
    except ApiError:
        return False


def _said(name: str, paced: bool = False, **fields: Any) -> Event:
    data = {"type": name, "event_id": new_id("event_"), **fields}
    return Event(json_text(data), name, paced)


def _part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _response(settings: Settings) -> dict[str, Any]:
    """The response when it has begun."""
    return {
        "id": new_id("resp_"),
        "object": "realtime.response",
        "status": "in_progress",
        "status_details": None,
        "output": [],
        "output_modalities": ["text"],
        "max_output_tokens": settings.cap or "inf",
        "usage": None,
        "metadata": settings.metadata,
    }


def _ended(turn: Turn, said: list[str], cancelled: bool) -> dict[str, Any]:
    """What of the response is different when it has ended."""
    status, reason = "completed", None
    if cancelled:
        status, reason = "cancelled", "client_cancelled"
    elif not turn.text.whole:
        status, reason = "incomplete", "max_output_tokens"
    details = reason and {"type": status, "reason": reason}
    usage = _usage(Usage(turn.usage.tokens_in, len(said)))
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
