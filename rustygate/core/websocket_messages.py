"""The messages of a WebSocket: which of them pass, which wait, which are read.

A client's `response.create` starts a turn, and waits until the turn is admitted. What the client
sends after it waits behind it, because it may change what a later turn does; only audio passes,
since a microphone must not stall. The type of a message is usually known from its beginning, so
that others pass as they arrive.

Messages are kept and passed on as they came. A compressed one may refer to those before it. Once a
turn was dropped, or audio has overtaken a turn, upstream does not have all of them in their order.
From then on an uncompressed copy goes in the place of each (RFC 7692, 6.1: each message may be
either). Compressing it again would not restore the bytes either.
"""

from codecs import BOM_UTF8
from collections import deque
from collections.abc import Callable, Iterator
from enum import IntEnum

from rustygate.core.ambiguous_json import is_ambiguous
from rustygate.core.websocket_events import (
    AUDIO_PREFIX,
    BEGINNING_BYTES,
    CREATE,
    CREATE_ITEM,
    READ_EVENTS,
    USUAL_BEGINNING,
    event_type,
)
from rustygate.core.websocket_frames import (
    INVALID_PAYLOAD,
    OPCODE,
    PASS,
    TAKE,
    WATCH,
    Fate,
    MessageObserver,
    ProtocolViolation,
    frame,
)


class Kind(IntEnum):
    """What a client's message is; `UNKNOWN` until enough of it has arrived."""

    UNKNOWN = 0
    TURN = 1
    ITEM = 2
    AUDIO = 3
    OTHER = 4


_UNKNOWN, _TURN, _ITEM, _AUDIO, _OTHER = Kind


# Events that add text to a response. They are read together, because each alone would cost more.
DELTAS = b"deltas"
DELTAS_AT_ONCE = 64
_DELTA = b".delta"

# A longer event is audio.
DELTA_BYTES = 4096

_USUAL_TURN = USUAL_BEGINNING + CREATE + b'"'
_USUAL_TURN_BYTES = len(_USUAL_TURN)
_USUAL_ITEM = (USUAL_BEGINNING + CREATE_ITEM)[:_USUAL_TURN_BYTES]
_TYPE_AT = len(USUAL_BEGINNING)

# How much of a new item of the conversation is kept to be read. A longer one is hardly text.
ITEM_BYTES = 64 * 1024


class ClientMessage:
    """A client's message that waits.

    `is_held`: it is a turn that has not been admitted. `is_dropped`: it does not go upstream.

    Args:
        frames: its frames as they came; empty if it was too large to be kept.
        text: its payload if that may be needed.
    """

    __slots__ = ("frames", "is_compressed", "is_dropped", "is_held", "is_turn", "text")

    def __init__(
        self, frames: bytes, text: bytes | None, *, is_turn: bool, is_compressed: bool
    ) -> None:
        self.frames = frames
        self.text = text
        self.is_turn = self.is_held = is_turn
        self.is_compressed = is_compressed
        self.is_dropped = False

    @property
    def size(self) -> int:
        """The bytes that it takes."""
        return len(self.frames) + len(self.text or b"")


