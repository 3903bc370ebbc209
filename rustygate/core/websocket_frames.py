"""WebSocket frames, as far as the relay needs them (RFC 6455, 5; RFC 7692, 6).

The relay passes on the bytes it reads, masks and compression included, and a `FrameTracker` says
how many of them may pass. It follows where frames and messages begin and end, which also shows
where the gate may insert frames of its own. Bytes that no endpoint has to accept are a
`ProtocolViolation`, and do not pass.

The header of a frame is held until it is complete, and so is a whole control frame. Other payloads
are not kept. A `MessageObserver` reads the messages from a copy without mask and compression, and
decides which of them do not pass yet.
"""

from codecs import getincrementaldecoder
from enum import IntEnum
from typing import TYPE_CHECKING

from rustygate.core.websocket_compression import MessageInflater

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

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

_FIN, _RESERVED, COMPRESSED, OPCODE = 0x80, 0x70, 0x40, 0x0F
_MASKED, _LENGTH = 0x80, 0x7F
_WHOLE_TEXT = _FIN | TEXT
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


class Fate(IntEnum):
    """What happens to a message; its observer decides with each piece.

    A message that is taken can still be passed on later, but not the other way round.
    """

    PASS = 0
    WATCH = 1
    TAKE = 2


PASS, WATCH, TAKE = Fate


class MessageObserver:
    """Reads the messages of one side, and decides which of them pass.

    `compressed`: the current message is; set by the tracker.
    """

    compressed = False

    def read(self, piece: bytes | None, first: bool, last: bool) -> Fate:
        """Read a piece of a message; None if it cannot be inflated.

        PASS: the rest of the message is of no interest. WATCH: it passes, but is read to its end.
        TAKE: the frame does not pass; the observer gets it from `take`.
        """
        raise NotImplementedError

    def take(self, frame: bytes, last: bool) -> bytes:
        """Take a frame of the message, or a part of one. Returns what passes in its place."""
        raise NotImplementedError

    def release(self) -> bytes:
        """The frames that were taken of a message that passes after all."""
        raise NotImplementedError


