"""Shared fixtures: gates over real sockets, their upstreams and clients."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import hypothesis
import openai
import pytest
from aiohttp import web
from opentelemetry.sdk.trace import TracerProvider

from rustygate.admission.group import member
from rustygate.simulator import Options, make_app
from tests.support.certificates import Authority
from tests.support.gate import WORKERS, Gate, Log, captured_log, check_log
from tests.support.gate_process import GateProcess
from tests.support.http import CLIENT_KEY
from tests.support.process import Process
from tests.support.redis import RedisServer
from tests.support.upstream import Upstream
from tests.support.waiting import SOON_S, until

pytest_plugins = ["tests.support.stalls"]

StartGate = Callable[..., Awaitable[Gate]]
StartGateProcess = Callable[..., Awaitable[GateProcess]]
Start = Callable[..., Process]
StartRedis = Callable[..., RedisServer]

# How long an example takes depends on what else the machine does. A run of the tests says
# something about a change only if the examples are those of the run before.
hypothesis.settings.register_profile(
    "any machine",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
# To look for more: `scripts/test --hypothesis-profile=explore`.
hypothesis.settings.register_profile(
    "explore", hypothesis.settings.get_profile("any machine"), derandomize=False
)
hypothesis.settings.load_profile("any machine")


def pytest_collection_finish() -> None:
    """Exclude pytest's own objects from garbage collection: they live until the end, and there are
    so many of them that a full collection would stop a test's gate for a quarter of a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _same_member_names(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gates of groups have the same names in each run of a test, and make calls at the same times:
    both are random otherwise."""
    random = Random(request.node.nodeid)
    monkeypatch.setattr(member, "token_hex", lambda size: random.randbytes(size).hex())


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A private certificate authority."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
async def _no_task_left() -> AsyncIterator[None]:
    """Check that all tasks of the test and its fixtures have ended."""
    before = asyncio.all_tasks()
    yield
    await until(lambda: asyncio.all_tasks() <= before | {asyncio.current_task()})


@pytest.fixture
def log() -> Iterator[Log]:
    """Everything logged; at the end it must contain no key and no error."""
    with captured_log() as log:
        yield log
    check_log(log)


@pytest.fixture
async def upstream(_no_task_left: None) -> AsyncIterator[Upstream]:
    """A listening scripted upstream."""
    upstream = Upstream()
    await upstream.start()
    yield upstream
    await upstream.stop()


@pytest.fixture
async def simulator(_no_task_left: None) -> AsyncIterator[str]:
    """A running simulator; the value is its base URL."""
    runner = web.AppRunner(make_app(Options(rpm=100_000, tpm=10**9)), shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    await runner.cleanup()


@pytest.fixture
def workers(request: pytest.FixtureRequest) -> int:
    """How many workers the gates of the test have; 0: they are single processes."""
    number: int = getattr(request, "param", WORKERS)
    return number


@pytest.fixture
async def gate(upstream: Upstream, log: Log, workers: int) -> AsyncIterator[StartGate]:
    """Starts gates in front of `upstream`, or of another `OPENAI_BASE_URL`.

    Settings are given as in the environment: `await gate(RATE_LIMIT=5)`. At the end, each gate
    must release everything within a second after its clients disconnect. With a `provider` the
    gate makes spans.
    """
    gates: list[Gate] = []

    async def start(provider: TracerProvider | None = None, **settings: object) -> Gate:
        base_url = str(settings.pop("OPENAI_BASE_URL", upstream.url))
        gates.append(Gate(log, base_url, provider, workers, **settings))
        await gates[-1].daemon.start()
        return gates[-1]

    yield start
    for started in gates:
        await started.close()


@pytest.fixture
async def gate_process(upstream: Upstream, tmp_path: Path) -> AsyncIterator[StartGateProcess]:
    """Starts gates in front of `upstream` as processes of their own, for measurements."""
    started: list[GateProcess] = []

    async def start(**settings: str) -> GateProcess:
        started.append(await GateProcess.start(upstream, tmp_path, **settings))
        return started[-1]

    yield start
    for process in started:
        await process.stop()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts commands in an empty working directory, with only the given environment."""
    processes = []

    def start(*arguments: str, **given: Any) -> Process:
        process = Process(*arguments, **{"cwd": tmp_path} | given)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.close()


@pytest.fixture
def start_redis(tmp_path: Path) -> Iterator[StartRedis]:
    """Starts Redis servers with these lines of configuration."""
    started: list[RedisServer] = []

    def start(*options: str, **given: Any) -> RedisServer:
        directory = tmp_path / f"redis{len(started)}"
        started.append(RedisServer(directory, *options, **given))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture
async def async_client() -> AsyncIterator[Callable[..., openai.AsyncOpenAI]]:
    """Creates asynchronous clients of the official SDK; they do not retry."""
    clients: list[openai.AsyncOpenAI] = []

    def make(gate: Gate, **options: Any) -> openai.AsyncOpenAI:
        clients.append(openai.AsyncOpenAI(**_client_options(gate, options)))
        return clients[-1]

    yield make
    for client in clients:
        await client.close()


@pytest.fixture
def openai_client() -> Iterator[Callable[..., openai.OpenAI]]:
    """Creates blocking clients of the official SDK, for use in a thread of its own."""
    clients: list[openai.OpenAI] = []

    def make(gate: Gate, **options: Any) -> openai.OpenAI:
        clients.append(openai.OpenAI(**_client_options(gate, options)))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def _client_options(gate: Gate, options: dict[str, Any]) -> dict[str, Any]:
    defaults = {"api_key": CLIENT_KEY, "max_retries": 0, "timeout": SOON_S}
    return {"base_url": f"{gate.url}/v1", **defaults, **options}