class ClientMessages(MessageObserver):
    """Observes a client's messages, and keeps those that wait.

    `waiting`: the messages that wait, in order; the first one is a turn. `size`: the bytes kept.

    Args:
        on_kept: called after more has been kept, with the message if it is complete and waits.
        on_item: called with the beginning and the size of an event that adds an item to the
            conversation.
        new_mask: makes the mask for a frame.
        keeps_context: compressed messages may refer to earlier ones.
        checks_types: a message counts as a turn if readers may disagree about its type. No
            message passes before it is complete.
    """

    def __init__(
        self,
        on_kept: Callable[[ClientMessage | None], None],
        on_item: Callable[[bytes, int], None],
        new_mask: Callable[[], bytes],
        *,
        keeps_context: bool = True,
        checks_types: bool = False,
    ) -> None:
        self.waiting: deque[ClientMessage] = deque()
        self.size = 0
        self._on_kept = on_kept
        self._on_item = on_item
        self._new_mask = new_mask
        self._keeps_context = keeps_context
        self._checks_types = checks_types
        # Whether upstream has not got all compressed messages in their order.
        self._is_out_of_step = False
        # The current message, as far as it has been taken.
        self._kind = _OTHER
        self._frames = bytearray()
        self._text = bytearray()
        self._is_readable = True
        self._is_dropped = False
        # The current item of the conversation, as far as it is kept, and its size.
        self._item = bytearray()
        self._item_size = 0

    def __repr__(self) -> str:
        return f"<ClientMessages {len(self.waiting)} waiting, {self.size} bytes>"

    # Called by the tracker.

    def read(self, piece: bytes | None, first: bool, last: bool) -> Fate:
        if first:
            passes = not (self.waiting or self._is_out_of_step or self._checks_types)
            if passes and piece is not None and _is_usual_other(piece):
                return PASS
            kind = _OTHER if piece is None else self._kind_of(piece, last)
            if passes and kind >= _AUDIO:
                return PASS
            self._kind, self._is_readable, self._is_dropped = kind, True, False
            self._item, self._item_size = bytearray(), 0
        elif self._kind is _UNKNOWN:
            self._kind = self._kind_with(piece, last)
            if self._kind is _ITEM:
                self._item, self._item_size = self._text[:ITEM_BYTES], len(self._text)
        if piece is None:
            self._is_readable = False
        elif self._kind is _ITEM:
            self._note_item(piece, last)
        if not self._must_be_kept():
            return WATCH if self._kind is _ITEM else PASS
        if piece and (self.compressed or self._kind <= _TURN) and not self._is_dropped:
            self._text += piece
            self.size += len(piece)
        return TAKE

    def take(self, frame: bytes, last: bool) -> bytes:
        if not self._is_dropped:
            self._frames += frame
            self.size += len(frame)
        if last:
            return self._complete()
        self._on_kept(None)
        return b""

    def release(self) -> bytes:
        released = bytes(self._frames)
        self._forget_current()
        return released

    # Called by `relay.websocket_turns`.

    def admit(self, turn: ClientMessage) -> None:
        """Let a turn pass once all before it do."""
        turn.is_held = False

    def drop(self, turn: ClientMessage) -> None:
        """Keep nothing of a turn that does not go upstream."""
        self.size -= turn.size
        turn.frames, turn.text = b"", None
        turn.is_held, turn.is_dropped = False, True

    def take_passing(self) -> Iterator[bytes]:
        """Remove the messages before the first turn that is held. Yields the bytes to write."""
        while self.waiting and not self.waiting[0].is_held:
            message = self.waiting.popleft()
            self.size -= message.size
            if message.is_dropped:
                self._lose_step(message.is_compressed)
            else:
                yield self._wire_format(message)

    def drop_current(self) -> None:
        """Keep nothing of a message that is being taken and may be a turn. Once complete it waits
        as a turn without contents."""
        if self._frames and self._kind <= _TURN:
            self._is_dropped = True
            self._forget_current()

    def clear(self) -> None:
        """Drop all that is kept."""
        self.waiting.clear()
        self._frames, self._text = bytearray(), bytearray()
        self.size = 0

    # The current message.

    def _kind_with(self, piece: bytes | None, last: bool) -> Kind:
        if piece is None or self._is_dropped:
            return _OTHER if piece is None else _UNKNOWN
        if not last and len(self._text) >= BEGINNING_BYTES:
            return _UNKNOWN
        text = self._text + piece
        passes = not (self.waiting or self._is_out_of_step or self._checks_types)
        if passes and _is_usual_other(text):
            return _OTHER
        return self._kind_of(text, last)

    def _kind_of(self, text: bytes | bytearray, whole: bool) -> Kind:
        if self._checks_types:
            if not whole:
                return _UNKNOWN
            if text.startswith(BOM_UTF8) or is_ambiguous(bytes(text), "type"):
                return _TURN
        return _kind(event_type(text, whole))

    def _note_item(self, piece: bytes, last: bool) -> None:
        self._item_size += len(piece)
        self._item += piece[: max(0, ITEM_BYTES - len(self._item))]
        if last:
            item, self._item = bytes(self._item), bytearray()
            self._on_item(item, self._item_size)

    def _must_be_kept(self) -> bool:
        """Whether the current message does not pass as it arrives."""
        if self._kind <= _TURN:
            return True
        if self._kind is _AUDIO:
            # It overtakes those that wait.
            self._lose_step(self.compressed and bool(self.waiting))
        elif self.waiting:
            return True
        if not (self.compressed and self._is_out_of_step):
            return False
        if not self._is_readable:
            raise ProtocolViolation(INVALID_PAYLOAD, "a compressed message cannot be inflated")
        return True

    def _complete(self) -> bytes:
        """The current message has been taken as a whole. Returns what passes now."""
        is_turn = self._kind <= _TURN
        is_needed = self._is_readable and (is_turn or self.compressed)
        text = bytes(self._text) if is_needed else None
        message = ClientMessage(
            bytes(self._frames), text, is_turn=is_turn, is_compressed=self.compressed
        )
        self._forget_current()
        if not is_turn and (self._kind is _AUDIO or not self.waiting):
            return self._wire_format(message)
        self.waiting.append(message)
        self.size += message.size
        self._on_kept(message)
        return b""

    def _forget_current(self) -> None:
        self.size -= len(self._frames) + len(self._text)
        self._frames, self._text = bytearray(), bytearray()

    # The order of compressed messages.

    def _lose_step(self, lost: bool) -> None:
        """Upstream does not get a compressed message, or not in its order, if `lost`."""
        if lost and self._keeps_context:
            self._is_out_of_step = True

    def _wire_format(self, message: ClientMessage) -> bytes:
        """The bytes of a message on the way upstream."""
        if message.is_compressed and self._is_out_of_step and message.text is not None:
            return frame(message.frames[0] & OPCODE, message.text, self._new_mask())
        return message.frames


