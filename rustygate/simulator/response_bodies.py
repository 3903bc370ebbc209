"""Response bodies that endpoints return: sent in one piece, streamed as bytes, or as events.

`transport.delivery` and `transport.websocket` send them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any

import msgspec

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class CompleteBody:
    """A small body, sent in one piece."""

    data: bytes
    type: str = JSON


@dataclass(frozen=True, slots=True)
class StreamedBody:
    """A body that is generated while it is sent.

    Args:
        length: its length in bytes. None if unknown: the body is sent with chunked encoding, and
            each chunk is one token, sent at the pace of tokens.
    """

    data: Iterable[bytes]
    type: str
    length: int | None = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream; `paced` if it carries a token and is sent at the pace of tokens."""

    data: str
    name: str | None = None
    paced: bool = False


@dataclass(frozen=True, slots=True)
class EventStream:
    """A stream of events."""

    events: Iterable[Event]


ResponseBody = CompleteBody | StreamedBody | EventStream


def json_text(value: Any) -> str:
    """JSON as OpenAI writes it: compact, with characters not escaped."""
    return msgspec.json.encode(value).decode()


def json_body(value: Any) -> CompleteBody:
    return CompleteBody(msgspec.json.encode(value))


def named_event(value: dict[str, Any], paced: bool = False) -> Event:
    """An event named after the `type` of its data."""
    return Event(json_text(value), value["type"], paced)


def new_id(prefix: str) -> str:
    """A random identifier like OpenAI's."""
    return f"{prefix}{token_hex(16)}"
