"""HTTP/1.1 as bytes: build requests and responses, parse heads and bodies.

The parser is strict and no cleverer than the tests need, because it judges what the gate sends.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tests.support.wire import Cut, Wire

UPSTREAM_KEY = "sk-upstream-canary-0f8a6b2c4d1e"
CLIENT_KEY = "sk-client-canary-9d7c5b3a1f2e"

CHAT = "/v1/chat/completions"
EVENT_STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
LAST_CHUNK = b"0\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

Framing = Literal["none", "length", "chunked", "close"]


# Building.


def request(method: str, target: str, *lines: str, body: bytes | None = None) -> bytes:
    """A client's request with these header lines; a body adds its Content-Length."""
    length = [] if body is None else [f"Content-Length: {len(body)}"]
    fields = ["Host: gate", f"Authorization: Bearer {CLIENT_KEY}", *lines, *length]
    return _head(f"{method} {target} HTTP/1.1", fields) + (body or b"")


def get(target: str = "/v1/models", *lines: str) -> bytes:
    return request("GET", target, *lines)


def post(body: bytes = b"{}", *lines: str, target: str = CHAT) -> bytes:
    return request("POST", target, "Content-Type: application/json", *lines, body=body)


def chat(*lines: str, stream: bool = False) -> bytes:
    """A chat request, as an SDK sends it."""
    messages = [{"role": "user", "content": "Hello!"}]
    body = {"model": "gpt-4o", "messages": messages, "stream": stream}
    return post(json.dumps(body).encode(), *lines)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def response(body: bytes = b"{}", *lines: str, status: str = "200 OK") -> bytes:
    """Upstream's response, with its Content-Length."""
    return _head(f"HTTP/1.1 {status}", [*lines, f"Content-Length: {len(body)}"]) + body


def response_head(*lines: str, status: str = "200 OK") -> bytes:
    """A response head with only these header lines."""
    return _head(f"HTTP/1.1 {status}", lines)


def _head(start: str, lines: Sequence[str]) -> bytes:
    return "\r\n".join([start, *lines, "", ""]).encode("latin-1")


# Parsing.


@dataclass(frozen=True, slots=True)
class Head:
    """A start line and header lines. `raw` are the bytes received."""

    raw: bytes

    @property
    def start(self) -> str:
        return self.raw.decode("latin-1").split("\r\n", 1)[0]

    @property
    def status(self) -> int:
        return int(self.start.split()[1])

    @property
    def lines(self) -> list[str]:
        """The header lines as received."""
        return self.raw.decode("latin-1").split("\r\n")[1:-2]

    @property
    def fields(self) -> list[tuple[str, str]]:
        """Header names in lower case, and values."""
        parts = (line.partition(":") for line in self.lines)
        return [(name.lower(), value.strip(" \t")) for name, _, value in parts]

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key == name.lower()]

    def __contains__(self, name: str) -> bool:
        return bool(self.all(name))

    def __getitem__(self, name: str) -> str:
        [value] = self.all(name)
        return value


async def read_head(wire: Wire) -> Head:
    """Read the next head. Raises `Cut`."""
    return Head(await wire.read_until(b"\r\n\r\n"))


def framing_of(head: Head, *, bodiless: bool = False) -> Framing:
    """How the end of the body is known (RFC 9112, 6.3). A request without framing has no body."""
    if bodiless or (head.start.startswith("HTTP/") and head.status in {204, 304}):
        return "none"
    if "transfer-encoding" in head:
        assert head["transfer-encoding"].lower() == "chunked"
        assert "content-length" not in head
        return "chunked"
    if "content-length" in head:
        return "length"
    return "close" if head.start.startswith("HTTP/") else "none"


class BodyReader:
    """Reads a body as its framing says. All methods raise `Cut` if the body is incomplete."""

    def __init__(self, wire: Wire, head: Head, *, bodiless: bool = False) -> None:
        self._wire = wire
        self.framing = framing_of(head, bodiless=bodiless)
        self._remaining = int(head["content-length"]) if self.framing == "length" else 0
        self._ended = self.framing == "none"

    async def read_some(self) -> bytes:
        """The next bytes, at most one chunk; b"" at the end."""
        if self._ended:
            return b""
        match self.framing:
            case "chunked":
                piece = await self._read_chunk()
            case "length":
                piece = await self._read_remaining()
            case _:
                piece = await self._wire.read_some()
        self._ended = not piece
        return piece

    async def read_exactly(self, count: int) -> bytes:
        """Read `count` bytes, which must end with a chunk or a read."""
        body = b""
        while len(body) < count:
            piece = await self.read_some()
            if not piece:
                raise Cut(f"the body ended after {len(body)} of {count} bytes: {body!r}")
            body += piece
        assert len(body) == count, body
        return body

    async def read_rest(self) -> bytes:
        """Read the rest of the body."""
        pieces = []
        while piece := await self.read_some():
            pieces.append(piece)
        return b"".join(pieces)

    async def read_until_cut(self) -> bytes:
        """Read until the connection ends too early. Fails if the body ends cleanly."""
        pieces: list[bytes] = []
        try:
            while piece := await self.read_some():
                pieces.append(piece)
        except Cut:
            return b"".join(pieces)
        raise AssertionError(f"the body ended cleanly: {b''.join(pieces)!r}")

    async def _read_remaining(self) -> bytes:
        if not self._remaining:
            return b""
        piece = await self._wire.read_some(self._remaining)
        self._remaining -= len(piece)
        if not piece:
            raise Cut(f"{self._remaining} bytes missing")
        return piece

    async def _read_chunk(self) -> bytes:
        if not self._remaining:
            self._remaining = int(await self._wire.read_until(b"\r\n"), 16)
            if not self._remaining:
                assert await self._wire.read_until(b"\r\n") == b"\r\n"
                return b""
        piece = await self._read_remaining()
        if not self._remaining:
            assert await self._wire.read_until(b"\r\n") == b"\r\n"
        return piece


@dataclass(frozen=True, slots=True)
class Response:
    """A complete response."""

    head: Head
    body: bytes

    @property
    def status(self) -> int:
        return self.head.status

    @property
    def reason(self) -> str | None:
        """The reason in X-RustyGate-Error, if the gate responded itself."""
        reasons = self.head.all("x-rustygate-error")
        return reasons[0] if reasons else None

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.json["error"]
        return error
