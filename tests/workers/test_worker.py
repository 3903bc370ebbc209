"""A worker on a virtual clock, with a fake data plane."""

import asyncio
import signal
import socket
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rustygate.config import Settings
from rustygate.core.clients import Clients, SpendingLimits, hash_key, parse_clients
from rustygate.core.own_connections import OwnConnections, SocketName
from rustygate.data_plane import Siblings
from rustygate.plan import virtual_clock
from rustygate.system.shared_counts import SharedCounts
from rustygate.telemetry import log as log_module
from rustygate.workers import worker as worker_module
from rustygate.workers.channel import Channel
from rustygate.workers.worker import Worker
from tests.support.channels import Link
from tests.support.gate import Log, captured_log
from tests.support.harness import DEFAULTS, run_ready_tasks

ALIVE_EVERY_S = 0.25


class FakePlane:
    """Records what a worker does with its data plane, and controls when its drain ends."""

    def __init__(
        self,
        settings: Settings,
        sockets: object,
        control: Any,
        auth: Any,
        tracing: object,
        siblings: Siblings,
    ) -> None:
        self.settings, self.control, self.auth, self.siblings = settings, control, auth, siblings
        self.calls: list[str] = []
        self.own_connections = OwnConnections()
        self.certificate: Any = None
        self.has_room = False
        self.may_drain = asyncio.Event()
        self.fails: Exception | None = None

    async def start(self) -> None:
        self.calls.append("start")

    async def drain(self) -> None:
        self.calls.append("drain")
        await self.may_drain.wait()
        if self.fails is not None:
            raise self.fails

    async def stop(self) -> None:
        self.calls.append("stop")

    def make_room(self) -> bool:
        return self.has_room


class Supervised:
    """A worker that runs, and the supervisor's end of its channel.

    Attributes:
        heard: the worker's messages, in order, except `alive`.
        alive: when its `alive` messages came.
        planes: the data planes that the worker created.
        steps: what it did with its process while it started, in order.
        signals: signal handlers by number.
        asked_for_room: how often the worker asked others for room.
        close_limits: how long closing its channel could take, each time.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, sockets: list[socket.socket]) -> None:
        self._monkeypatch = monkeypatch
        self.loop = asyncio.get_running_loop()
        self.heard: list[tuple[Any, ...]] = []
        self.alive: list[float] = []
        self.planes: list[FakePlane] = []
        self.steps: list[Any] = []
        self.signals: dict[int, Callable[[], None]] = {}
        self.close_limits: list[float] = []
        self.asked_for_room = 0
        self._replace_parts()
        self.counts = SharedCounts.create(3)
        self.channel = Channel(
            {
                "alive": lambda: self.alive.append(self.loop.time()),
                **{name: self._record(name) for name in ("ready", "draining", "connected")},
            },
            {"make_room": self._make_room},
            lambda: None,
        )
        self.worker = Worker(sockets, self.counts)
        self.running = asyncio.ensure_future(self.worker.run(cast(socket.socket, None)))

    def _replace_parts(self) -> None:
        def plane(*arguments: Any) -> FakePlane:
            self.planes.append(FakePlane(*arguments))
            return self.planes[-1]

        patch = self._monkeypatch.setattr
        patch(worker_module, "DataPlane", plane)
        patch(log_module, "configure", lambda *given: self.steps.append(given))
        patch(worker_module, "tune_garbage_collector", lambda: self.steps.append("tuned"))
        patch(signal, "pthread_sigmask", lambda *given: self.steps.append(given))
        patch(self.loop, "add_signal_handler", self._add_signal_handler)
        patch(Channel, "open", lambda channel, _: self._open(channel))
        patch(Channel, "close", lambda _, limit_s: self._close(limit_s))

    def _add_signal_handler(self, number: int, handle: Callable[[], None]) -> None:
        self.steps.append(number)
        self.signals[number] = handle

    async def _open(self, channel: Channel) -> None:
        self.link = Link(self.channel, channel)

    async def _close(self, limit_s: float) -> None:
        self.close_limits.append(limit_s)

    def _record(self, name: str) -> Callable[..., None]:
        return lambda *values: self.heard.append((name, *values))

    async def _make_room(self) -> bool:
        self.asked_for_room += 1
        return True

    @property
    def plane(self) -> FakePlane:
        [plane] = self.planes
        return plane

    async def tell(self, *message: object) -> None:
        """Send a message, and let the worker act on it."""
        self.channel.tell(*message)
        await run_ready_tasks()

    async def start(
        self, settings: Settings = DEFAULTS, clients: Any = None, pair: Any = None
    ) -> None:
        await run_ready_tasks()
        await self.tell("start", settings, 1, clients, pair)

    async def lose_supervisor(self) -> None:
        self.worker.channel.connection_lost(None)
        await run_ready_tasks()


Scenario = Callable[[Supervised], Awaitable[None]]
Run = Callable[..., Log]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a scenario with a worker until that has ended. Returns what was logged."""

    def run(scenario: Scenario, sockets: tuple[socket.socket, ...] = ()) -> Log:
        async def main() -> None:
            with monkeypatch.context() as patched:
                supervised = Supervised(patched, list(sockets))
                async with asyncio.timeout(3600):
                    await scenario(supervised)
                    await supervised.running
                silent_since = len(supervised.alive)
                await asyncio.sleep(10)
                assert len(supervised.alive) == silent_since
                assert asyncio.all_tasks() == {asyncio.current_task()}
                supervised.counts.close()

        with captured_log() as log:
            virtual_clock.run(main)
        return log

    return run


