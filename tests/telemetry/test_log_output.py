"""Log lines on their way to the reader of stderr: whole, in order, and never waiting for it."""

import os
import re
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from queue import Queue

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.telemetry import log_output
from rustygate.telemetry.log_output import KEPT_LIMIT, LogOutput, lots

SOON_S = 30.0
LINE = b"x" * 199 + b"\n"
# More than any pipe or socket holds.
MANY_LINES = 4000


class Losses(Queue[int]):
    """The reported losses."""

    def __call__(self, lines: int) -> None:
        self.put(lines)


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    try:
        yield reading, writing
    finally:
        for end in (reading, writing):
            os.close(end)


def numbered(first: int, count: int) -> bytes:
    return b"".join(b"%06d " % number + LINE[7:] for number in range(first, first + count))


def read_exactly(descriptor: int, size: int) -> bytes:
    found = b""
    while len(found) < size:
        assert select.select([descriptor], [], [], SOON_S)[0], f"{len(found)} of {size} bytes"
        found += os.read(descriptor, size - len(found))
    return found


LINES = st.lists(st.binary(max_size=6000).map(lambda line: line.replace(b"\n", b"") + b"\n"))


@given(LINES)
def test_lots_are_whole_lines_and_as_many_as_fit(lines: list[bytes]) -> None:
    found = list(lots(b"".join(lines)))
    assert b"".join(found) == b"".join(lines)
    for lot in found:
        assert lot.endswith(b"\n")
        assert len(lot) <= select.PIPE_BUF or lot.count(b"\n") == 1
    for lot, following in pairwise(found):
        assert len(lot) + following.index(b"\n") + 1 > select.PIPE_BUF


def test_lines_are_written_at_once() -> None:
    with pipe() as (reading, writing):
        output = LogOutput(writing, Losses())
        output.write(LINE * 30)
        assert os.read(reading, 65536) == LINE * 30
        output.close()


def test_inherited_pipe_stays_blocking_for_others() -> None:
    with pipe() as (_, writing):
        output = LogOutput(writing, Losses())
        output.write(LINE)
        assert os.get_blocking(writing)
        output.close()


@pytest.mark.parametrize("kind", ["pipe", "pipe of another user", "socket", "terminal"])
def test_stopped_reader_holds_up_nobody_and_loses_nothing(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "pipe of another user":
        # The system does not let this process open it.
        monkeypatch.setattr(log_output, "_own_end", lambda descriptor: descriptor)
    if kind == "socket":
        ends = socket.socketpair()
        reading, writing = (end.detach() for end in ends)
    elif kind == "terminal":
        reading, writing = os.openpty()
    else:
        reading, writing = os.pipe()
    losses = Losses()
    output = LogOutput(writing, losses)
    for first in range(0, MANY_LINES, 10):
        output.write(numbered(first, 10))
    assert not re.search(" 0 bytes kept", repr(output))
    expected = numbered(0, MANY_LINES)
    if kind == "terminal":
        expected = expected.replace(b"\n", b"\r\n")
    assert read_exactly(reading, len(expected)) == expected
    output.close(SOON_S)
    assert repr(output) == "<LogOutput 0 bytes kept, 0 lines lost>"
    assert losses.empty()
    os.close(reading)
    os.close(writing)


def test_lines_beyond_the_limit_are_lost_and_counted() -> None:
    with pipe() as (reading, writing):
        losses = Losses()
        output = LogOutput(writing, losses)
        count = 2 * KEPT_LIMIT // len(LINE)
        for number in range(count):
            output.write(numbered(number, 1))
        lost = int(re.findall("([0-9]+) lines lost", repr(output))[0])
        kept = count - lost
        assert KEPT_LIMIT <= kept * len(LINE) <= KEPT_LIMIT + 128 * 1024
        assert read_exactly(reading, kept * len(LINE)) == numbered(0, kept)
        assert losses.get(timeout=SOON_S) == lost
        output.write(LINE)
        assert read_exactly(reading, len(LINE)) == LINE
        output.close()
        assert losses.empty()


def test_closed_pipe_keeps_nothing() -> None:
    reading, writing = os.pipe()
    output = LogOutput(writing, Losses())
    os.close(reading)
    output.write(LINE * 100)
    assert repr(output) == "<LogOutput 0 bytes kept, 0 lines lost>"
    output.close()
    os.close(writing)


def test_pipe_that_closes_ends_the_wait_for_its_reader() -> None:
    reading, writing = os.pipe()
    output = LogOutput(writing, Losses())
    output.write(LINE * MANY_LINES)
    os.close(reading)
    output.close(SOON_S)
    assert repr(output) == "<LogOutput 0 bytes kept, 0 lines lost>"
    os.close(writing)


def test_close_does_not_wait_for_a_stopped_reader() -> None:
    with pipe() as (_, writing):
        output = LogOutput(writing, Losses())
        output.write(LINE * MANY_LINES)
        output.close(0.01)
        assert "0 bytes kept" not in repr(output).split()


WRITER = """
import sys
from rustygate.telemetry.log_output import LogOutput
output = LogOutput(1, print)
for number in range(300):
    output.write(b"".join(b"%s %06d %s\\n" % (sys.argv[1].encode(), number, b"x" * (length * 37))
                          for length in range(7)))
output.close(30)
"""


def test_lines_of_several_processes_do_not_mix() -> None:
    root = Path(__file__).parents[2]
    with pipe() as (reading, writing):
        writers = [
            subprocess.Popen([sys.executable, "-c", WRITER, name], stdout=writing, cwd=root)
            for name in ("one", "two", "three")
        ]
        size = sum(300 * (len(name) + 9 + 3 * 37) * 7 for name in ("one", "two", "three"))
        written = read_exactly(reading, size)
        assert [writer.wait(SOON_S) for writer in writers] == [0, 0, 0]
    lines = written.splitlines()
    assert all(re.fullmatch(rb"(one|two|three) [0-9]{6} x*", line) for line in lines)
    for name in (b"one", b"two", b"three"):
        numbers = [int(line.split()[1]) for line in lines if line.startswith(name + b" ")]
        assert numbers == [number for number in range(300) for _ in range(7)]
