"""What an endpoint answers with: something whole, pieces of something large, or events.

`wire` puts them on the connection.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any

import msgspec

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Whole:
    """A text or a small thing, sent in one go."""

    data: bytes
    type: str = JSON


@dataclass(frozen=True, slots=True)
class Pieces:
    """Bytes that are made while they are sent.

    Args:
        length: how many they are. None: nobody knows, so they go out chunked, and each piece is
            a token's, at a token's pace.
    """

    data: Iterable[bytes]
    type: str
    length: int | None = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream; `paced` if it carries a token, which takes its time."""

    data: str
    name: str | None = None
    paced: bool = False


@dataclass(frozen=True, slots=True)
class Events:
    """A stream of events."""

    events: Iterable[Event]


Answer = Whole | Pieces | Events


def json_text(value: Any) -> str:
    """JSON as OpenAI writes it: compact, characters as they are."""
    return msgspec.json.encode(value).decode()


def json_answer(value: Any) -> Whole:
    return Whole(msgspec.json.encode(value))


def named(value: dict[str, Any], paced: bool = False) -> Event:
    """An event whose name is its data's type."""
    return Event(json_text(value), value["type"], paced)


def new_id(prefix: str) -> str:
    """An identifier like OpenAI's."""
    return f"{prefix}{token_hex(16)}"
