"""A reader of whole WebSocket streams that shares nothing with the gate's own."""

import zlib
from collections.abc import Iterator

from tests.support.websocket import TEXT, frame, mask_payload

FLUSH = b"\x00\x00\xff\xff"


class Deflater:
    """Compresses messages as a sender with context takeover does."""

    def __init__(self) -> None:
        self._encoder = zlib.compressobj(wbits=-15)

    def compress(self, payload: bytes) -> bytes:
        data = self._encoder.compress(payload) + self._encoder.flush(zlib.Z_SYNC_FLUSH)
        assert data.endswith(FLUSH)
        return data[:-4]


def message(
    payload: bytes, sizes: list[int], *, mask: bytes, opcode: int = TEXT, compressed: bool = False
) -> list[bytes]:
    """A message in frames; all but the last have these sizes. The payload is as it is sent."""
    pieces, rest = [], payload
    for size in sizes:
        pieces.append(rest[:size])
        rest = rest[size:]
    pieces.append(rest)
    return [
        frame(
            piece,
            opcode if number == 0 else 0,
            mask=mask,
            final=number == len(pieces) - 1,
            reserved=4 if compressed and number == 0 else 0,
        )
        for number, piece in enumerate(pieces)
    ]


def frames_in(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The first byte and the payload of each frame; they must be complete."""
    at = 0
    while at < len(data):
        first, length = data[at], data[at + 1] & 0x7F
        masked = data[at + 1] & 0x80
        at += 2
        if length >= 126:
            size = 2 if length == 126 else 8
            length = int.from_bytes(data[at : at + size])
            at += size
        mask = data[at : at + 4] if masked else b""
        at += len(mask)
        assert at + length <= len(data)
        yield first, mask_payload(data[at : at + length], mask)
        at += length


def messages_in(data: bytes) -> tuple[list[bytes], list[bytes]]:
    """The messages and the payloads of control frames in a stream, as its reader sees them."""
    messages, controls = list[bytes](), list[bytes]()
    decoder = zlib.decompressobj(wbits=-15)
    parts, compressed, inside = list[bytes](), False, False
    for first, payload in frames_in(data):
        if first & 0x08:
            controls.append(payload)
            continue
        assert inside == (first & 0x0F == 0), "a message inside another"
        if not inside:
            parts, compressed = [], bool(first & 0x40)
        parts.append(payload)
        inside = not first & 0x80
        if not inside:
            whole = b"".join(parts)
            messages.append(decoder.decompress(whole + FLUSH) if compressed else whole)
    assert not inside
    return messages, controls
