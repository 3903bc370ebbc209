"""Listening sockets: a unix socket's permissions, its replacement and its removal."""

import asyncio
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rustygate.config import load
from rustygate.downstream.listener import Listener
from tests.conftest import StartGate
from tests.support.http import chat, get, response
from tests.support.upstream import Upstream


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gate.sock"


@pytest.fixture
def stale(path: Path) -> Path:
    """A socket left by a crash."""
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(path))
        crashed.listen()
    return path


@pytest.fixture(params=[0, 0o077], ids=["umask 000", "umask 077"])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@contextmanager
def listening(path: Path) -> Iterator[Listener]:
    listener = Listener(load({"OPENAI_API_KEY": "sk-x", "BIND_ADDRESS": f"unix:{path}"}))
    with asyncio.Runner() as runner:
        runner.run(listener.open(asyncio.Protocol))
        yield listener
        listener.close()


def assert_cannot_listen(path: Path, reason: str) -> None:
    with pytest.raises(OSError, match=reason), listening(path):
        pass


async def test_gate_serves_on_a_unix_socket(
    gate: StartGate, upstream: Upstream, path: Path
) -> None:
    upstream.reply = response(b"body")
    running = await gate(BIND_ADDRESS=f"unix:{path}")
    assert running.url == f"unix:{path}"
    client = await running.connect()
    assert (await client.request(get())).body == b"body"
    assert (await client.request(chat("X-RustyGate-Client: search"))).body == b"body"
    lines = await running.settled(2)
    assert [line["client"] for line in lines] == ["local", "search"]


@pytest.mark.usefixtures("umask")
def test_only_owner_and_group_may_connect(path: Path) -> None:
    with listening(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_socket_has_its_mode_before_clients_can_connect(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []

    def chmod(name: str, mode: int) -> None:
        with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
            client.connect(name)
        modes.append(mode)

    monkeypatch.setattr(os, "chmod", chmod)
    with listening(path):
        assert modes == [0o660]


def test_socket_is_removed_on_close(path: Path) -> None:
    with listening(path) as listener:
        listener.close()
        assert not path.exists()


def test_stale_socket_is_replaced(stale: Path) -> None:
    with listening(stale), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(stale))
    assert not stale.exists()


@pytest.mark.parametrize("full", [False, True], ids=["accepting", "full backlog"])
def test_listening_socket_is_not_replaced(path: Path, full: bool) -> None:
    with (
        socket.socket(socket.AF_UNIX) as listening_socket,
        socket.socket(socket.AF_UNIX) as waiting,
    ):
        listening_socket.bind(str(path))
        listening_socket.listen(0)
        if full:
            waiting.connect(str(path))
        assert_cannot_listen(path, "another process is listening on it")
        assert path.is_socket()
        listening_socket.accept()[0].close()


@pytest.mark.parametrize("kind", ["file", "directory", "link", "broken link", "pipe"])
def test_file_that_is_not_a_socket_is_not_replaced(path: Path, kind: str) -> None:
    match kind:
        case "file":
            path.write_text("precious")
        case "directory":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case _:
            path.symlink_to("/dev/null" if kind == "link" else "nowhere")
    before = path.lstat()
    assert_cannot_listen(path, "the path exists and is not a socket")
    assert path.lstat() == before


def test_datagram_socket_is_not_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(str(path))
        assert_cannot_listen(path, "wrong type")
    assert path.is_socket()


def test_missing_directory_is_reported(tmp_path: Path) -> None:
    assert_cannot_listen(tmp_path / "missing" / "gate.sock", "No such file or directory")


def test_gates_that_start_at_once_do_not_replace_each_other(stale: Path) -> None:
    """The first locks the directory from its check of the path until it listens."""
    first = os.open(stale.parent, os.O_RDONLY)
    fcntl.flock(first, fcntl.LOCK_EX)
    assert_cannot_listen(stale, "another process has locked ")
    os.close(first)
    with listening(stale):
        pass


def test_socket_of_a_successor_is_not_removed(path: Path) -> None:
    with listening(path) as listener, socket.socket(socket.AF_UNIX) as successor:
        path.unlink()
        successor.bind(str(path))
        listener.close()
        assert path.is_socket()


def test_missing_socket_is_ignored_on_close(path: Path) -> None:
    with listening(path):
        path.unlink()


def test_longest_valid_path_can_be_listened_on(tmp_path: Path) -> None:
    with listening(tmp_path / ("x" * (107 - len(os.fsencode(tmp_path)) - 1))):
        pass