async def drain(supervised: Supervised) -> None:
    supervised.plane.may_drain.set()
    await supervised.tell("drain")


def test_worker_serves_from_its_start_until_it_has_drained(run: Run) -> None:
    async def scenario(supervised: Supervised) -> None:
        await run_ready_tasks()
        assert not supervised.planes
        await supervised.start()
        plane = supervised.plane
        assert plane.settings == DEFAULTS
        assert plane.calls == ["start"]
        assert supervised.heard == [("ready",)]
        # It may get SIGTERM as soon as it can handle that.
        assert supervised.steps == [
            (DEFAULTS.rust_log, DEFAULTS.log_format),
            signal.SIGTERM,
            (signal.SIG_UNBLOCK, (signal.SIGTERM,)),
            "tuned",
        ]
        await asyncio.sleep(10)
        assert plane.calls == ["start"]
        await supervised.tell("drain")
        await asyncio.sleep(10)
        assert plane.calls == ["start", "drain"]
        assert not supervised.running.done()
        plane.may_drain.set()
        await supervised.running
        assert plane.calls == ["start", "drain", "stop"]
        assert supervised.close_limits == [5]
        assert supervised.heard == [("ready",)]

    assert not run(scenario).errors


def test_worker_sends_alive_four_times_a_second(run: Run) -> None:
    async def scenario(supervised: Supervised) -> None:
        await supervised.start()
        began = supervised.loop.time()
        await asyncio.sleep(1.1)
        expected = [began + ALIVE_EVERY_S * number for number in range(5)]
        assert supervised.alive == pytest.approx(expected)
        await drain(supervised)

    run(scenario)


@pytest.mark.parametrize("starts", [False, True])
@pytest.mark.parametrize("drains", [False, True])
def test_stop_message_ends_the_worker_at_once(run: Run, starts: bool, drains: bool) -> None:
    async def scenario(supervised: Supervised) -> None:
        if starts:
            await supervised.start()
        if drains:
            await supervised.tell("drain")
        await supervised.tell("stop")
        await supervised.running
        assert [plane.calls[-1] for plane in supervised.planes] == ["stop"] * starts

    assert not run(scenario).errors


def test_signal_drains_the_worker_alone_and_tells_the_supervisor(run: Run) -> None:
    async def scenario(supervised: Supervised) -> None:
        await supervised.start()
        supervised.signals[signal.SIGTERM]()
        await run_ready_tasks()
        assert supervised.heard == [("ready",), ("draining",)]
        assert supervised.plane.calls == ["start", "drain"]
        supervised.plane.may_drain.set()

    assert not run(scenario).errors


def test_worker_without_its_supervisor_drains(run: Run) -> None:
    async def scenario(supervised: Supervised) -> None:
        await supervised.start()
        await supervised.lose_supervisor()
        assert supervised.plane.control.gate.closed
        assert supervised.plane.calls == ["start", "drain"]
        supervised.plane.may_drain.set()

    [error] = run(scenario).errors
    assert error.startswith("the supervisor has ended: this worker drains")


@pytest.mark.parametrize("message", ["drain", "stop"])
def test_announced_end_of_the_supervisor_logs_no_error(run: Run, message: str) -> None:
    async def scenario(supervised: Supervised) -> None:
        await supervised.start()
        supervised.channel.tell(message)
        supervised.channel.flush()
        supervised.link.to_worker.release()
        await supervised.lose_supervisor()
        supervised.plane.may_drain.set()

    assert not run(scenario).errors


def test_worker_that_was_never_started_ends_with_its_supervisor(run: Run) -> None:
    async def scenario(supervised: Supervised) -> None:
        await run_ready_tasks()
        await supervised.lose_supervisor()
        await supervised.running
        assert not supervised.planes

    assert not run(scenario).errors


def test_failure_of_a_worker_is_raised_once_all_is_closed(run: Run) -> None:
    async def scenario(supervised: Supervised) -> None:
        await supervised.start()
        supervised.plane.fails = ValueError("a defect")
        supervised.plane.may_drain.set()
        await supervised.tell("drain")
        with pytest.raises(ValueError, match="a defect"):
            await supervised.running
        assert supervised.plane.calls[-1] == "stop"
        assert supervised.close_limits == [5]
        supervised.running = asyncio.ensure_future(asyncio.sleep(0))

    run(scenario)


# Messages and questions.


