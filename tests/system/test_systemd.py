"""The gate under systemd, played by the tests: passed sockets, notifications, restarts."""

import asyncio
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from rustygate.cli.serve import raise_open_files_limit
from tests.conftest import Start
from tests.support.client import Client
from tests.support.gate import captured_log
from tests.support.http import EVENT_STREAM, LAST_CHUNK, chunk, get, post, response
from tests.support.process import PROCESS_TIMEOUT_S, Process
from tests.support.upstream import Upstream
from tests.support.waiting import until
from tests.support.wire import Wire


class Systemd:
    """Starts the gate as a service of `Type=notify` and receives its notifications."""

    def __init__(self, start: Start, directory: Path) -> None:
        self._start = start
        self._directory = directory
        self._sockets: list[socket.socket] = []

    def serve(self, *sockets: socket.socket, **given: Any) -> "Service":
        notifications = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notifications.bind(str(self._directory / f"notify-{len(self._sockets)}"))
        notifications.settimeout(PROCESS_TIMEOUT_S)
        self._sockets.append(notifications)
        defaults = {"OPENAI_API_KEY": "sk-systemd", "PORT": "0", "RUST_LOG": "info"}
        given = defaults | {"NOTIFY_SOCKET": notifications.getsockname()} | given
        return Service(self._start(sockets=sockets, **given), notifications)

    def close(self) -> None:
        for notifications in self._sockets:
            notifications.close()


class Service:
    """A gate that was started so."""

    def __init__(self, process: Process, notifications: socket.socket) -> None:
        self.process = process
        self.notifications = notifications

    def notifies(self, *states: str) -> None:
        for state in states:
            assert self.notifications.recv(100).decode().partition("\n")[0] == state


@pytest.fixture
def systemd(start: Start, tmp_path: Path) -> Iterator[Systemd]:
    systemd = Systemd(start, tmp_path)
    yield systemd
    systemd.close()


@pytest.fixture
def sockets(tmp_path: Path) -> Iterator[list[socket.socket]]:
    """A TCP and a unix socket that listen."""
    with ExitStack() as stack:
        port = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        file = stack.enter_context(socket.socket(socket.AF_UNIX))
        file.bind(str(tmp_path / "handed-over.sock"))
        file.listen()
        yield [port, file]


def url_of(sock: socket.socket) -> str:
    name = sock.getsockname()
    return f"unix:{name}" if sock.family == socket.AF_UNIX else f"http://127.0.0.1:{name[1]}"


# States.


def test_service_notifies_ready_watchdog_and_stopping(systemd: Systemd) -> None:
    service = systemd.serve(WATCHDOG_USEC="3600000000")
    service.notifies("READY=1", "WATCHDOG=1")
    service.process.signal()
    service.notifies("STOPPING=1")
    assert service.process.exit_code() == 0


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_supervisor_speaks_for_its_workers(
    systemd: Systemd, sockets: list[socket.socket], start: Start
) -> None:
    """They get neither the manager's variables nor its sockets, but for those to listen on."""
    service = systemd.serve(*sockets, WATCHDOG_USEC="2000000", WORKERS="2")
    service.notifies("READY=1", "WATCHDOG=1")
    pid = service.process.pid
    workers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert len(workers) == 2
    for worker in workers:
        environ = Path(f"/proc/{worker}/environ").read_bytes()
        for name in (b"NOTIFY_SOCKET=", b"WATCHDOG_USEC=", b"LISTEN_", b"OPENAI_API_KEY="):
            assert name not in environ
    for sock in sockets:
        assert start("health", url_of(sock)).exit_code() == 0
    os.kill(int(workers[0]), signal.SIGSTOP)
    line = service.process.wait_for_line(service.process.stderr, "worker 1 .* was killed .*")[0]
    assert "had not responded for 2 s" in line
    service.process.signal()
    while (state := service.notifications.recv(100)) != b"STOPPING=1":
        assert state == b"WATCHDOG=1"
    assert service.process.exit_code() == 0


def test_service_that_fails_to_start_is_never_ready(systemd: Systemd) -> None:
    service = systemd.serve(BIND_ADDRESS="192.0.2.1")
    assert service.process.exit_code() == 1
    service.notifications.setblocking(False)
    with pytest.raises(BlockingIOError):
        service.notifications.recv(100)


def test_sighup_reloads_and_stops_nothing(systemd: Systemd, start: Start) -> None:
    service = systemd.serve()
    url = service.process.listening_url()
    service.notifies("READY=1")
    for _ in range(2):
        service.process.signal(signal.SIGHUP)
        service.notifies("RELOADING=1", "READY=1")
        service.process.wait_for_line(service.process.stderr, "reload ignored: nothing to reload")
    assert start("health", url).exit_code() == 0
    service.process.signal()
    service.notifies("STOPPING=1")
    assert service.process.exit_code() == 0