class UpstreamMessages(MessageObserver):
    """Observes upstream's messages, and reports the events that the gate reads.

    Those that add text to a response are reported in batches, as the lines of an event stream.

    Args:
        on_event: called with the type and the whole text of an event, or with `DELTAS` and lines.
    """

    def __init__(self, on_event: Callable[[bytes, bytes], object]) -> None:
        self._on_event = on_event
        self._deltas: list[bytes] = []
        self._type: bytes | None = None
        self._text = bytearray()

    def __repr__(self) -> str:
        return f"<UpstreamMessages {len(self._text)} bytes of {self._type!r}>"

    def read(self, piece: bytes | None, first: bool, last: bool) -> Fate:
        if piece is None:
            return PASS
        if first:
            if piece.startswith(USUAL_BEGINNING):
                end = piece.find(b'"', _TYPE_AT)
                name = piece[_TYPE_AT:end]
                if end > 0 and name not in READ_EVENTS and b"\\" not in name:
                    self._note_if_delta(name, piece, last)
                    return PASS
            kind = event_type(piece, last)
            if kind is not None and kind not in READ_EVENTS:
                self._note_if_delta(kind, piece, last)
                return PASS
            self._type, self._text = kind, bytearray()
        elif self._type is None and (last or len(self._text) < BEGINNING_BYTES):
            self._type = event_type(self._text + piece, last)
            if self._type is not None and self._type not in READ_EVENTS:
                return PASS
        self._text += piece
        if last and self._type is not None:
            text, self._text = bytes(self._text), bytearray()
            if self._deltas:
                self._on_event(DELTAS, self.take_deltas())
            self._on_event(self._type, text)
        return WATCH

    def take_deltas(self) -> bytes:
        """The deltas that have not been reported."""
        lines = b"".join(b"data: %b\n\n" % delta for delta in self._deltas)
        self._deltas.clear()
        return lines

    def _note_if_delta(self, kind: bytes, event: bytes, whole: bool) -> None:
        if not (whole and kind.endswith(_DELTA) and len(event) < DELTA_BYTES):
            return
        self._deltas.append(event)
        if len(self._deltas) >= DELTAS_AT_ONCE:
            self._on_event(DELTAS, self.take_deltas())


def _kind(event: bytes | None) -> Kind:
    if event is None:
        return _UNKNOWN
    if event == CREATE:
        return _TURN
    if event == CREATE_ITEM:
        return _ITEM
    return _AUDIO if event.startswith(AUDIO_PREFIX) else _OTHER


def _is_usual_other(piece: bytes | bytearray) -> bool:
    """Whether a message begins as most do, with a type that is not that of a turn or an item.

    This is what most messages cost; `event_type` takes three times as long.
    """
    beginning = piece[:_USUAL_TURN_BYTES]
    return (
        beginning.startswith(USUAL_BEGINNING)
        and beginning != _USUAL_TURN
        and beginning != _USUAL_ITEM
        and len(beginning) == _USUAL_TURN_BYTES
        and b"\\" not in beginning
    )
