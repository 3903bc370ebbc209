"""What the kernel knows about a connection, on real sockets; and kernels that know less."""

import asyncio
import socket
import sys
from collections.abc import Iterator

import pytest

from rustygate.system.tcp import UNKNOWN, is_closed, nothing_acknowledged, tcp_info

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO is Linux's")

Pair = tuple[socket.socket, socket.socket]


class FakeTransport(asyncio.BaseTransport):
    """A transport over a socket that the test owns."""

    def __init__(self, sock: socket.socket | None) -> None:
        super().__init__({"socket": sock})


def info(sock: socket.socket) -> bytes:
    return tcp_info(FakeTransport(sock))


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


def test_open_connection_is_not_closed(used: Pair) -> None:
    assert not is_closed(info(used[0]))


def test_close_of_the_other_side_is_seen(used: Pair) -> None:
    used[1].close()
    assert is_closed(info(used[0]))


def test_data_that_reached_the_other_side_was_acknowledged(used: Pair) -> None:
    near, far = used
    before = info(near)
    near.sendall(b"next")
    assert far.recv(100) == b"next"
    far.close()
    assert near.recv(100) == b""
    assert not nothing_acknowledged(before, info(near))


def test_data_sent_after_a_close_was_not_acknowledged(used: Pair) -> None:
    near, far = used
    before = info(near)
    far.close()
    near.sendall(b"next")
    assert near.recv(100) == b""
    assert nothing_acknowledged(before, info(near))


def test_nothing_is_proven_before_any_byte_was_acknowledged() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as near,
    ):
        assert not nothing_acknowledged(info(near), info(near))


def test_nothing_is_proven_by_a_kernel_that_does_not_count() -> None:
    assert not nothing_acknowledged(bytes(128), bytes(128))


def test_nothing_is_known_of_a_closed_socket(used: Pair) -> None:
    before = info(used[0])
    used[0].close()
    assert info(used[0]) == UNKNOWN
    assert not is_closed(UNKNOWN)
    assert not nothing_acknowledged(before, UNKNOWN)
    assert not nothing_acknowledged(UNKNOWN, before)


@pytest.mark.parametrize("transport", [None, FakeTransport(None)], ids=["none", "no socket"])
def test_nothing_is_known_without_a_socket(transport: asyncio.BaseTransport | None) -> None:
    assert tcp_info(transport) == UNKNOWN


def test_nothing_is_known_of_a_unix_socket() -> None:
    near, far = socket.socketpair()
    with near, far:
        assert info(near) == UNKNOWN


def test_nothing_is_known_on_other_systems(used: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert info(used[0]) == UNKNOWN


@pytest.mark.parametrize("length", [0, 104, 127])
def test_nothing_is_known_on_old_kernels(
    used: Pair, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    monkeypatch.setattr("rustygate.system.tcp._INFO_LENGTH", 128)
    whole = info(used[0])
    assert len(whole) == 128

    class OldSocket(socket.socket):
        def getsockopt(self, *_: object) -> bytes:  # type: ignore[override]
            return whole[:length]

    with OldSocket() as old:
        assert info(old) == UNKNOWN
