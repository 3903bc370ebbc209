"""Where the gate listens: whose a unix socket is, from its first instant to its last."""

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
    """A socket that a crash left behind."""
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


def refused(path: Path, why: str) -> None:
    with pytest.raises(OSError, match=why), listening(path):
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
def test_socket_is_its_owners_and_groups_alone(path: Path) -> None:
    with listening(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_socket_has_its_mode_before_anybody_can_connect(
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


def test_socket_is_removed_at_the_end(path: Path) -> None:
    with listening(path) as listener:
        listener.close()
        assert not path.exists()


def test_stale_socket_is_replaced(stale: Path) -> None:
    with listening(stale), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(stale))
    assert not stale.exists()


@pytest.mark.parametrize("full", [False, True], ids=["", "no room for more"])
def test_live_socket_is_left_alone(path: Path, full: bool) -> None:
    with socket.socket(socket.AF_UNIX) as live, socket.socket(socket.AF_UNIX) as waiting:
        live.bind(str(path))
        live.listen(0)
        if full:
            waiting.connect(str(path))
        refused(path, "another process is listening on it")
        assert path.is_socket()
        live.accept()[0].close()


@pytest.mark.parametrize("kind", ["file", "directory", "link", "broken link", "pipe"])
def test_what_is_no_socket_is_left_alone(path: Path, kind: str) -> None:
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
    refused(path, "the path exists and is not a socket")
    assert path.lstat() == before


def test_socket_of_another_kind_is_left_alone(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        refused(path, "wrong type")
    assert path.is_socket()


def test_directory_that_is_not_there_is_told(tmp_path: Path) -> None:
    refused(tmp_path / "missing" / "gate.sock", "No such file or directory")


def test_two_that_start_at_once_do_not_replace_each_other(stale: Path) -> None:
    """The first holds the directory from its look at what is there until it listens."""
    first = os.open(stale.parent, os.O_RDONLY)
    fcntl.flock(first, fcntl.LOCK_EX)
    refused(stale, "another process has locked ")
    os.close(first)
    with listening(stale):
        pass


def test_socket_that_took_its_place_is_left_alone(path: Path) -> None:
    with listening(path) as listener, socket.socket(socket.AF_UNIX) as successor:
        path.unlink()
        successor.bind(str(path))
        listener.close()
        assert path.is_socket()


def test_socket_that_is_gone_already_is_no_trouble(path: Path) -> None:
    with listening(path):
        path.unlink()


def test_longest_path_that_is_taken_can_be_listened_on(tmp_path: Path) -> None:
    with listening(tmp_path / ("x" * (107 - len(os.fsencode(tmp_path)) - 1))):
        pass