def test_connection_of_a_worker_to_this_gate_is_reported(run: Run) -> None:
    """Those to other ports, and over unix sockets, are not."""
    with socket.create_server(("127.0.0.1", 0)) as first, socket.socket(socket.AF_UNIX) as unix:
        port = first.getsockname()[1]
        local, remote = ("127.0.0.1", 1234), ("127.0.0.1", port)

        async def scenario(supervised: Supervised) -> None:
            await supervised.start()
            others: list[SocketName] = [("127.0.0.1", port + 1), ("127.0.0.1", 0), "/path", None]
            for each in (*others, remote):
                supervised.plane.own_connections.add(local, each)
            await run_ready_tasks()
            assert supervised.heard == [("ready",), ("connected", local, remote)]
            await drain(supervised)

        run(scenario, (first, unix))


def test_connection_of_another_worker_is_known(run: Run) -> None:
    local, remote = ("127.0.0.1", 1234), ("127.0.0.1", 8080)

    async def scenario(supervised: Supervised) -> None:
        await run_ready_tasks()
        # Before it starts, it has no client that might be another worker.
        await supervised.tell("sibling", local, remote)
        await supervised.start()
        assert not supervised.plane.own_connections.includes(remote, local)
        await supervised.tell("sibling", local, remote)
        assert supervised.plane.own_connections.includes(remote, local)
        await drain(supervised)

    assert not run(scenario).errors


@pytest.mark.parametrize("has_room", [False, True])
def test_worker_makes_room_and_asks_others_to(run: Run, has_room: bool) -> None:
    async def scenario(supervised: Supervised) -> None:
        await run_ready_tasks()
        assert await supervised.channel.ask("make_room") is False
        await supervised.start()
        supervised.plane.has_room = has_room
        assert await supervised.channel.ask("make_room") is has_room
        assert supervised.asked_for_room == 0
        assert await supervised.plane.siblings.make_room()
        assert supervised.asked_for_room == 1
        await drain(supervised)

    assert not run(scenario).errors


def test_worker_counts_in_its_own_place(run: Run) -> None:
    async def scenario(supervised: Supervised) -> None:
        await supervised.start()
        supervised.plane.siblings.counts.connections.own = 5
        assert [supervised.counts.of(place).connections.own for place in range(3)] == [0, 5, 0]
        await drain(supervised)

    run(scenario)


def test_latest_clients_are_in_force(run: Run) -> None:
    async def scenario(supervised: Supervised) -> None:
        await supervised.start(clients=table("first"))
        plane = supervised.plane
        assert list(plane.auth.clients) == ["first"]
        limits: list[object] = []
        plane.control.spending.set_limits = limits.append
        await supervised.tell("clients", table("second"))
        assert list(plane.auth.clients) == ["second"]
        assert limits == [plane.auth.spending_limits]
        assert limits == [{"second": SpendingLimits(tokens_per_day=7)}]
        await drain(supervised)

    assert not run(scenario).errors


def table(name: str) -> Clients:
    """A table with one client, which has a budget."""
    return parse_clients(f'[client.{name}]\nkey_sha256 = "{hash_key(name)}"\ntokens_per_day = 7')


# The certificate.


def test_worker_serves_with_copies_of_the_certificate(run: Run) -> None:
    async def scenario(supervised: Supervised) -> None:
        await supervised.start(pair=(b"a certificate", b"a key"))
        settings = supervised.plane.settings
        assert contents(settings) == [b"a certificate", b"a key"]
        reloads: list[list[bytes]] = []

        def reload() -> None:
            reloads.append(contents(settings))

        supervised.plane.certificate = SimpleNamespace(reload=reload)
        await supervised.tell("certificate", (b"another", b"its key"))
        assert reloads == [[b"another", b"its key"]]
        await drain(supervised)

    assert not run(scenario).errors


def contents(settings: Settings) -> list[bytes]:
    found = []
    for path in (settings.tls_cert_file, settings.tls_key_file):
        assert path is not None
        with open(path, "rb") as file:
            found.append(file.read())
    return found


def test_certificate_that_comes_before_the_worker_serves_is_read_later(run: Run) -> None:
    """Where there are no copies, the worker reads the files when it starts."""

    async def scenario(supervised: Supervised) -> None:
        await run_ready_tasks()
        await supervised.tell("certificate", None)
        await supervised.start()
        # Without HTTPS, there is nothing to reload.
        await supervised.tell("certificate", (b"a certificate", b"a key"))
        await drain(supervised)

    assert not run(scenario).errors


def test_certificate_that_cannot_be_used_is_an_error(run: Run) -> None:
    async def scenario(supervised: Supervised) -> None:
        await supervised.start()
        supervised.plane.certificate = SimpleNamespace(reload=lambda: "it is torn")
        await supervised.tell("certificate", None)
        await drain(supervised)

    [error] = run(scenario).errors
    assert error.startswith("reload failed, previous TLS certificate stays in force: it is torn")
