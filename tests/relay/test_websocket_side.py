"""One side of a WebSocket: when it is read, pinged, closed and flushed."""

import asyncio
from typing import Any

import pytest

from rustygate.core.websocket_frames import FrameTracker
from rustygate.plan import virtual_clock
from rustygate.relay.websocket_side import (
    FLUSH_TIMEOUT_S,
    HELD,
    PEER_FULL,
    ClientSide,
    UpstreamSide,
)
from tests.support.websocket import CLOSE, MASK, PING, close_payload, frame


class Connection:
    """What a side needs of its connection and transport, and what it did with them."""

    def __init__(self) -> None:
        self.transport = self
        self.writing_paused = self.is_closed = self.has_eof = False
        self._is_read = True
        self.written: list[bytes] = []
        self.unsent = 0
        self.ended = ""

    def pause_reading(self) -> None:
        self._is_read = False

    def resume_reading(self) -> None:
        self._is_read = True

    def is_read(self) -> bool:
        return self._is_read

    def is_closing(self) -> bool:
        return self.is_closed

    def write(self, data: bytes) -> None:
        assert not self.has_eof
        self.written.append(data)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.has_eof = True

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def close(self) -> None:
        self.ended = "closed"

    def abort(self) -> None:
        self.ended = "aborted"


class Sides:
    """A client's side whose connection is `connection`, and its peer."""

    def __init__(self) -> None:
        self.connection, self.peer_connection = Connection(), Connection()
        client: Any = self.connection
        upstream: Any = self.peer_connection
        self.changes = 0
        self.client = ClientSide(
            client, FrameTracker(masked=True, compressed=False), self._on_change
        )
        self.upstream = UpstreamSide(
            upstream, FrameTracker(masked=False, compressed=False), self._on_change
        )
        self.client.peer, self.upstream.peer = self.upstream, self.client

    def _on_change(self) -> None:
        self.changes += 1


@pytest.mark.parametrize("first", [PEER_FULL, HELD])
async def test_side_is_read_again_when_no_reason_is_left(first: int) -> None:
    sides = Sides()
    second = HELD if first == PEER_FULL else PEER_FULL
    sides.client.pause_reading(first)
    sides.client.pause_reading(second)
    sides.client.resume_reading(first)
    assert not sides.connection.is_read()
    sides.client.resume_reading(second)
    assert sides.connection.is_read()
    sides.connection.pause_reading()
    # It was not the reason.
    sides.client.resume_reading(second)
    assert not sides.connection.is_read()


async def test_side_is_read_after_a_close_frame_of_the_gate() -> None:
    """To notice that it disconnects."""
    sides = Sides()
    sides.client.pause_reading(HELD)
    sides.client.pause_reading(PEER_FULL)
    sides.client.send_close(1001, "draining")
    assert sides.connection.is_read()
    assert sides.connection.has_eof
    assert sides.connection.written == [frame(close_payload(1001, "rustygate: draining"), CLOSE)]
    sides.client.write(b"more")
    sides.client.ping(b"1")
    sides.client.send_close(1001, "draining")
    assert len(sides.connection.written) == 1


async def test_side_is_pinged_while_it_reads() -> None:
    sides = Sides()
    sides.client.ping(b"1")
    assert sides.connection.written == [frame(b"1", PING)]
    sides.connection.writing_paused = True
    sides.client.ping(b"2")
    sides.connection.writing_paused, sides.connection.is_closed = False, True
    sides.client.ping(b"3")
    assert len(sides.connection.written) == 1


@pytest.mark.parametrize("closes", ["client", "upstream"])
async def test_side_is_not_pinged_after_a_close_frame(closes: str) -> None:
    sides = Sides()
    if closes == "client":
        sides.client.data_received(frame(close_payload(1000), CLOSE, mask=MASK))
    else:
        sides.upstream.data_received(frame(close_payload(1000), CLOSE))
    assert sides.changes == 1
    written = list(sides.connection.written)
    sides.client.ping(b"1")
    assert sides.connection.written == written


async def test_bytes_are_counted_from_the_first_one_on() -> None:
    sides = Sides()
    assert (sides.client.first_written_at, sides.client.bytes_written) == (None, 0)
    sides.upstream.data_received(frame(b"1", PING))
    first_at = sides.client.first_written_at
    assert first_at is not None
    sides.upstream.data_received(frame(b"22", PING))
    assert (sides.client.first_written_at, sides.client.bytes_written) == (first_at, 7)


def test_flush_waits_until_everything_is_sent_but_not_for_ever() -> None:
    async def main() -> None:
        sides, loop = Sides(), asyncio.get_running_loop()
        began = loop.time()
        await sides.client.flush()
        assert loop.time() == began
        sides.connection.unsent = 5
        loop.call_later(1, setattr, sides.connection, "unsent", 0)
        await sides.client.flush()
        assert loop.time() - began == pytest.approx(1, abs=0.1)
        sides.connection.unsent, began = 5, loop.time()
        await sides.client.flush()
        assert loop.time() - began == pytest.approx(FLUSH_TIMEOUT_S)
        sides.client.eof_received()
        began = loop.time()
        await sides.client.flush()
        assert loop.time() == began

    virtual_clock.run(main)


@pytest.mark.parametrize(
    ("cleanly", "unsent", "closing", "how"),
    [
        (True, 0, False, "closed"),
        (False, 0, False, "aborted"),
        (True, 1, False, "aborted"),
        (True, 0, True, "aborted"),
    ],
    ids=["clean", "cut", "unsent bytes", "closing already"],
)
async def test_connection_is_closed_cleanly_if_nothing_is_unsent(
    cleanly: bool, unsent: int, closing: bool, how: str
) -> None:
    sides = Sides()
    sides.connection.unsent, sides.connection.is_closed = unsent, closing
    sides.client.disconnect(cleanly)
    assert sides.connection.ended == how
