"""WebSocket frames, as far as the relay needs them (RFC 6455, 5; RFC 7692, 6).

Frames are never rebuilt. The relay passes on the bytes it reads, masks and compression included,
and a `FrameTracker` says how many of them may pass. It follows where frames and messages begin and
end, which also shows where the gate may insert a Close frame of its own. Bytes that no endpoint
has to accept are a `ProtocolViolation`, and do not pass.

The header of a frame is held until it is complete, and so is a whole control frame. Other payloads
are not kept. A compressed message is not inflated: the endpoints check its contents.
"""

from codecs import getincrementaldecoder
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codecs import IncrementalDecoder

# Larger messages are rejected. OpenAI's own limit for an event is 15 MiB (append audio).
MESSAGE_LIMIT = 16 * 2**20

# No real client sends a message in more fragments. At 256 bytes each they make 16 MiB.
FRAGMENTS_LIMIT = 65_536

# Close codes (RFC 6455, 7.4.1).
GOING_AWAY = 1001
PROTOCOL_ERROR = 1002
INVALID_PAYLOAD = 1007
MESSAGE_TOO_BIG = 1009
INTERNAL_ERROR = 1011

CONTINUATION, TEXT, BINARY, CLOSE, PONG = 0x0, 0x1, 0x2, 0x8, 0xA

_FIN, _RESERVED, _COMPRESSED, _OPCODE = 0x80, 0x70, 0x40, 0x0F
_MASKED, _LENGTH = 0x80, 0x7F
MASK_BYTES = 4

# A control frame's payload is shorter than this. Longer lengths follow in 2 or 8 bytes.
_EXTENDED_LENGTH = 126
_EXTENDED_LENGTH_BYTES = {126: 2, 127: 8}

_utf8 = getincrementaldecoder("utf-8")


