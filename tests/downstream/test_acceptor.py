"""Accepting connections from a socket, perhaps shared with other processes."""

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from rustygate.downstream.acceptor import (
    CONNECTIONS_PER_TURN,
    FIRST_RETRY_S,
    LONGEST_RETRY_S,
    PAUSE_S,
    Acceptor,
    WaitForRoom,
)
from tests.support.gate import captured_log
from tests.support.loop_turns import LoopTurns, counting_turns
from tests.support.waiting import until


class Accepted(asyncio.Protocol):
    """Counts connections, and closes them."""

    count = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        type(self).count += 1
        transport.close()


class FullSocket(socket.socket):
    """The system has no room for a connection this many times, then accepts one, and so on."""

    failures: list[int]

    def accept(self) -> "tuple[socket.socket, object]":
        if self.failures[0]:
            self.failures[0] -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        accepted = super().accept()
        self.failures.pop(0)
        return accepted


class ObservedSocket(socket.socket):
    """Records in which turns of the event loop connections are accepted."""

    turns: LoopTurns

    def accept(self) -> "tuple[socket.socket, object]":
        accepted = super().accept()
        self.turns.record()
        return accepted


@pytest.fixture
async def clients() -> AsyncIterator[list[socket.socket]]:
    opened: list[socket.socket] = []
    yield opened
    for client in opened:
        client.close()


async def always() -> None:
    """There is room."""


def listening(
    kind: type[socket.socket] = socket.socket,
    family: socket.AddressFamily = socket.AF_INET,
    directory: Path = Path(),
) -> socket.socket:
    sock = kind(family)
    is_unix = family == socket.AF_UNIX
    sock.bind(str(directory / "gate.sock") if is_unix else ("127.0.0.1", 0))
    sock.listen(64)
    return sock


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX], ids=["TCP", "unix"])
async def test_each_turn_of_the_loop_accepts_some_of_a_crowd(
    clients: list[socket.socket], family: socket.AddressFamily, tmp_path: Path
) -> None:
    Accepted.count = 0
    crowd = 2 * CONNECTIONS_PER_TURN + 3
    with listening(ObservedSocket, family, tmp_path) as sock, counting_turns() as turns:
        ObservedSocket.turns = turns
        for _ in range(crowd):
            clients.append(socket.socket(family))
            clients[-1].connect(sock.getsockname())
        acceptor = Acceptor(sock, Accepted)
        acceptor.open()
        await until(lambda: Accepted.count == crowd)
        acceptor.close()
    assert turns.counts == [CONNECTIONS_PER_TURN, CONNECTIONS_PER_TURN, 3]


