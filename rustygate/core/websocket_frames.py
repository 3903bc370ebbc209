"""WebSocket frames as far as a bridge needs them (RFC 6455, 5; RFC 7692, 6).

Frames are never rebuilt: a bridge passes the bytes it reads, masks and compression included, and
asks here how much of them may pass. What is followed is where frames and messages begin and end,
which also tells where a Close frame of the gate's own may stand between them. What no endpoint
would have to accept is a `ProtocolViolation`, and does not pass.

A frame's head, and a control frame whole, is held until all of it is there; of other payloads
nothing is kept. What a compressed message inflates to is for the endpoints to judge.
"""

from codecs import getincrementaldecoder
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codecs import IncrementalDecoder

# Larger messages are refused. OpenAI's own limit for an event is 15 MiB (append audio).
MESSAGE_LIMIT = 16 * 2**20

# A message in more pieces than this is nobody's; 256 bytes each would make a message of 16 MiB.
FRAGMENTS_LIMIT = 65_536

# Close codes (RFC 6455, 7.4.1).
GOING_AWAY = 1001
PROTOCOL_ERROR = 1002
INVALID_PAYLOAD = 1007
MESSAGE_TOO_BIG = 1009
INTERNAL_ERROR = 1011

CONTINUATION, TEXT, CLOSE, PONG = 0x0, 0x1, 0x8, 0xA

_FIN, _RESERVED, _COMPRESSED, _OPCODE = 0x80, 0x70, 0x40, 0x0F
_MASKED, _LENGTH = 0x80, 0x7F
MASK_BYTES = 4

# A control frame's payload is shorter than this; longer lengths stand in bytes of their own.
_SHORT = 126
_LENGTH_SIZE = {126: 2, 127: 8}

_utf8 = getincrementaldecoder("utf-8")