class FrameTracker:
    """Follows the bytes from one side, however they are cut.

    `closed`: a Close frame has passed, and nothing passes after it. `violation`: the first
    violation; nothing passes from there on. `at_boundary`: the bytes passed end with a frame.

    Args:
        masked: frames must be masked (from a client) or must not be (from a server).
        compressed: the two sides negotiated permessage-deflate.
        observer: reads the messages; None lets them all pass.
        keeps_context: compressed messages may refer to earlier ones.
    """

    __slots__ = (
        "_bytes_left",
        "_compressed",
        "_decoder",
        "_detours",
        "_fragments",
        "_held",
        "_in_message",
        "_inflated",
        "_inflater",
        "_inserts",
        "_is_final",
        "_is_first",
        "_is_inflating",
        "_is_own_pong",
        "_is_released",
        "_is_taken",
        "_is_text",
        "_mask",
        "_masked",
        "_observed",
        "_observer",
        "_passed",
        "_ping",
        "_pongs_due",
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
        observer: MessageObserver | None = None,
        keeps_context: bool = True,
    ) -> None:
        self.closed = False
        self.violation: ProtocolViolation | None = None
        self.at_boundary = True
        self._masked = masked
        self._compressed = compressed
        self._observer = observer
        self._held = b""
        # The current frame: payload bytes still to come, its mask, and whether it ends a message.
        self._bytes_left = 0
        self._mask = b""
        self._is_final = True
        # The current message: whether more frames of it must come, its bytes and frames so far.
        self._in_message = False
        self._size = 0
        self._fragments = 0
        # `_is_text`: it must be UTF-8, which the decoder checks.
        self._is_text = False
        self._decoder: IncrementalDecoder | None = None
        # Its observer: whether it reads on, and whether it takes the frames. A message remains
        # the current one until the next begins.
        self._observed = self._is_first = self._is_taken = False
        self._inflater = _inflater(compressed and observer is not None, keeps_context)
        self._is_inflating = False
        self._inflated = 0
        # What does not pass as it arrives. `_detours`: there may be such a frame. `_passed`: what
        # passes before the bytes not yet looked at, while there is.
        self._detours = False
        self._passed: list[bytes] = []
        self._is_released = self._is_own_pong = False
        self._inserts: list[bytes] = []
        self._ping = b""
        self._pongs_due = 0

    def __repr__(self) -> str:
        state = "closed" if self.closed else self.violation or f"{self._bytes_left} bytes left"
        return f"<FrameTracker {state}, {len(self._held)} held, message of {self._size} bytes>"

    @property
    def finished(self) -> bool:
        """Whether nothing more will pass."""
        return self.closed or self.violation is not None

    @property
    def between_messages(self) -> bool:
        """Whether the bytes passed end with a message. Control frames do not count."""
        return self._is_taken or not (self._in_message or self._bytes_left)

    def insert(self, message: bytes) -> bytes:
        """Add a message of the gate's own. Returns what to write now: all of it between two
        messages, otherwise nothing; then it follows in what `feed` returns."""
        if self.between_messages and not self._inserts:
            return message
        self._inserts.append(message)
        self._detours = True
        return b""

    def expect_pong(self, payload: bytes) -> None:
        """Drop the pong to a ping of the gate's own."""
        self._ping = payload
        self._pongs_due += 1

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes. Returns those that may pass now, with any held before."""
        if self.closed or self.violation is not None:
            return b""
        if self._held:
            data, self._held = self._held + data, b""
        start = at = 0
        size = len(data)
        try:
            if self._bytes_left:
                at = self._payload(data, 0)
                if self._detours:
                    start = self._detour(data, 0, 0, at, is_control=False)
            while at < size and not self.closed:
                self.at_boundary = True
                end = self._frame(data, at)
                if end == at:
                    self._held, size = data[at:], at
                elif self._detours:
                    is_control = data[at] & OPCODE >= CLOSE
                    start = self._detour(data, start, at, end, is_control=is_control)
                at = end
            self.at_boundary = self._is_taken or not self._bytes_left
        except ProtocolViolation as violation:
            self.violation = violation
        if start or self._passed:
            return self._join(data[start:at])
        return data if at == len(data) else data[:at]

    def _detour(self, data: bytes, start: int, at: int, end: int, *, is_control: bool) -> int:
        """Handle the frame `data[at:end]`, or the part of one, which may not simply pass after
        `data[start:at]`. Returns where the next bytes that pass begin."""
        observer = self._observer
        if self._is_released and observer is not None:
            self._passed += (data[start:at], observer.release())
            start = at
        if self._is_own_pong:
            self._passed.append(data[start:at])
            start = end
        elif self._is_taken and not is_control and observer is not None:
            last = self._is_final and not self._bytes_left
            self._passed += (data[start:at], observer.take(data[at:end], last))
            start = end
        if self._inserts and self.between_messages:
            self._passed += (data[start:end], *self._inserts)
            self._inserts.clear()
            start = end
        self._is_released = self._is_own_pong = False
        self._detours = self._is_taken or bool(self._inserts)
        return start

    def _join(self, rest: bytes) -> bytes:
        """All that passes."""
        passed = b"".join((*self._passed, rest))
        self._passed.clear()
        return passed

    def _frame(self, data: bytes, start: int) -> int:
        """Take a frame, or the part of it that is there. Returns its end.

        Returns `start` if the bytes must be held until more arrive.
        """
        if len(data) < start + 2:
            return start
        first, second = data[start], data[start + 1]
        opcode, length = first & OPCODE, second & _LENGTH
        # A text message in one frame, as most are, needs no further checks.
        if first != _WHOLE_TEXT or self._in_message or second >> 7 != self._masked:
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
            self._control(opcode, apply_mask(data[at : at + length], mask))
            return at + length
        self._begin_data_frame(first, opcode, length)
        self._bytes_left, self._mask = length, mask
        return self._payload(data, at)

    def _control(self, opcode: int, payload: bytes) -> None:
        """Take a control frame."""
        if opcode == CLOSE:
            _check_close(payload)
            self.closed = True
        elif opcode == PONG and self._pongs_due and payload == self._ping:
            self._pongs_due -= 1
            self._is_own_pong = self._detours = True

    def _check_header(self, first: int, second: int, opcode: int, length: int) -> None:
        """Raise if the first two bytes of a frame are invalid."""
        reserved = first & _RESERVED
        if reserved and not (self._compressed and reserved == COMPRESSED and 0 < opcode < CLOSE):
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
            self._is_text = opcode == TEXT and not first & COMPRESSED
            self._observed = self._observer is not None
            self._is_first, self._is_taken = True, False
            if self._inflater is not None and self._observer is not None:
                self._is_inflating = self._observer.compressed = bool(first & COMPRESSED)
                self._inflated = 0
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
        if self._observed or self._is_text or self._is_inflating:
            piece = apply_mask(data[at:end], self._mask)
            self._read(piece, self._is_final and not left)
        shift = (end - at) % MASK_BYTES
        self._mask = self._mask[shift:] + self._mask[:shift]
        self._bytes_left = left
        return end

    def _read(self, piece: bytes, last: bool) -> None:
        """Read a piece of a message. Raises if it is text and not UTF-8, or inflates too far."""
        first, self._is_first = self._is_first, False
        plain: bytes | None = piece
        if self._is_text:
            # Most messages come in one piece, and this is much faster than a decoder.
            if not (first and last and piece.isascii()):
                self._check_text(piece, first, last)
        elif self._is_inflating:
            plain = self._inflate(piece, last)
        if not self._observed or self._observer is None:
            return
        fate = self._observer.read(plain, first, last)
        if fate is TAKE:
            self._is_taken = self._detours = True
            return
        self._observed = fate is WATCH
        if self._is_taken:
            self._is_taken = False
            self._is_released = self._detours = True

    def _check_text(self, piece: bytes, first: bool, last: bool) -> None:
        if first or self._decoder is None:
            self._decoder = _utf8()
        try:
            self._decoder.decode(piece, last)
        except UnicodeDecodeError:
            raise ProtocolViolation(INVALID_PAYLOAD, "a text message is not UTF-8") from None

    def _inflate(self, piece: bytes, last: bool) -> bytes | None:
        assert self._inflater is not None
        plain = self._inflater.inflate(piece, last, MESSAGE_LIMIT + 1 - self._inflated)
        if plain is not None:
            self._inflated += len(plain)
            if self._inflated > MESSAGE_LIMIT:
                raise ProtocolViolation(
                    MESSAGE_TOO_BIG, f"a message inflates to more than {MESSAGE_LIMIT} bytes"
                )
        return plain


def close_frame(code: int, reason: str, mask: bytes = b"") -> bytes:
    """A Close frame, masked if there is a mask. `reason` may have up to 123 bytes."""
    return frame(CLOSE, code.to_bytes(2) + reason.encode(), mask)


def frame(opcode: int, payload: bytes, mask: bytes = b"") -> bytes:
    """A whole message or a control frame of the gate's own, masked if there is a mask."""
    size, masked = len(payload), _MASKED if mask else 0
    head = bytes([_FIN | opcode])
    if size < _EXTENDED_LENGTH:
        head += bytes([masked | size])
    elif size < 1 << 16:
        head += bytes([masked | 126]) + size.to_bytes(2)
    else:
        head += bytes([masked | 127]) + size.to_bytes(8)
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


def _inflater(compressed: bool, keeps_context: bool) -> MessageInflater | None:
    return MessageInflater(keeps_context=keeps_context) if compressed else None


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
