"""WebSockets in raw frames: the handshake, building and parsing frames (RFC 6455).

The parser is as strict as that of `support.http`; invalid frames can be sent too.
"""

from base64 import b64encode
from dataclasses import dataclass, field
from hashlib import sha1

from tests.support.client import Client
from tests.support.gate import Gate
from tests.support.http import Head, get
from tests.support.upstream import Call, Upstream
from tests.support.waiting import soon
from tests.support.wire import Cut, End, Wire

REALTIME = "/v1/realtime?model=gpt-realtime"
CLIENT_NONCE = "dGhlIHNhbXBsZSBub25jZQ=="
COMPRESSION = "Sec-WebSocket-Extensions: permessage-deflate"

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MASK = b"\xa1\xb2\x03\x7f"


# The handshake.


def handshake(*lines: str, target: str = REALTIME) -> bytes:
    """A client's handshake request; `lines` replace the default header lines of the same name."""
    replaced = {line.split(":")[0].lower() for line in lines}
    defaults = [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {CLIENT_NONCE}",
    ]
    return get(
        target, *(line for line in defaults if line.split(":")[0].lower() not in replaced), *lines
    )


def handshake_response(head: Head, *lines: str) -> bytes:
    """Upstream's 101 response to a handshake."""
    replaced = {line.split(":")[0].lower() for line in lines}
    defaults = [
        "Connection: Upgrade",
        "Upgrade: websocket",
        f"Sec-WebSocket-Accept: {accept_key(head['sec-websocket-key'])}",
    ]
    fields = [*(line for line in defaults if line.split(":")[0].lower() not in replaced), *lines]
    return "\r\n".join(["HTTP/1.1 101 Switching Protocols", *fields, "", ""]).encode()


def accept_key(nonce: str) -> str:
    return b64encode(
        sha1(f"{nonce}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
    ).decode()


# Frames.


@dataclass(frozen=True, slots=True)
class Frame:
    """An unmasked frame; `raw` are the bytes received."""

    opcode: int
    payload: bytes
    final: bool = True
    reserved: int = 0
    raw: bytes = field(default=b"", compare=False)

    @property
    def code(self) -> int | None:
        """The code of a Close frame."""
        assert self.opcode == CLOSE, self
        return int.from_bytes(self.payload[:2]) if self.payload else None

    @property
    def reason(self) -> str:
        return self.payload[2:].decode()


def frame(
    payload: bytes = b"",
    opcode: int = TEXT,
    *,
    mask: bytes = b"",
    final: bool = True,
    reserved: int = 0,
    length: int | None = None,
) -> bytes:
    """A frame's bytes; `length` is the length in its header, if it differs from the payload's."""
    length = len(payload) if length is None else length
    masked = 0x80 if mask else 0
    head = bytes([final << 7 | reserved << 4 | opcode])
    if length < 126:
        head += bytes([masked | length])
    elif length < 2**16:
        head += bytes([masked | 126]) + length.to_bytes(2)
    else:
        head += bytes([masked | 127]) + length.to_bytes(8)
    return head + mask + mask_payload(payload, mask)


def close_payload(code: int | None = None, reason: str = "") -> bytes:
    return b"" if code is None else code.to_bytes(2) + reason.encode()


def mask_payload(payload: bytes, mask: bytes) -> bytes:
    if not mask:
        return payload
    repeated = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload) ^ int.from_bytes(repeated)).to_bytes(len(payload))


async def read_frame(wire: Wire, *, masked: bool) -> Frame:
    """Read the next frame, which must be masked or must not. Raises `Cut`."""
    raw = await _exactly(wire, 2)
    first, second = raw
    assert bool(second & 0x80) == masked, "masked" if second & 0x80 else "not masked"
    length = second & 0x7F
    if length >= 126:
        raw += await _exactly(wire, 2 if length == 126 else 8)
        length = int.from_bytes(raw[2:])
    mask = await _exactly(wire, 4) if masked else b""
    payload = await _exactly(wire, length)
    return Frame(
        first & 0x0F,
        mask_payload(payload, mask),
        bool(first & 0x80),
        first >> 4 & 0x7,
        raw + mask + payload,
    )


async def _exactly(wire: Wire, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = await wire.read_some(count - len(data))
        if not piece:
            raise Cut(f"the connection ended {count - len(data)} bytes before the frame")
        data += piece
    return bytes(data)


class WebSocketEnd:
    """One end of an open WebSocket: the client's, which masks, or upstream's.

    Everything awaited has a time limit.
    """

    def __init__(self, wire: Wire, *, masks: bool) -> None:
        self.wire = wire
        self._masks = masks

    def send(
        self,
        payload: bytes = b"",
        opcode: int = TEXT,
        *,
        final: bool = True,
        reserved: int = 0,
        length: int | None = None,
    ) -> None:
        """Send a frame, as `frame` builds it."""
        mask = MASK if self._masks else b""
        data = frame(payload, opcode, mask=mask, final=final, reserved=reserved, length=length)
        self.wire.send(data)

    def close(self, code: int | None = 1000, reason: str = "") -> None:
        """Send a Close frame."""
        self.send(close_payload(code, reason), CLOSE)

    async def frame(self) -> Frame:
        """Read the next frame."""
        async with soon():
            return await read_frame(self.wire, masked=not self._masks)

    async def expect(self, payload: bytes, opcode: int = TEXT) -> None:
        """Read the next frame, which must be this one."""
        assert await self.frame() == Frame(opcode, payload)

    async def close_frame(self) -> Frame:
        """Read the next frame, which must be a Close frame."""
        frame = await self.frame()
        assert frame.opcode == CLOSE
        return frame

    async def read_until_end(self) -> bytes:
        """Wait for the end of the connection; the bytes received before it that are no frame."""
        async with soon():
            await self.wire.ended()
            try:
                return await self.wire.read_some()
            except Cut:
                return b""

    async def ended(self) -> End:
        async with soon():
            return await self.wire.ended()


async def accept_handshake(
    gate: Gate, upstream: Upstream, *lines: str, request: bytes | None = None
) -> tuple[Client, Call]:
    """A handshake that upstream accepted, with `lines`; the client has not read the response."""
    client = await gate.send(request or handshake())
    call = await upstream.call()
    call.send(handshake_response(call.head, *lines))
    return client, call


async def open_websocket(
    gate: Gate, upstream: Upstream, *, compressed: bool = False
) -> tuple[WebSocketEnd, WebSocketEnd]:
    """Open a WebSocket through the gate; its client's end and its upstream's end."""
    lines = [COMPRESSION] if compressed else []
    client, call = await accept_handshake(gate, upstream, *lines, request=handshake(*lines))
    assert (await client.head()).status == 101
    return WebSocketEnd(client.wire, masks=True), WebSocketEnd(call.wire, masks=False)
