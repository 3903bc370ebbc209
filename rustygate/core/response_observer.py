"""What is read in a response's body: its usage, its end, its text, and event boundaries.

It is read from a copy of what passed, in batches: passing a chunk on appends it to a list, and
all that costs more runs once for many chunks. Compressed bodies are read from an inflated copy.
How the bytes are cut makes no difference.

Bodies come from outside. Whatever is in them, an observer returns and does not raise.
"""

from collections.abc import Sequence

from rustygate.core.content_coding import Inflater
from rustygate.core.output_estimate import StreamEstimate, estimate_body
from rustygate.core.sse import EventBoundary
from rustygate.core.stream_end import StreamEnd, find_end
from rustygate.core.usage import USAGE_BYTES, Usage, find_usage

# How many bytes are scanned together.
BATCH_BYTES = 8 * 1024

# The longest event that is read as a whole. Some repeat the instructions and tools of the request.
EVENT_BYTES = 256 * 1024

# How much is kept of the last events, which may be the end of the stream.
LAST_BYTES = 2 * 1024

# How much of a plain body without usage is read for its text.
BODY_BYTES = 64 * 1024


class ResponseObserver:
    """Follows a body. Chunks are appended to `pending`; `scan` reads and clears it.

    Args:
        usage: the last usage in what was read.
    """

    __slots__ = ("_inflater", "pending", "usage")

    def __init__(self, codings: Sequence[str] = ()) -> None:
        self.pending: list[bytes] = []
        self.usage: Usage | None = None
        self._inflater = Inflater(codings) if codings else None

    @property
    def at_boundary(self) -> bool:
        """Whether the bytes so far end between two events of a stream."""
        return False

    @property
    def end(self) -> StreamEnd | None:
        """The end of a stream, if it has passed."""
        return None

    def scan(self) -> None:
        """Read what is pending."""
        data = b"".join(self.pending)
        self.pending.clear()
        self._note_bytes(data)
        if self._inflater is None:
            self._read(data)
        else:
            for piece in self._inflater.pieces(data):
                self._read(piece)

    def finish(self) -> None:
        """Read the rest, when nothing more will pass."""
        self.scan()

    def estimated_output(self) -> int | None:
        """The tokens in the text that passed, after `finish`; None if it is not known."""
        raise NotImplementedError

    def _note_bytes(self, data: bytes) -> None:
        """Note bytes as they passed, before they are inflated."""

    def _read(self, data: bytes) -> None:
        raise NotImplementedError


class BodyObserver(ResponseObserver):
    """Follows a body that is not an event stream.

    Args:
        has_output: whether a model writes the body, so that its text counts.
    """

    __slots__ = ("_has_output", "_size", "_start", "_tail")

    def __init__(self, codings: Sequence[str] = (), *, has_output: bool) -> None:
        super().__init__(codings)
        self._has_output = has_output
        self._start = self._tail = b""
        self._size = 0

    def estimated_output(self) -> int | None:
        if not self._has_output:
            return 0
        return estimate_body(self._start, self._size) or None

    def _read(self, data: bytes) -> None:
        # A usage may begin in what was read before.
        window = self._tail + data if self._tail else data
        self.usage = find_usage(window, self.usage)
        self._tail = window[-USAGE_BYTES:]
        self._size += len(data)
        if self._has_output and self.usage is None and len(self._start) < BODY_BYTES:
            self._start = (self._start + data)[:BODY_BYTES]


class StreamObserver(ResponseObserver):
    """Follows an event stream, event by event.

    Args:
        counts: whether tokens are counted at all.
        has_output: whether a model writes the stream, so that its text counts.
    """

    __slots__ = (
        "_boundary", "_counts", "_estimate", "_has_output", "_in_long_event", "_last", "_rest",
    )  # fmt: skip

    def __init__(self, codings: Sequence[str] = (), *, counts: bool, has_output: bool) -> None:
        super().__init__(codings)
        self._boundary = EventBoundary()
        self._counts = counts
        self._has_output = counts and has_output
        # From the first events that are read before a usage.
        self._estimate: StreamEstimate | None = None
        # The beginning of an event, or the last bytes of one that is too long.
        self._rest = b""
        self._in_long_event = False
        # The last events.
        self._last = b""

    @property
    def at_boundary(self) -> bool:
        if self.pending:
            self.scan()
        return bool(self._boundary)

    @property
    def end(self) -> StreamEnd | None:
        if self.pending:
            self.scan()
        return find_end(self._last)

    def finish(self) -> None:
        self.scan()
        if self._rest:
            self._read(_BLANK_LINE)

    def estimated_output(self) -> int | None:
        if not self._has_output:
            return 0
        output = 0 if self._estimate is None else self._estimate.tokens()
        # A compressed stream may be one that cannot be read.
        return output if output or self._inflater is None else None

    def _note_bytes(self, data: bytes) -> None:
        self._boundary.feed(data)

    def _read(self, data: bytes) -> None:
        data = self._rest + data
        if b"\r" in data:
            data = _with_lf(data)
        end = data.rfind(_BLANK_LINE)
        if end >= 0:
            end += len(_BLANK_LINE)
            self._read_events(data[:end])
            data = data[end:]
        self._rest = data
        if len(data) > EVENT_BYTES:
            self._cut_event()

    def _read_events(self, events: bytes) -> None:
        if self._in_long_event:
            self._in_long_event = False
            self._last += events[events.index(_BLANK_LINE) :]
        elif len(events) >= LAST_BYTES:
            self._last = events
        else:
            self._last += events
        self._last = _last_events(self._last)
        if self._counts:
            self._count(events)

    def _count(self, events: bytes) -> None:
        self.usage = find_usage(events, self.usage)
        # Some servers report the input before there is an output.
        if self._has_output and (self.usage is None or not self.usage.tokens_out):
            if self._estimate is None:
                self._estimate = StreamEstimate()
            self._estimate.feed(events)

    def _cut_event(self) -> None:
        """Read the part of an event that is too long to be read as a whole."""
        part, self._rest = self._rest, self._rest[-USAGE_BYTES:]
        is_first = not self._in_long_event
        self._in_long_event = True
        if is_first:
            self._last = part[:LAST_BYTES]
        if not self._counts:
            return
        if is_first:
            self._count(part)
        else:
            self.usage = find_usage(part, self.usage)
            if self._estimate is not None:
                self._estimate.skip(len(part) - USAGE_BYTES)


def _last_events(events: bytes) -> bytes:
    """The last events, of `LAST_BYTES` together or a little more; one that is longer only if it is
    the end of its stream."""
    start = events.rfind(_BLANK_LINE, 0, max(0, len(events) - LAST_BYTES))
    last = events if start < 0 else events[start + len(_BLANK_LINE) :]
    return last if len(last) <= 2 * LAST_BYTES or find_end(last) else b""


def _with_lf(lines: bytes) -> bytes:
    """Lines that end with LF instead of CRLF or CR; a CR at the end stays, as half of a CRLF."""
    last = b"\r" if lines.endswith(b"\r") else b""
    lines = lines.removesuffix(b"\r").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return lines + last


_BLANK_LINE = b"\n\n"
