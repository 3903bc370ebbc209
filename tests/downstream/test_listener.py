"""Listening sockets: ports, unix sockets with their files, and sockets that are inherited."""

import asyncio
import errno
import fcntl
import os
import socket
import ssl
import stat
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from rustygate.config import ConfigError, Settings, load
from rustygate.downstream import listener as listeners
from rustygate.downstream.listener import Listener, inherited_sockets, with_inherited_address
from tests.conftest import StartGate
from tests.support.certificates import Authority
from tests.support.http import chat, get, response
from tests.support.upstream import Upstream
from tests.support.waiting import soon, until


class Greeting(asyncio.Protocol):
    """Greets a client, and closes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(b"hello")
        transport.close()


def settings_for(**given: object) -> Settings:
    return load({"OPENAI_API_KEY": "sk-x"} | {name: str(value) for name, value in given.items()})


@asynccontextmanager
async def accepting(
    settings: Settings, sockets: Sequence[socket.socket] = ()
) -> AsyncIterator[Listener]:
    listener = Listener(settings, sockets)
    await listener.open(Greeting)
    yield listener
    listener.close()


@asynccontextmanager
async def connected(
    url: str, tls: ssl.SSLContext | None = None
) -> AsyncIterator[asyncio.StreamReader]:
    parts = urlsplit(url)
    async with soon():
        if parts.scheme == "unix":
            reader, writer = await asyncio.open_unix_connection(parts.path)
        else:
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=tls)
        yield reader
        writer.close()
        await writer.wait_closed()


async def greeting(url: str, tls: ssl.SSLContext | None = None) -> bytes:
    async with connected(url, tls) as reader:
        return await reader.read()


def open_descriptors() -> int:
    return len(os.listdir("/dev/fd"))


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
    listener = Listener(settings_for(BIND_ADDRESS=f"unix:{path}"))
    with asyncio.Runner() as runner:
        runner.run(listener.open(asyncio.Protocol))
        yield listener
        listener.close()


def assert_cannot_listen(path: Path, reason: str) -> None:
    before = open_descriptors()
    with pytest.raises(OSError, match=f"{reason}$"), listening(path):
        pass
    # What earlier tests left may be closed meanwhile.
    assert open_descriptors() <= before


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
        assert_cannot_listen(path, "wrong type for socket")
    assert path.is_socket()


def test_missing_directory_is_reported(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert_cannot_listen(missing / "gate.sock", f"No such file or directory: '{missing}'")


def test_socket_is_closed_if_its_mode_cannot_be_set(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chmod(name: str, mode: int) -> None:
        raise OSError(errno.EPERM, "not permitted")

    monkeypatch.setattr(os, "chmod", chmod)
    assert_cannot_listen(path, "not permitted")


def test_two_gates_may_listen_in_one_directory(path: Path) -> None:
    with listening(path), listening(path.with_name("other.sock")):
        pass


def test_gates_that_start_at_once_do_not_replace_each_other(stale: Path) -> None:
    """The first locks the directory from its check of the path until it listens."""
    first = os.open(stale.parent, os.O_RDONLY)
    fcntl.flock(first, fcntl.LOCK_EX)
    assert_cannot_listen(stale, f"another process has locked {stale.parent}")
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


# Ports, with and without TLS.


async def test_port_is_open_until_it_is_closed() -> None:
    async with accepting(settings_for(PORT=0)) as listener:
        [sock] = listener.sockets
        url, descriptor = listener.url, sock.fileno()
        assert url == f"http://127.0.0.1:{sock.getsockname()[1]}"
        assert (await greeting(url), listener.certificate) == (b"hello", None)
        listener.abort_handshakes()
    with pytest.raises(ConnectionRefusedError):
        await greeting(url)
    assert not asyncio.get_running_loop().remove_reader(descriptor)


async def test_clients_wait_between_bind_and_open() -> None:
    listener = Listener(settings_for(PORT=0))
    await listener.bind()
    async with connected(listener.url) as early:
        url = listener.url
        await listener.open(Greeting)
        assert listener.url == url
        assert await early.read() == b"hello"
    listener.close()


@pytest.mark.parametrize(("processes", "limit"), [((), 9), ((4,), 3)], ids=["alone", "shared"])
async def test_tls_is_served_with_the_certificate(
    authority: Authority, processes: tuple[int, ...], limit: int
) -> None:
    """Processes that share the port share the limit of handshakes, too."""
    files = authority.issue("127.0.0.1")
    listener = Listener(settings_for(PORT=0, CONNECTION_LIMIT=9, **files), (), *processes)
    await listener.open(Greeting)
    assert listener.url == f"https://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    assert await greeting(listener.url, authority.client_context()) == b"hello"
    assert listener.certificate is not None
    assert listener.certificate.reload() is None
    assert listener._tls is not None
    assert listener._tls.limit == limit
    listener.close()


async def test_connections_before_tls_can_be_aborted(authority: Authority) -> None:
    async with (
        accepting(settings_for(PORT=0, **authority.issue("127.0.0.1"))) as listener,
        connected(listener.url) as silent,
    ):
        acceptor = listener._tls
        assert acceptor is not None
        await until(lambda: bool(acceptor.accepted))
        listener.abort_handshakes()
        assert not acceptor.accepted
        assert await silent.read() == b""


# Sockets that the service manager passes.

OWN_PID = str(os.getpid())


@pytest.fixture
def passed(path: Path) -> Iterator[list[socket.socket]]:
    """A port and a unix socket that listen."""
    with socket.create_server(("127.0.0.1", 0)) as port, socket.socket(socket.AF_UNIX) as file:
        file.bind(str(path))
        file.listen()
        yield [port, file]


def pass_descriptors(monkeypatch: pytest.MonkeyPatch, *files: Any) -> list[int]:
    """Duplicate files to descriptors in a row, where this process looks for inherited ones."""
    first: int = fcntl.fcntl(files[0], fcntl.F_DUPFD, 500)
    for number, file in enumerate(files, first):
        os.dup2(file.fileno(), number)
    monkeypatch.setattr(listeners, "FIRST_FD", first)
    return [first + index for index in range(len(files))]


def test_passed_sockets_are_used_and_their_variables_removed(
    passed: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = pass_descriptors(monkeypatch, *passed)
    environ = {"LISTEN_PID": OWN_PID, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b", "HOME": "/"}
    sockets = inherited_sockets(environ)
    assert environ == {"HOME": "/"}
    assert [sock.fileno() for sock in sockets] == numbers
    assert [sock.getsockname() for sock in sockets] == [sock.getsockname() for sock in passed]
    assert not any(sock.get_inheritable() for sock in sockets)
    for sock in sockets:
        sock.close()


@pytest.mark.parametrize(
    "environ",
    [{}, {"LISTEN_FDS": "1"}, {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "a"}],
    ids=["nothing", "no process", "another process"],
)
def test_sockets_for_another_process_are_not_used(environ: dict[str, str]) -> None:
    assert inherited_sockets(environ) == []
    assert environ == {}


@pytest.mark.parametrize(
    ("variables", "shown"),
    [
        ({}, "''"),
        ({"LISTEN_FDS": "two"}, "'two'"),
        ({"LISTEN_FDS": "-1"}, "'-1'"),
        ({"LISTEN_FDS": "0x12345678"}, "'0x1234567'"),
    ],
    ids=["missing", "word", "negative", "long"],
)
def test_number_of_passed_sockets_must_be_a_number(variables: dict[str, str], shown: str) -> None:
    with pytest.raises(ConfigError) as raised:
        inherited_sockets({"LISTEN_PID": OWN_PID} | variables)
    assert raised.value.problems == [f"LISTEN_FDS={shown}: expected a number of sockets"]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("not listening", ", TCP or unix"),
        ("datagrams", ", TCP or unix"),
        ("packets", ", TCP or unix"),
        ("file", " (Socket operation on non-socket)"),
    ],
)
def test_descriptor_of_anything_else_is_rejected(
    passed: list[socket.socket],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    kind: str,
    reason: str,
) -> None:
    wrong: Any
    match kind:
        case "not listening":
            wrong = socket.socket()
        case "datagrams":
            wrong = socket.socket(type=socket.SOCK_DGRAM)
        case "packets":
            wrong = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            wrong.bind(str(tmp_path / "packets"))
            wrong.listen()
        case "file":
            wrong = open(os.devnull)  # noqa: SIM115 - closed below
    with wrong:
        [number] = pass_descriptors(monkeypatch, wrong)
    with pytest.raises(ConfigError) as raised:
        inherited_sockets({"LISTEN_PID": OWN_PID, "LISTEN_FDS": "1"})
    expected = f"inherited file descriptor {number}: expected a listening stream socket"
    assert raised.value.problems == [expected + reason]
    if kind == "file":
        os.close(number)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


async def test_passed_sockets_are_listened_on(passed: list[socket.socket], path: Path) -> None:
    port, _ = passed
    settings = settings_for(BIND_ADDRESS="192.0.2.1", PORT=1)
    async with accepting(settings, passed) as listener:
        urls = [f"http://127.0.0.1:{port.getsockname()[1]}", f"unix:{path}"]
        assert listener.url == ",".join(urls)
        assert [await greeting(url) for url in urls] == [b"hello", b"hello"]
        listener.close()
        assert stat.S_ISSOCK(os.stat(path).st_mode)


async def test_passed_unix_socket_has_no_tls(
    passed: list[socket.socket], path: Path, authority: Authority
) -> None:
    port, _ = passed
    async with accepting(settings_for(**authority.issue("127.0.0.1")), passed) as listener:
        urls = [f"https://127.0.0.1:{port.getsockname()[1]}", f"unix:{path}"]
        assert listener.url == ",".join(urls)
        contexts = authority.client_context(), None
        got = [await greeting(url, tls) for url, tls in zip(urls, contexts, strict=True)]
        assert got == [b"hello", b"hello"]


def test_address_of_passed_sockets_replaces_the_configured_one(
    passed: list[socket.socket], path: Path
) -> None:
    """One that other machines can reach is warned about, wherever it stands."""
    port, file = passed
    settings = settings_for(BIND_ADDRESS="192.0.2.1", PORT=1)

    def address(*sockets: socket.socket) -> tuple[str, int]:
        found = with_inherited_address(settings, sockets)
        return found.bind_address, found.port

    with socket.create_server(("0.0.0.0", 0)) as exposed:
        assert address() == ("192.0.2.1", 1)
        assert address(port, file) == port.getsockname()
        assert address(file) == (f"unix:{path}", 1)
        assert address(port, exposed, file) == exposed.getsockname()


@pytest.mark.skipif(sys.platform != "linux", reason="has no abstract sockets")
def test_abstract_unix_socket_is_shown_with_an_at_sign() -> None:
    with socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0{OWN_PID}\0x")
        found = with_inherited_address(settings_for(), [abstract])
    assert found.bind_address == f"unix:@{OWN_PID}\0x"
