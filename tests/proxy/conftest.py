"""Fixtures for tests that send requests through a gate."""

from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from tests.conftest import StartGate
from tests.support.gate import Gate, Log
from tests.support.hostile import MARK
from tests.support.sdk import MAX_THREADS, AsyncClient, BlockingClient, SdkClient, StartSdk


@pytest.fixture
def no_request_byte_is_logged(log: Log) -> Iterator[None]:
    """Check that the log contains no byte of a request, no traceback and no internal error."""
    yield
    assert MARK not in log.text
    assert "Traceback" not in log.text
    assert {line["outcome"] for line in log.exchanges} <= {"ok", "refused", "client_left"}


@pytest.fixture
async def running(gate: StartGate) -> Gate:
    return await gate()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(MAX_THREADS) as threads:
        yield threads


@pytest.fixture(params=["blocking", "asynchronous"])
def sdk(
    request: pytest.FixtureRequest,
    threads: ThreadPoolExecutor,
    openai_client: Callable[..., openai.OpenAI],
    async_client: Callable[..., openai.AsyncOpenAI],
) -> StartSdk:
    """Creates SDK clients of a gate; they do not retry by default.

    They load no CA certificates: TLS is not used, and loading them takes longer than most tests.
    """

    def start(gate: Gate, **options: Any) -> SdkClient:
        if request.param == "blocking":
            http_client = openai.DefaultHttpxClient(verify=False)
            return BlockingClient(openai_client(gate, http_client=http_client, **options), threads)
        async_http_client = openai.DefaultAsyncHttpxClient(verify=False)
        return AsyncClient(async_client(gate, http_client=async_http_client, **options))

    return start


@pytest.fixture
def simulated(gate: StartGate, simulator: str) -> StartGate:
    """Starts gates in front of the simulator."""

    def start(**settings: object) -> Awaitable[Gate]:
        return gate(OPENAI_BASE_URL=simulator, **settings)

    return start