def test_sighup_reloads_clients_and_reports_a_bad_file(systemd: Systemd, tmp_path: Path) -> None:
    clients = tmp_path / "clients.toml"
    clients.write_text(f'[client.a]\nkey_sha256 = "{"0" * 64}"\n')
    service = systemd.serve(CLIENTS_FILE=str(clients))
    service.notifies("READY=1")
    service.process.signal(signal.SIGHUP)
    service.notifies("RELOADING=1", "READY=1")
    service.process.wait_for_line(
        service.process.stderr, "clients file reloaded: 0 came, 0 changed, 0 went"
    )
    clients.write_text("[client.a]\nweight = -1\n")
    service.process.signal(signal.SIGHUP)
    service.notifies("RELOADING=1", "READY=1")
    service.process.wait_for_line(
        service.process.stderr, r"previous clients stay in force.*client\.a\.weight=-1"
    )
    service.process.wait_for_line(service.process.stderr, r"client\.a\.key_sha256: not set")
    service.process.signal()
    assert service.process.exit_code() == 0


def test_sighup_does_not_end_a_drain(systemd: Systemd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as upstream:
        base_url = f"{url_of(upstream)}/v1"
        service = systemd.serve(OPENAI_BASE_URL=base_url)
        host, port = service.process.listening_url().removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), PROCESS_TIMEOUT_S) as client:
            client.sendall(get())
            accepted, _ = upstream.accept()
            with accepted:
                service.process.signal()
                service.process.wait_for_line(service.process.stderr, "draining")
                service.process.signal(signal.SIGHUP)
                accepted.recv(65536)
                accepted.sendall(response(b"whole"))
                assert client.recv(65536).endswith(b"whole")
    service.notifies("READY=1", "STOPPING=1")
    assert service.process.exit_code() == 0


# Sockets.


def test_passed_sockets_replace_the_configured_address(
    systemd: Systemd, start: Start, sockets: list[socket.socket]
) -> None:
    service = systemd.serve(*sockets, BIND_ADDRESS="192.0.2.1", PORT="1")
    urls = [url_of(sock) for sock in sockets]
    assert service.process.listening_url() == ",".join(urls)
    assert [start("health", url).ended() for url in urls] == [(0, "OK\n", "")] * 2
    service.process.signal()
    code, _, stderr = service.process.ended()
    assert (code, "uses the upstream key" in stderr) == (0, False)
    assert Path(sockets[1].getsockname()).is_socket()


def test_exposed_socket_is_warned_about(systemd: Systemd, sockets: list[socket.socket]) -> None:
    with socket.create_server(("0.0.0.0", 0)) as everywhere:
        service = systemd.serve(*sockets, everywhere)
        warned = "BIND_ADDRESS=0.0.0.0 lets other machines connect"
        service.process.wait_for_line(service.process.stderr, warned)


@pytest.mark.parametrize("kind", ["not_listening", "datagrams", "connected", "file"])
def test_descriptor_that_is_not_listening_is_a_one_line_error(
    systemd: Systemd, sockets: list[socket.socket], kind: str
) -> None:
    left, right = socket.socketpair()
    with left, right, socket.socket() as not_listening, open(os.devnull) as file:
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with datagrams:
            wrong: Any = {
                "not_listening": not_listening,
                "datagrams": datagrams,
                "connected": left,
                "file": file,
            }
            service = systemd.serve(sockets[0], wrong[kind])
    code, stdout, stderr = service.process.ended()
    expected = "inherited file descriptor 4: expected a listening stream socket"
    assert (code, stdout) == (2, "")
    assert stderr.startswith(f"rustygate: {expected}")
    assert stderr.count("\n") == 1


@pytest.mark.parametrize("pid", ["1", ""])
def test_sockets_for_another_process_are_ignored(systemd: Systemd, pid: str) -> None:
    service = systemd.serve(LISTEN_PID=pid, LISTEN_FDS="1")
    assert service.process.listening_url().startswith("http://127.0.0.1:")


# Restarts.

# Nor is there a keepalive, which would be due after a while on a busy machine.
NO_LIMITS = {
    "RATE_LIMIT": "100000",
    "RATE_LIMIT_BURST": "100000",
    "RUST_LOG": "warn",
    "SSE_KEEPALIVE_INTERVAL": "0",
}