async def test_others_may_go_first_after_each_connection(
    clients: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Longer than ten turns of the event loop take on a busy machine.
    monkeypatch.setattr("rustygate.downstream.acceptor.PAUSE_S", 0.1)
    Accepted.count = 0
    with listening() as sock:
        clients += [socket.create_connection(sock.getsockname()) for _ in range(5)]
        acceptor = Acceptor(sock, Accepted, always)
        acceptor.open()
        # Without a pause, all five: one in each turn of the event loop.
        for _ in range(10):
            await asyncio.sleep(0)
        assert Accepted.count == 1
        await until(lambda: Accepted.count == 5)
        acceptor.close()
        clients.append(socket.create_connection(sock.getsockname()))
        await asyncio.sleep(0.01)
        assert Accepted.count == 5


async def test_closed_acceptor_accepts_none(clients: list[socket.socket]) -> None:
    Accepted.count = 0
    with listening() as sock:
        acceptor = Acceptor(sock, Accepted, always)
        acceptor.open()
        acceptor.close()
        clients.append(socket.create_connection(sock.getsockname()))
        await asyncio.sleep(0.01)
        assert Accepted.count == 0
        sock.accept()[0].close()


async def test_a_connection_that_another_process_took_is_no_error(
    clients: list[socket.socket],
) -> None:
    Accepted.count = 0
    with listening() as sock, captured_log() as log:
        acceptors = [Acceptor(each, Accepted, always) for each in (sock, sock.dup())]
        for acceptor in acceptors:
            acceptor.open()
        clients.append(socket.create_connection(sock.getsockname()))
        await until(lambda: Accepted.count == 1)
        await asyncio.sleep(0.01)
        for acceptor in acceptors:
            acceptor.close()
            acceptor._sock.close()
    assert Accepted.count == 1
    assert not log.errors


@pytest.mark.parametrize("wait_for_room", [None, always], ids=["alone", "shared"])
async def test_accepting_is_retried_after_doubling_pauses(
    clients: list[socket.socket],
    wait_for_room: WaitForRoom | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first pause after an accepted connection is short again."""
    Accepted.count = 0
    FullSocket.failures = [10, 2, 0]
    loop, pauses = asyncio.get_running_loop(), list[float]()

    def call_later(delay: float, callback: Callable[[], None]) -> asyncio.Handle:
        if delay != PAUSE_S:
            pauses.append(delay)
        return loop.call_soon(callback)

    with listening(FullSocket) as sock, captured_log() as log:
        acceptor = Acceptor(sock, Accepted, wait_for_room)
        clients += [socket.create_connection(sock.getsockname()) for _ in range(2)]
        with monkeypatch.context() as patched:
            patched.setattr(loop, "call_later", call_later)
            acceptor.open()
            while Accepted.count < 2:  # noqa: ASYNC110 - `until` sets timers
                await asyncio.sleep(0)
        acceptor.close()
    doubled = [FIRST_RETRY_S * 2**number for number in range(8)]
    assert pauses == [*doubled, LONGEST_RETRY_S, LONGEST_RETRY_S, FIRST_RETRY_S, 2 * FIRST_RETRY_S]
    assert doubled[-1] < LONGEST_RETRY_S < 2 * doubled[-1]
    [error] = log.errors
    assert error.startswith("cannot accept connections, will keep trying: Too many open files ")


async def test_nothing_is_accepted_during_the_pause(
    clients: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    Accepted.count = 0
    FullSocket.failures = [1, 0]
    loop, resumptions = asyncio.get_running_loop(), list[Callable[[], None]]()
    with listening(FullSocket) as sock, captured_log():
        acceptor = Acceptor(sock, Accepted)
        clients.append(socket.create_connection(sock.getsockname()))
        with monkeypatch.context() as patched:
            patched.setattr(loop, "call_later", lambda _, resume: resumptions.append(resume))
            acceptor.open()
            for _ in range(10):
                await asyncio.sleep(0)
        assert (FullSocket.failures, Accepted.count) == ([0, 0], 0)
        [resume] = resumptions
        resume()
        await until(lambda: Accepted.count == 1)
        acceptor.close()


async def test_lack_of_room_is_logged_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the clock began only now."""
    logged = []
    with listening() as sock, captured_log() as log, monkeypatch.context() as patched:
        acceptor = Acceptor(sock, Accepted)
        for now in 0.0, 59.9, 60.0, 119.9:
            patched.setattr(asyncio.get_running_loop(), "time", lambda now=now: now)
            acceptor._log(OSError(errno.ENFILE, "no room"))
            logged.append(len(log.errors))
    assert logged == [1, 1, 2, 2]


async def test_closed_acceptor_does_not_try_again(
    clients: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rustygate.downstream.acceptor.FIRST_RETRY_S", 0.01)
    Accepted.count = 0
    FullSocket.failures = [1, 0]
    with listening(FullSocket) as sock, captured_log():
        acceptor = Acceptor(sock, Accepted)
        clients.append(socket.create_connection(sock.getsockname()))
        acceptor.open()
        await until(lambda: FullSocket.failures == [0, 0])
        acceptor.close()
        await asyncio.sleep(0.05)
        assert Accepted.count == 0


async def test_none_is_accepted_while_one_waits_for_room(clients: list[socket.socket]) -> None:
    Accepted.count, asked = 0, []

    async def wait_for_room() -> None:
        asked.append(asyncio.get_running_loop().create_future())
        await asked[-1]

    with listening() as sock, captured_log() as log:
        clients += [socket.create_connection(sock.getsockname()) for _ in range(3)]
        acceptor = Acceptor(sock, Accepted, wait_for_room)
        acceptor.open()
        await until(lambda: len(asked) == 1)
        await asyncio.sleep(10 * PAUSE_S)
        assert (len(asked), Accepted.count) == (1, 0)
        asked[0].set_result(None)
        await until(lambda: len(asked) == 2)
        assert Accepted.count == 1
        # A failure costs one connection.
        asked[1].set_exception(RuntimeError)
        await until(lambda: len(asked) == 3)
        assert clients[1].recv(1) == b""
        acceptor.close()
        asked[2].set_result(None)
        await until(lambda: Accepted.count == 2)
        clients.append(socket.create_connection(sock.getsockname()))
        await asyncio.sleep(10 * PAUSE_S)
        assert len(asked) == 3
    [error] = log.errors
    assert error.startswith("accepting a connection failed")