class ProtocolViolation(Exception):
    """What no endpoint would have to accept. `code` is what its sender is to be told."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class FrameTracker:
    """Follows what comes from one side, however the bytes were cut.

    `closed`: a Close frame has passed, and nothing after it does. `violation`: what was met, and
    nothing from there on passes. `at_boundary`: what has passed ends where a frame does.

    Args:
        masked: frames must be masked, as a client's must; a server's must not.
        compressed: permessage-deflate was agreed upon.
        on_text: is given the pieces of each text that is not compressed, and whether one ends it.
    """

    __slots__ = (
        "_compressed",
        "_decoder",
        "_final",
        "_fragments",
        "_held",
        "_left",
        "_mask",
        "_masked",
        "_on_text",
        "_open",
        "_size",
        "at_boundary",
        "closed",
        "violation",
    )

    def __init__(
        self,
        *,
        masked: bool,
        compressed: bool,
        on_text: Callable[[bytes, bool], None] | None = None,
    ) -> None:
        self.closed = False
        self.violation: ProtocolViolation | None = None
        self.at_boundary = True
        self._masked = masked
        self._compressed = compressed
        self._on_text = on_text
        self._held = b""
        # The frame whose payload comes: what is left of it, its mask, and whether it ends its
        # message.
        self._left = 0
        self._mask = b""
        self._final = True
        # The message: whether more frames of it must come, and what it has by now.
        self._open = False
        self._size = 0
        self._fragments = 0
        self._decoder: IncrementalDecoder | None = None

    def __repr__(self) -> str:
        state = "closed" if self.closed else self.violation or f"{self._left} bytes left"
        return f"<FrameTracker {state}, {len(self._held)} held, message of {self._size} bytes>"

    @property
    def finished(self) -> bool:
        """Whether nothing more will pass."""
        return self.closed or self.violation is not None

    def feed(self, data: bytes) -> bytes:
        """Follow bytes as they came; returns what may pass now."""
        if self.finished:
            return b""
        if self._held:
            data, self._held = self._held + data, b""
        sound = 0
        try:
            if self._left:
                sound = self._payload(data, 0)
            while sound < len(data) and not self.finished:
                self.at_boundary = True
                end = self._frame(data, sound)
                if end == sound:
                    self._held = data[sound:]
                    return data[:sound]
                sound = end
            self.at_boundary = not self._left
        except ProtocolViolation as violation:
            self.violation = violation
        return data if sound == len(data) else data[:sound]

    def _frame(self, data: bytes, start: int) -> int:
        """Where a frame, or what has come of it, ends; `start` if it has to be held."""
        if len(data) < start + 2:
            return start
        first, second = data[start], data[start + 1]
        opcode, length = first & _OPCODE, second & _LENGTH
        self._check(first, second, opcode, length)
        at = start + 2
        if length >= _SHORT:
            size = _LENGTH_SIZE[length]
            length = int.from_bytes(data[at : at + size])
            at += size
        mask = b""
        if self._masked:
            mask = data[at : at + MASK_BYTES]
            at += MASK_BYTES
        if len(data) < (at + length if opcode >= CLOSE else at):
            return start
        if opcode >= CLOSE:
            if opcode == CLOSE:
                _check_close(apply_mask(data[at : at + length], mask))
                self.closed = True
            return at + length
        self._begin(first, opcode, length)
        self._left, self._mask = length, mask
        return self._payload(data, at)

    def _check(self, first: int, second: int, opcode: int, length: int) -> None:
        """Raise for what the first two bytes may not say."""
        reserved = first & _RESERVED
        if reserved and not (self._compressed and reserved == _COMPRESSED and 0 < opcode < CLOSE):
            raise ProtocolViolation(PROTOCOL_ERROR, "reserved bits are set")
        if bool(second & _MASKED) != self._masked:
            wrong = "not masked" if self._masked else "masked"
            raise ProtocolViolation(PROTOCOL_ERROR, f"the frame is {wrong}")
        if opcode >= CLOSE:
            if opcode > PONG:
                raise ProtocolViolation(PROTOCOL_ERROR, f"opcode {opcode} is unknown")
            if not first & _FIN or length >= _SHORT:
                raise ProtocolViolation(
                    PROTOCOL_ERROR, "a control frame is fragmented or too long"
                )
        elif opcode > TEXT + 1:
            raise ProtocolViolation(PROTOCOL_ERROR, f"opcode {opcode} is unknown")
        elif (opcode == CONTINUATION) != self._open:
            wrong = "inside another" if self._open else "without its beginning"
            raise ProtocolViolation(PROTOCOL_ERROR, f"a message came {wrong}")

    def _begin(self, first: int, opcode: int, length: int) -> None:
        """Note the head of a data frame. Raises for a message that grows too large."""
        if opcode == CONTINUATION:
            self._size += length
            self._fragments += 1
        else:
            self._size, self._fragments = length, 1
            self._decoder = _utf8() if opcode == TEXT and not first & _COMPRESSED else None
        if self._size > MESSAGE_LIMIT:
            raise ProtocolViolation(
                MESSAGE_TOO_BIG, f"a message has {self._size} bytes of {MESSAGE_LIMIT} at most"
            )
        if self._fragments > FRAGMENTS_LIMIT:
            raise ProtocolViolation(
                MESSAGE_TOO_BIG, f"a message has more than {FRAGMENTS_LIMIT} fragments"
            )
        self._final = bool(first & _FIN)
        self._open = not self._final

    def _payload(self, data: bytes, at: int) -> int:
        """Where what has come of a data frame's payload ends."""
        end = min(at + self._left, len(data))
        left = self._left - (end - at)
        if self._decoder is not None:
            self._read(
                self._decoder, apply_mask(data[at:end], self._mask), self._final and not left
            )
        turn = (end - at) % MASK_BYTES
        self._mask = self._mask[turn:] + self._mask[:turn]
        self._left = left
        return end

    def _read(self, decoder: "IncrementalDecoder", piece: bytes, last: bool) -> None:
        """Read a piece of a text message. Raises for what is not UTF-8."""
        try:
            decoder.decode(piece, last)
        except UnicodeDecodeError:
            raise ProtocolViolation(INVALID_PAYLOAD, "a text message is not UTF-8") from None
        if self._on_text is not None:
            self._on_text(piece, last)


def close_frame(code: int, reason: str, mask: bytes = b"") -> bytes:
    """A Close frame; with a mask, as clients must send it. `reason` may have 123 bytes."""
    payload = code.to_bytes(2) + reason.encode()
    head = bytes([_FIN | CLOSE, (_MASKED if mask else 0) | len(payload)])
    return head + mask + apply_mask(payload, mask)


def apply_mask(payload: bytes, mask: bytes) -> bytes:
    """A payload without its mask, or with it: masking is its own inverse (RFC 6455, 5.3)."""
    if not mask:
        return payload
    size = len(payload)
    key = (mask * (size // MASK_BYTES + 1))[:size]
    # One operation on long numbers is by far the fastest that Python itself has.
    return (int.from_bytes(payload, "little") ^ int.from_bytes(key, "little")).to_bytes(
        size, "little"
    )


def _check_close(payload: bytes) -> None:
    """Raise for a Close frame's payload that may not be sent. None at all may: no code."""
    if not payload:
        return
    code = int.from_bytes(payload[:2])
    if len(payload) < 2 or not _is_sendable(code):
        raise ProtocolViolation(PROTOCOL_ERROR, f"close code {code} is none to be sent")
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        raise ProtocolViolation(INVALID_PAYLOAD, "a close reason is not UTF-8") from None


def _is_sendable(code: int) -> bool:
    """Whether a close code may stand in a frame: 1005, 1006 and 1015 are for what came without
    one (RFC 6455, 7.4; IANA's registry knows those up to 1014)."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999