class ProtocolViolation(Exception):
    """Bytes that no endpoint has to accept. `code` is the close code for their sender."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class FrameTracker:
    """Follows the bytes from one side, however they are cut.

    `closed`: a Close frame has passed, and nothing passes after it. `violation`: the first
    violation; nothing passes from there on. `at_boundary`: the bytes passed end with a frame.

    Args:
        masked: frames must be masked (from a client) or must not be (from a server).
        compressed: the two sides negotiated permessage-deflate.
        on_text: called with each piece of an uncompressed text message, and whether it is the
            last one.
    """

    __slots__ = (
        "_bytes_left",
        "_compressed",
        "_decoder",
        "_fragments",
        "_held",
        "_in_message",
        "_is_final",
        "_mask",
        "_masked",
        "_on_text",
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
        # The current frame: payload bytes still to come, its mask, and whether it ends a message.
        self._bytes_left = 0
        self._mask = b""
        self._is_final = True
        # The current message: whether more frames of it must come, its bytes and frames so far.
        self._in_message = False
        self._size = 0
        self._fragments = 0
        self._decoder: IncrementalDecoder | None = None

    def __repr__(self) -> str:
        state = "closed" if self.closed else self.violation or f"{self._bytes_left} bytes left"
        return f"<FrameTracker {state}, {len(self._held)} held, message of {self._size} bytes>"

    @property
    def finished(self) -> bool:
        """Whether nothing more will pass."""
        return self.closed or self.violation is not None

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes. Returns those that may pass now, with any held before."""
        if self.finished:
            return b""
        if self._held:
            data, self._held = self._held + data, b""
        valid = 0
        try:
            if self._bytes_left:
                valid = self._payload(data, 0)
            while valid < len(data) and not self.finished:
                self.at_boundary = True
                end = self._frame(data, valid)
                if end == valid:
                    self._held = data[valid:]
                    return data[:valid]
                valid = end
            self.at_boundary = not self._bytes_left
        except ProtocolViolation as violation:
            self.violation = violation
        return data if valid == len(data) else data[:valid]

    def _frame(self, data: bytes, start: int) -> int:
        """Take a frame, or the part of it that is there. Returns its end.

        Returns `start` if the bytes must be held until more arrive.
        """
        if len(data) < start + 2:
            return start
        first, second = data[start], data[start + 1]
        opcode, length = first & _OPCODE, second & _LENGTH
        self._check_header(first, second, opcode, length)
        at = start + 2
        if length >= _EXTENDED_LENGTH:
            size = _EXTENDED_LENGTH_BYTES[length]
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
        self._begin_data_frame(first, opcode, length)
        self._bytes_left, self._mask = length, mask
        return self._payload(data, at)

    def _check_header(self, first: int, second: int, opcode: int, length: int) -> None:
        """Raise if the first two bytes of a frame are invalid."""
        reserved = first & _RESERVED
        if reserved and not (self._compressed and reserved == _COMPRESSED and 0 < opcode < CLOSE):
            raise ProtocolViolation(PROTOCOL_ERROR, "reserved bits are set")
        if bool(second & _MASKED) != self._masked:
            found = "not masked" if self._masked else "masked"
            raise ProtocolViolation(PROTOCOL_ERROR, f"the frame is {found}")
        if opcode >= CLOSE:
            if opcode > PONG:
                raise ProtocolViolation(PROTOCOL_ERROR, f"opcode {opcode} is unknown")
            if not first & _FIN or length >= _EXTENDED_LENGTH:
                raise ProtocolViolation(
                    PROTOCOL_ERROR, "a control frame is fragmented or too long"
                )
        elif opcode > BINARY:
            raise ProtocolViolation(PROTOCOL_ERROR, f"opcode {opcode} is unknown")
        elif (opcode == CONTINUATION) != self._in_message:
            wrong = "starts inside another" if self._in_message else "continues without a start"
            raise ProtocolViolation(PROTOCOL_ERROR, f"a message {wrong}")

    def _begin_data_frame(self, first: int, opcode: int, length: int) -> None:
        """Note the header of a data frame. Raises if its message becomes too large."""
        if opcode == CONTINUATION:
            self._size += length
            self._fragments += 1
        else:
            self._size, self._fragments = length, 1
            self._decoder = _utf8() if opcode == TEXT and not first & _COMPRESSED else None
        if self._size > MESSAGE_LIMIT:
            raise ProtocolViolation(
                MESSAGE_TOO_BIG, f"a message has {self._size} bytes, more than {MESSAGE_LIMIT}"
            )
        if self._fragments > FRAGMENTS_LIMIT:
            raise ProtocolViolation(
                MESSAGE_TOO_BIG, f"a message has more than {FRAGMENTS_LIMIT} fragments"
            )
        self._is_final = bool(first & _FIN)
        self._in_message = not self._is_final

    def _payload(self, data: bytes, at: int) -> int:
        """Take the part of a data frame's payload that is there. Returns its end."""
        end = min(at + self._bytes_left, len(data))
        left = self._bytes_left - (end - at)
        if self._decoder is not None:
            text = apply_mask(data[at:end], self._mask)
            self._read_text(self._decoder, text, self._is_final and not left)
        shift = (end - at) % MASK_BYTES
        self._mask = self._mask[shift:] + self._mask[:shift]
        self._bytes_left = left
        return end

    def _read_text(self, decoder: "IncrementalDecoder", piece: bytes, last: bool) -> None:
        """Read a piece of a text message. Raises if it is not UTF-8."""
        try:
            decoder.decode(piece, last)
        except UnicodeDecodeError:
            raise ProtocolViolation(INVALID_PAYLOAD, "a text message is not UTF-8") from None
        if self._on_text is not None:
            self._on_text(piece, last)


def close_frame(code: int, reason: str, mask: bytes = b"") -> bytes:
    """A Close frame, masked if there is a mask. `reason` may have up to 123 bytes."""
    payload = code.to_bytes(2) + reason.encode()
    head = bytes([_FIN | CLOSE, (_MASKED if mask else 0) | len(payload)])
    return head + mask + apply_mask(payload, mask)


def apply_mask(payload: bytes, mask: bytes) -> bytes:
    """Mask a payload, or unmask it: the two are the same (RFC 6455, 5.3)."""
    if not mask:
        return payload
    size = len(payload)
    key = (mask * (size // MASK_BYTES + 1))[:size]
    # A single operation on long integers is by far the fastest way in pure Python.
    return (int.from_bytes(payload, "little") ^ int.from_bytes(key, "little")).to_bytes(
        size, "little"
    )


def _check_close(payload: bytes) -> None:
    """Raise if the payload of a Close frame is invalid. An empty one is valid: no code."""
    if not payload:
        return
    code = int.from_bytes(payload[:2])
    if len(payload) < 2 or not _is_sendable(code):
        raise ProtocolViolation(PROTOCOL_ERROR, f"close code {code} may not be sent")
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        raise ProtocolViolation(INVALID_PAYLOAD, "a close reason is not UTF-8") from None


def _is_sendable(code: int) -> bool:
    """Whether a close code may be sent in a frame.

    1005, 1006 and 1015 may not: they stand for a close without a code (RFC 6455, 7.4). IANA has
    registered codes up to 1014.
    """
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999
