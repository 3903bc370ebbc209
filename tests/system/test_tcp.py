"""What the kernel knows about a connection, on real sockets."""

import asyncio
import os
import select
import socket
import sys
from collections.abc import Iterator

import pytest

from rustygate.system.tcp import poll, unacknowledged_bytes, unread_data

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux is asked")

Pair = tuple[socket.socket, socket.socket]


class FakeTransport(asyncio.Transport):
    """A transport over a socket that the test owns."""

    def __init__(self, sock: socket.socket | None) -> None:
        super().__init__({"socket": sock})


def unacknowledged(sock: socket.socket) -> int | None:
    return unacknowledged_bytes(FakeTransport(sock))


@pytest.fixture
def used() -> Iterator[Pair]:
    """Both ends of a connection over which a request and its response have passed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    near.sendall(b"request")
    assert far.recv(100) == b"request"
    far.sendall(b"response")
    assert near.recv(100) == b"response"
    with near, far:
        yield near, far


def test_data_that_reached_the_other_side_was_acknowledged(used: Pair) -> None:
    near, far = used
    near.sendall(b"next")
    assert far.recv(100) == b"next"
    far.close()
    assert near.recv(100) == b""
    assert unacknowledged(near) == 0


def test_data_sent_after_a_close_was_not_acknowledged(used: Pair) -> None:
    """Nor does the reset that follows acknowledge it."""
    near, far = used
    far.close()
    near.sendall(b"next")
    assert near.recv(100) == b""
    assert unacknowledged(near) == 4


def test_nothing_is_known_of_a_closed_socket(used: Pair) -> None:
    used[0].close()
    assert unacknowledged(used[0]) is None


@pytest.mark.parametrize("transport", [None, FakeTransport(None)], ids=["none", "no socket"])
def test_nothing_is_known_without_a_socket(transport: asyncio.BaseTransport | None) -> None:
    assert unacknowledged_bytes(transport) is None


def test_nothing_is_known_of_a_file() -> None:
    with open(os.devnull) as null:
        assert unacknowledged(null) is None  # type: ignore[arg-type]


def test_nothing_is_known_on_other_systems(used: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    assert unacknowledged(used[0]) == 0
    monkeypatch.setattr(sys, "platform", "darwin")
    assert unacknowledged(used[0]) is None


def test_unread_data_is_there_until_it_is_read(used: Pair) -> None:
    near, far = used
    near.setblocking(False)
    transport = FakeTransport(near)
    assert poll(transport, select.POLLIN) == 0
    far.sendall(b"x" * 100_000)
    far.close()
    assert poll(transport, select.POLLIN) == select.POLLIN
    assert b"".join(unread_data(transport)) == b"x" * 100_000


def test_connection_that_is_gone_has_no_unread_data(used: Pair) -> None:
    used[0].close()
    for transport in (FakeTransport(used[0]), FakeTransport(None)):
        assert poll(transport, select.POLLIN) == select.POLLNVAL
        assert list(unread_data(transport)) == []
