"""Writes log lines to stderr without waiting for its reader.

If the reader of a pipe or a terminal stops, lines are kept in memory up to a limit. Lines
beyond it are lost and counted. A thread writes what was kept once the reader resumes.

Lines are written in lots of at most PIPE_BUF bytes, cut at the ends of lines. A pipe takes such a
lot whole (POSIX, `write`), so the lines of several processes do not mix.
"""

import os
import select
import stat
from collections import deque
from collections.abc import Callable, Iterator
from threading import Lock, Thread

# Some five thousand lines.
KEPT_LIMIT = 1024 * 1024

# How long a process that ends waits for a reader that has stopped.
CLOSE_TIMEOUT_S = 1.0


class LogOutput:
    """Writes lines to a file descriptor.

    Args:
        on_loss: called with the number of lost lines, once lines can be written again.
    """

    def __init__(self, descriptor: int, on_loss: Callable[[int], None]) -> None:
        self._descriptor = _own_end(descriptor) if _may_block(descriptor) else descriptor
        self._is_own = self._descriptor != descriptor
        self._on_loss = on_loss
        self._poll = self._new_poll()
        self._lock = Lock()
        self._kept: deque[bytes] = deque()
        self._kept_size = self._lost = 0
        self._thread: Thread | None = None

    def __repr__(self) -> str:
        return f"<LogOutput {self._kept_size} bytes kept, {self._lost} lines lost>"

    def write(self, lines: bytes) -> None:
        """Write lines if the descriptor takes them now, otherwise keep them."""
        with self._lock:
            for lot in lots(lines):
                rest = lot if self._kept else self._write(lot)
                if rest:
                    self._keep(rest)

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Give the reader a moment to take what was kept. Nothing may be written afterwards."""
        # The thread may end just now.
        if (thread := self._thread) is not None:
            thread.join(timeout_s)
        if self._is_own:
            os.close(self._descriptor)

    def _write(self, lot: bytes) -> bytes:
        """Write what the descriptor takes now; returns the rest."""
        try:
            while lot and self._poll.poll(0):
                lot = lot[os.write(self._descriptor, lot[: select.PIPE_BUF]) :]
        except BlockingIOError:
            # Another process has filled the pipe just now.
            return lot
        except OSError:
            # The reader has closed the pipe, or the disk is full: the gate keeps serving.
            return b""
        return lot

    def _keep(self, lot: bytes) -> None:
        if self._kept_size + len(lot) > KEPT_LIMIT:
            self._lost += lot.count(b"\n")
            return
        self._kept.append(lot)
        self._kept_size += len(lot)
        if self._thread is None:
            self._thread = Thread(target=self._write_kept, daemon=True)
            self._thread.start()

    def _write_kept(self) -> None:
        """Write what was kept as the reader takes it."""
        poll, lost = self._new_poll(), None
        while lost is None:
            poll.poll()
            with self._lock:
                lost = self._write_more()
        if lost:
            self._on_loss(lost)

    def _write_more(self) -> int | None:
        """Write what was kept; once that is all, returns how many lines were lost after it."""
        while self._kept:
            lot = self._kept.popleft()
            rest = self._write(lot)
            self._kept_size -= len(lot) - len(rest)
            if rest:
                self._kept.appendleft(rest)
                return None
        self._thread = None
        lost, self._lost = self._lost, 0
        return lost

    def _new_poll(self) -> "select.poll":
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return poll


def lots(lines: bytes) -> Iterator[bytes]:
    """Lines in pieces of up to PIPE_BUF bytes, cut at their ends. A longer line is a piece."""
    begin = 0
    while len(lines) - begin > select.PIPE_BUF:
        end = lines.rfind(b"\n", begin, begin + select.PIPE_BUF) + 1
        end = end or lines.find(b"\n", begin) + 1 or len(lines)
        yield lines[begin:end]
        begin = end
    if begin < len(lines):
        yield lines[begin:]


def _may_block(descriptor: int) -> bool:
    """Whether a write can block although `poll` says that there is room: for less than a lot."""
    return stat.S_ISFIFO(os.fstat(descriptor).st_mode) or os.isatty(descriptor)


def _own_end(descriptor: int) -> int:
    """An end of the same pipe or terminal for this process alone, which never blocks.

    Other processes may share the descriptor that was inherited, and its flags.
    """
    try:
        return os.open(f"/dev/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return descriptor
