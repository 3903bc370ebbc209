"""The events in a WebSocket of the Realtime or the Responses API, as far as the gate needs them.

An event is a JSON object with a `type`. A `response.create` from the client starts a turn: the
model writes a response. Upstream reports its progress: `response.created`, then `response.done`
(Realtime), or `response.completed`, `response.incomplete` or `response.failed` (Responses), with
the usage; or `error`. The Realtime API also starts turns on its own, when a speaker pauses.

Sources: OpenAI's API reference, "Realtime client events", "Realtime server events" and "Responses
WebSocket events", and its guide "WebSocket mode". Events come from outside. Whatever is in them,
these functions return and do not raise.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from rustygate.core.rate_limit_headers import MAX_QUOTA, Quota, RateLimitUpdate
from rustygate.core.request_facts import MODEL_NAME_LIMIT, RequestFacts, read_request_facts
from rustygate.core.request_schema import (
    CHARACTERS_PER_TOKEN,
    DECODE_ERRORS,
    MEDIA_CHARACTERS,
    NUMBER_LIMIT,
)
from rustygate.core.usage import Usage, detailed_usage

CREATE = b"response.create"
CREATE_ITEM = b"conversation.item.create"
CREATED = b"response.created"

# The events that end a turn. The last one is not OpenAI's.
ENDS = frozenset(
    {
        b"response.done",
        b"response.completed",
        b"response.incomplete",
        b"response.failed",
        b"response.cancelled",
    }
)
ERROR = b"error"
SESSIONS = frozenset({b"session.created", b"session.updated"})
RATE_LIMITS = b"rate_limits.updated"
TRANSCRIBED = b"conversation.item.input_audio_transcription.completed"

# Audio from a microphone, which arrives all the time.
AUDIO_PREFIX = b"input_audio_buffer."

# What the gate reads of upstream's events.
READ_EVENTS = ENDS | SESSIONS | {CREATED, ERROR, RATE_LIMITS, TRANSCRIBED}

# A message without a type.
UNTYPED = b""

# A type that is not within this many bytes is looked for only when the message is complete.
BEGINNING_BYTES = 2048

# How OpenAI and most clients begin an event. Comparing is faster than a pattern.
USUAL_BEGINNING = b'{"type":"'

# Scalars may come before the type. With an object before it, only a parser can tell.
_BEGINNING = re.compile(
    rb'\s*+\{(?:\s*+"[^"\\]*+"\s*+:\s*+(?:"(?:[^"\\]|\\.)*+"|[-+.\w]++)\s*+,)*?'
    rb'\s*+"type"\s*+:\s*+"([^"\\]*+)"',
    re.DOTALL,
)


class _Typed(msgspec.Struct):
    type: Any = None


_decode_type = msgspec.json.Decoder(_Typed).decode


def event_type(beginning: bytes | bytearray, whole: bool) -> bytes | None:
    """The type of an event, or `UNTYPED`; None if more of it is needed to tell.

    Args:
        whole: this is the whole message.
    """
    match = _BEGINNING.match(beginning, 0, BEGINNING_BYTES)
    if match is not None:
        return match[1]
    start = beginning[:BEGINNING_BYTES].lstrip()
    if start and start[:1] != b"{":
        return UNTYPED
    return _whole_type(beginning) if whole else None


def _whole_type(message: bytes | bytearray) -> bytes:
    try:
        name = _decode_type(message).type
    except DECODE_ERRORS:
        return UNTYPED
    return name.encode(errors="replace") if isinstance(name, str) else UNTYPED


# What a client asks for.


class TurnRequest(msgspec.Struct, frozen=True):
    """What matters in a `response.create`.

    Args:
        event_id: the client's name for the event (Realtime).
        stream_id: the client's name for one of several streams of responses (Responses).
        is_apart: it does not read the conversation (Realtime).
        previous_id: the response that it continues (Responses).
    """

    facts: RequestFacts
    event_id: str | None = None
    stream_id: str | None = None
    is_apart: bool = False
    previous_id: str | None = None


class _Create(msgspec.Struct):
    response: msgspec.Raw = msgspec.Raw()
    model: Any = None
    event_id: Any = None
    stream_id: Any = None
    generate: Any = None


class _Context(msgspec.Struct):
    conversation: Any = None
    input: msgspec.Raw = msgspec.Raw()
    previous_response_id: Any = None


_decode_create = msgspec.json.Decoder(_Create).decode
_decode_context = msgspec.json.Decoder(_Context).decode


def read_turn(message: bytes) -> TurnRequest:
    """Read a `response.create`. The request is its `response`, or else its own fields."""
    try:
        create = _decode_create(message)
    except DECODE_ERRORS:
        return TurnRequest(read_request_facts(message))
    request = bytes(create.response)
    if not request.lstrip().startswith(b"{"):
        request = message
    facts = read_request_facts(request)
    outer_model = _model(create.model)
    if facts.model is None:
        facts = msgspec.structs.replace(facts, model=outer_model)
    elif outer_model not in (None, facts.model):
        # Upstream may use either.
        facts = msgspec.structs.replace(facts, readable=False)
    if create.generate is False:
        # It only prepares upstream's cache.
        facts = msgspec.structs.replace(facts, output_cap=0)
    try:
        context = _decode_context(request)
    except DECODE_ERRORS:
        context = _Context()
    has_input = bytes(context.input) not in (b"", b"null")
    return TurnRequest(
        facts,
        _text(create.event_id),
        _text(create.stream_id),
        has_input or context.conversation == "none",
        _text(context.previous_response_id),
    )


class _CreateItem(msgspec.Struct):
    item: msgspec.Raw = msgspec.Raw()


_decode_create_item = msgspec.json.Decoder(_CreateItem).decode


def item_tokens(start: bytes, size: int) -> int:
    """The tokens of the item in a `conversation.item.create` of `size` bytes.

    Args:
        start: the event, or as much of it as was kept. Then its item is a recording or an image if
            that begins there, otherwise text.
    """
    if len(start) < size:
        characters = MEDIA_CHARACTERS if _MEDIA_ITEM.search(start) else size
    else:
        try:
            item = bytes(_decode_create_item(start).item)
        except DECODE_ERRORS:
            return 0
        characters = read_request_facts(b'{"input":[%b]}' % item).input_characters
    return -(-characters // CHARACTERS_PER_TOKEN)


_MEDIA_ITEM = re.compile(rb'"input_(?:audio|image)"')


# What upstream reports.


class SessionSettings(msgspec.Struct, frozen=True):
    """What matters in a Realtime session."""

    model: str | None = None
    output_cap: int | None = None


class UpstreamError(msgspec.Struct, frozen=True):
    """An error in an event.

    Args:
        fields: the error object.
        status: the HTTP status that it stands for, if upstream says so.
        event_id: the client's event that caused it.
        headers: what upstream would have sent in an HTTP response.
    """

    fields: Mapping[str, Any]
    status: int | None = None
    event_id: str | None = None
    headers: Mapping[str, str] = {}

    @property
    def is_rate_limit(self) -> bool:
        """Whether waiting is likely to help, or at least a limit is named."""
        names = [self.fields.get(key) for key in ("code", "type")]
        return self.status in (429, 503) or any(
            isinstance(name, str) and ("rate_limit" in name or name in _OVERLOADS)
            for name in names
        )


_OVERLOADS = {"slow_down", "server_is_overloaded"}


class UpstreamEvent(msgspec.Struct, frozen=True):
    """What matters in an event from upstream."""

    response_id: str | None = None
    stream_id: str | None = None
    usage: Usage | None = None
    error: UpstreamError | None = None
    session: SessionSettings = SessionSettings()
    rate_limits: RateLimitUpdate | None = None


_EMPTY = UpstreamEvent()
_decode_event = msgspec.json.Decoder(dict[str, Any]).decode


def read_upstream_event(message: bytes) -> UpstreamEvent:
    """Read an event; one that is not a JSON object is empty."""
    try:
        event = _decode_event(message)
    except DECODE_ERRORS:
        return _EMPTY
    response = _object(event.get("response"))
    return UpstreamEvent(
        _text(response.get("id")) or _text(event.get("response_id")),
        _text(event.get("stream_id")),
        _usage(_object(response.get("usage") or event.get("usage"))),
        _error(event, response),
        _session(_object(event.get("session"))),
        _rate_limits(event.get("rate_limits")),
    )


def _usage(usage: Mapping[str, Any]) -> Usage | None:
    tokens_in, tokens_out = map(_count, (usage.get("input_tokens"), usage.get("output_tokens")))
    if tokens_in is None and tokens_out is None:
        return None
    # Realtime and Responses differ by one letter.
    return detailed_usage(
        tokens_in or 0,
        tokens_out or 0,
        usage.get("input_token_details") or usage.get("input_tokens_details"),
        usage.get("output_token_details") or usage.get("output_tokens_details"),
    )


def _error(event: Mapping[str, Any], response: Mapping[str, Any]) -> UpstreamError | None:
    """The error of an `error` event, or of a response that failed."""
    if event.get("type") == "error":
        # The Responses API's events over HTTP have the fields of the error at the top.
        fields = _object(event.get("error")) or event
    else:
        details = _object(response.get("status_details"))
        fields = _object(response.get("error")) or _object(details.get("error"))
        if not fields and response.get("status") != "failed":
            return None
    headers = _object(event.get("headers")) or _object(fields.get("headers"))
    return UpstreamError(
        fields,
        _status(event.get("status")),
        _text(fields.get("event_id")) if fields is not event else None,
        {name.lower(): str(value) for name, value in headers.items()},
    )


def _session(session: Mapping[str, Any]) -> SessionSettings:
    return SessionSettings(_model(session.get("model")), _count(session.get("max_output_tokens")))


def _rate_limits(limits: object) -> RateLimitUpdate | None:
    """The quotas in `rate_limits.updated`: a list with an object for each."""
    if not isinstance(limits, list):
        return None
    named = {_text(limit.get("name")): _quota(limit) for limit in map(_object, limits)}
    return RateLimitUpdate(named.get("requests"), named.get("tokens"))


def _quota(fields: Mapping[str, Any]) -> Quota | None:
    limit, remaining = (_whole(fields.get(name), MAX_QUOTA) for name in ("limit", "remaining"))
    return Quota(limit, None if remaining is None else min(remaining, limit)) if limit else None


# What the gate reports.


def realtime_error(
    error: Mapping[str, Any], event_id: str, client_event_id: str | None
) -> dict[str, Any]:
    """An error event of the Realtime API."""
    fields = {**error, "event_id": client_event_id}
    return {"type": "error", "event_id": event_id, "error": fields}


def responses_error(
    error: Mapping[str, Any], status: int, headers: Mapping[str, str], stream_id: str | None
) -> dict[str, Any]:
    """An error event of the Responses API.

    OpenAI's SDK reads the headers in the error, Codex those next to it.
    """
    fields = {**error, "headers": headers}
    event = {"type": "error", "status": status, "error": fields, "headers": headers}
    return event if stream_id is None else event | {"stream_id": stream_id}


# Values from outside.


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _model(value: object) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= MODEL_NAME_LIMIT else None


def _count(value: object) -> int | None:
    return _whole(value, NUMBER_LIMIT)


def _whole(value: object, limit: int) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= limit:
        return value
    return None


def _status(value: object) -> int | None:
    return _whole(value, 599)
