"""A running gate, its log, and checks that it released everything."""

import asyncio
import logging
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from loguru import logger
from opentelemetry.sdk.trace import TracerProvider

from rustygate.config import Settings, load
from rustygate.daemon import Daemon
from rustygate.telemetry.tracing.spans import Tracing
from tests.support.client import Client
from tests.support.http import CLIENT_KEY, UPSTREAM_KEY, Response, get
from tests.support.waiting import A_SECOND_S, until
from tests.support.wire import Wire
from tests.support.workers import ChannelledDaemon

if TYPE_CHECKING:
    from loguru import Message

IDLE = {"waiters": 0, "in_flight": 0, "held_bytes": 0}

# Limits that no test reaches unless it sets its own.
HIGH_LIMITS = {"RATE_LIMIT": "100000", "RATE_LIMIT_BURST": "100000"}


class Log:
    """Everything logged at any level, by the gate or its libraries."""

    def __init__(self) -> None:
        self.text = ""
        self.exchanges: list[dict[str, Any]] = []
        self.errors: list[str] = []

    def write(self, message: "Message") -> None:
        """The sink for loguru."""
        record = message.record
        self.text += message
        if record["message"] == "exchange":
            assert record["level"].name == "INFO"
            self.exchanges += record["extra"]["lines"]
        if record["level"].no >= logging.ERROR:
            self.errors.append(str(message))

    def write_standard(self, record: logging.LogRecord) -> None:
        line = logging.Formatter().format(record)
        self.text += line
        if record.levelno >= logging.ERROR:
            self.errors.append(line)


class _Handler(logging.Handler):
    def __init__(self, log: Log) -> None:
        super().__init__(1)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.write_standard(record)


@contextmanager
def captured_log() -> Iterator[Log]:
    """Collect everything that is logged in the block."""
    log, libraries = Log(), [logging.getLogger(name) for name in ("aiohttp", "asyncio")]
    handler = _Handler(log)
    logger.remove()
    sink = logger.add(log.write, level=0, format="{message} {extra} {exception}", diagnose=False)
    for library in libraries:
        library.addHandler(handler)
    try:
        yield log
    finally:
        logger.remove(sink)
        for library in libraries:
            library.removeHandler(handler)


# Whether the gates of all tests have workers, and how many.
WORKERS = int(os.environ.get("TEST_WORKERS", "0"))

# For a test that must always run with workers, too; see the fixture `workers`.
also_with_workers = pytest.mark.parametrize(
    "workers", [WORKERS, 3], ids=["one process", "three workers"], indirect=True
)

# For a test that looks inside the one process, or counts its files.
one_process = pytest.mark.skipif(WORKERS > 0, reason="it looks inside a single process")


def make_daemon(settings: Settings, workers: int = WORKERS, **options: Any) -> Daemon:
    """A daemon of the kind that the tests run with."""
    if not workers:
        return Daemon(settings, **options)
    return ChannelledDaemon(settings, workers=workers, **options)


class Gate:
    """A gate on the test's event loop, and the raw clients connected to it."""

    def __init__(
        self,
        log: Log,
        upstream_url: str,
        provider: TracerProvider | None = None,
        workers: int = WORKERS,
        **settings: object,
    ) -> None:
        given = HIGH_LIMITS | {
            "OPENAI_API_KEY": UPSTREAM_KEY,
            "OPENAI_BASE_URL": upstream_url,
            "PORT": "0",
        }
        given |= {name: str(value) for name, value in settings.items()}
        loaded = load(given)
        tracing = None if provider is None else Tracing(loaded, provider)
        self.daemon = make_daemon(loaded, workers, tracing=tracing)
        self.log = log
        self._clients: list[Client] = []

    @property
    def url(self) -> str:
        return self.daemon.url

    def snapshot(self) -> dict[str, int]:
        return self.daemon.snapshot()

    def connections(self) -> list[Any]:
        """aiohttp's connections from clients."""
        planes = getattr(self.daemon, "planes", [self.daemon._plane])
        return [each for plane in planes for each in plane._runner.server.connections]

    async def connect(
        self, *, receive_buffer: int | None = None, tls: ssl.SSLContext | None = None
    ) -> Client:
        client = Client(await Wire.connect(self.url, receive_buffer=receive_buffer, tls=tls))
        self._clients.append(client)
        return client

    async def idle_clients(self, number: int) -> list[Client]:
        """Clients that have had a response at the same time, so that as many connections to
        upstream are open."""
        clients = [await self.connect() for _ in range(number)]
        await asyncio.gather(*(client.request(get()) for client in clients))
        return clients

    async def send(self, *data: bytes) -> Client:
        """Send bytes over a new connection."""
        client = await self.connect()
        client.send(*data)
        return client

    async def request(self, data: bytes) -> Response:
        """Send a request over a new connection and read its response."""
        return await (await self.connect()).request(data)

    async def wait_until(self, limit_s: float = A_SECOND_S, **numbers: int) -> None:
        """Wait until the gate's snapshot shows these numbers, within a second."""
        await until(lambda: numbers.items() <= self.snapshot().items(), limit_s)

    async def settled(self, count: int = 1) -> list[dict[str, Any]]:
        """The fields of the exchanges' log lines, once there are this many."""
        await until(lambda: len(self.log.exchanges) >= count)
        assert len(self.log.exchanges) == count, self.log.exchanges
        return self.log.exchanges

    async def close(self) -> None:
        """Disconnect the clients, check that the gate releases everything, and stop it."""
        for client in self._clients:
            client.disconnect()
        try:
            await self.wait_until(**IDLE)
        finally:
            await self.daemon.stop()
        for client in self._clients:
            assert UPSTREAM_KEY.encode() not in client.wire.received

    def __repr__(self) -> str:
        return f"<Gate {self.url} {self.snapshot()}>"


def check_log(log: Log) -> None:
    """Check that the log contains no key, and no error that a test did not remove from it."""
    assert UPSTREAM_KEY not in log.text
    assert CLIENT_KEY not in log.text
    assert log.errors == []