Connect = Callable[[str], Awaitable[Client]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Connects clients; they disconnect at the end."""
    clients: list[Client] = []

    async def connect(url: str) -> Client:
        clients.append(Client(await Wire.connect(url)))
        return clients[-1]

    yield connect
    for client in clients:
        client.disconnect()
    await asyncio.sleep(0)


class Load:
    """Clients that send one request after another, each on a new connection.

    A refused or cut connection makes its client fail.
    """

    def __init__(self, connect: Connect, url: str, clients: int) -> None:
        self._connect = connect
        self._url = url
        self._stopped = False
        self._tasks = [asyncio.create_task(self._send_requests()) for _ in range(clients)]
        self.results: list[tuple[int, str | None]] = []

    async def wait_for_more(self, count: int) -> None:
        """Wait for that many further responses."""
        expected = len(self.results) + count
        await until(lambda: len(self.results) >= expected or any(t.done() for t in self._tasks))

    async def stop(self) -> None:
        self._stopped = True
        await asyncio.gather(*self._tasks)

    async def _send_requests(self) -> None:
        while not self._stopped:
            client = await self._connect(self._url)
            response = await client.request(get())
            self.results.append((response.status, response.reason))
            client.disconnect()


async def test_restart_under_load_refuses_no_connection_and_cuts_no_stream(
    systemd: Systemd, sockets: list[socket.socket], upstream: Upstream, connect: Connect
) -> None:
    """The old gate drains while the new one serves; it refuses requests on connections it took."""
    url = url_of(sockets[0])
    given = NO_LIMITS | {"OPENAI_BASE_URL": upstream.url}
    old = systemd.serve(*sockets, **given)
    await asyncio.to_thread(old.notifies, "READY=1")
    streams, calls = [], []
    for number in range(5):
        streams.append(await connect(url))
        streams[-1].send(post(b"{}"))
        calls.append(await upstream.call())
        calls[-1].send(EVENT_STREAM, chunk(b"data: %d\n\n" % number))
        await streams[-1].head()
    upstream.reply = response(b"whole")
    load = Load(connect, url, 10)
    await load.wait_for_more(50)
    new = systemd.serve(*sockets, **given)
    await asyncio.to_thread(new.notifies, "READY=1")
    await load.wait_for_more(50)
    old.process.signal()
    await asyncio.to_thread(old.notifies, "STOPPING=1")
    await load.wait_for_more(200)
    for number, (client, call) in enumerate(zip(streams, calls, strict=True)):
        call.send(chunk(b"data: [DONE]\n\n"), LAST_CHUNK)
        assert await client.read_rest() == b"data: %d\n\ndata: [DONE]\n\n" % number
    assert await asyncio.to_thread(old.process.exit_code) == 0
    await load.wait_for_more(50)
    await load.stop()
    assert set(load.results) <= {(200, None), (503, "draining")}
    assert load.results.count((503, "draining")) <= 20


async def test_connections_wait_between_stop_and_start(
    systemd: Systemd, sockets: list[socket.socket], upstream: Upstream, connect: Connect
) -> None:
    """Like `systemctl restart`: stop, then start."""
    upstream.reply = response(b"whole")
    old = systemd.serve(*sockets, OPENAI_BASE_URL=upstream.url)
    await asyncio.to_thread(old.notifies, "READY=1")
    old.process.signal()
    assert await asyncio.to_thread(old.process.exit_code) == 0
    clients = [await connect(url_of(sock)) for sock in sockets * 5]
    for client in clients:
        client.send(get())
    new = systemd.serve(*sockets, OPENAI_BASE_URL=upstream.url)
    await asyncio.to_thread(new.notifies, "READY=1")
    assert {(await client.response()).body for client in clients} == {b"whole"}


async def test_quick_restarts_under_load_refuse_and_cut_no_request(
    systemd: Systemd, sockets: list[socket.socket], upstream: Upstream, connect: Connect
) -> None:
    """Connections accepted last have not sent their request when the gate stops."""
    upstream.reply = response(b"whole")
    given = NO_LIMITS | {"OPENAI_BASE_URL": upstream.url}
    gate = systemd.serve(*sockets, **given)
    load = Load(connect, url_of(sockets[0]), 10)
    for _ in range(3):
        await asyncio.to_thread(gate.notifies, "READY=1")
        await load.wait_for_more(50)
        gate.process.signal()
        assert await asyncio.to_thread(gate.process.exit_code) == 0
        gate = systemd.serve(*sockets, **given)
    await load.wait_for_more(50)
    await load.stop()
    assert set(load.results) <= {(200, None), (503, "draining")}


# Files.


def test_open_files_limit_is_raised_to_the_hard_limit(systemd: Systemd) -> None:
    def lower_limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 512))

    service = systemd.serve(CONNECTION_LIMIT="256", options={"preexec_fn": lower_limit})
    service.notifies("READY=1")
    assert resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE) == (512, 512)


def test_low_open_files_limit_is_warned_about() -> None:
    with captured_log() as log:
        raise_open_files_limit(1)
        raise_open_files_limit(10**9)
    assert log.text.count("\n") == 1
    assert "but CONNECTION_LIMIT=1000000000 may need 2000000000; raise it" in log.text
