"""The official SDK under the gate's rate limits."""

import asyncio
from collections.abc import Coroutine
from functools import partial
from math import ceil
from time import monotonic
from typing import Any

import openai
import pytest

from tests.conftest import StartGate
from tests.support import http
from tests.support.gate import Gate
from tests.support.sdk import (
    StartSdk,
    chat,
    raw_chat,
)
from tests.support.waiting import until, within


async def test_ten_concurrent_calls_are_served_in_order_at_the_rate(
    simulated: StartGate, sdk: StartSdk
) -> None:
    """Ten times as fast as RATE_LIMIT=1 and RATE_LIMIT_BURST=3 in compose.yaml."""
    await warm_up(sdk, await simulated())
    gate = await simulated(RATE_LIMIT=10, RATE_LIMIT_BURST=3)
    client = sdk(gate)
    names = [f"model-{number}" for number in range(10)]
    began = monotonic()
    calls = await start_in_order(gate, [client.call(raw_chat(model=name)) for name in names])
    started = monotonic() - began
    async with within(5):
        responses = [await call for call in calls]
    assert [completion.parse().model for completion in responses] == names
    assert monotonic() - began >= 0.7
    lines = (await gate.settled(11))[1:]
    waited = [line["model"] for line in lines if line["queued_ms"]]
    assert waited == [name for name in names if name in waited]
    assert len(waited) >= 7 - ceil(10 * started)
    assert int(responses[-1].headers["X-RustyGate-Queued-Ms"]) == lines[-1]["queued_ms"]


async def test_two_clients_alternate(simulated: StartGate, sdk: StartSdk) -> None:
    """However many requests one of them queued before the other arrived."""
    gate = await simulated(CONCURRENCY_LIMIT=1, RATE_LIMIT=20, RATE_LIMIT_BURST=1)
    holder = await gate.send(http.chat("X-Simulate: stall", "X-RustyGate-Client: holder"))
    await gate.wait_until(in_flight=1)
    await gate.send(http.chat("X-RustyGate-Client: next"))
    await gate.wait_until(waiters=1)
    many, few = (
        sdk(gate, default_headers={"X-RustyGate-Client": name}) for name in ("many", "few")
    )
    calls = await start_in_order(gate, [client.call(chat()) for client in [many] * 4 + [few] * 2])
    holder.disconnect()
    await asyncio.gather(*calls)
    served = [line["client"] for line in await gate.settled(8)]
    assert served == ["holder", "next", "many", "few", "many", "few", "many", "many"]


async def test_refusal_raises_a_rate_limit_error(simulated: StartGate, sdk: StartSdk) -> None:
    gate = await simulated(RATE_LIMIT=0.01, RATE_LIMIT_BURST=1, RATE_LIMIT_TIMEOUT=1)
    client = sdk(gate)
    await client.call(chat())
    with pytest.raises(openai.RateLimitError) as raised:
        await client.call(chat())
    assert (raised.value.type, raised.value.code) == ("requests", "rate_limit_exceeded")
    assert raised.value.response.headers["X-RustyGate-Error"] == "queue_timeout"
    assert 90_000 < int(raised.value.response.headers["retry-after-ms"]) <= 100_000


async def test_sdk_retries_after_the_announced_time(simulated: StartGate, sdk: StartSdk) -> None:
    # The second call comes before the next request is due, on a busy machine, too.
    gate = await simulated(RATE_LIMIT=0.4, RATE_LIMIT_BURST=1, RATE_LIMIT_TIMEOUT=0.05)
    client = sdk(gate, max_retries=1)
    await client.call(raw_chat())
    raw = await client.call(raw_chat())
    assert raw.retries_taken == 1
    outcomes = [line["outcome"] for line in await gate.settled(3)]
    assert outcomes == ["ok", "refused", "ok"]


async def warm_up(sdk: StartSdk, gate: Gate) -> None:
    """Make a first call, for which the SDK needs extra time."""
    await sdk(gate).call(chat())
    await gate.settled()


async def start_in_order(
    gate: Gate, calls: list[Coroutine[Any, Any, Any]]
) -> list[asyncio.Task[Any]]:
    """Start calls, each as soon as the gate has seen the previous one."""
    tasks = []
    for number, call in enumerate(calls, known_exchanges(gate) + 1):
        tasks.append(asyncio.create_task(call))
        await until(partial(has_seen, gate, number))
    return tasks


def has_seen(gate: Gate, count: int) -> bool:
    return known_exchanges(gate) == count


def known_exchanges(gate: Gate) -> int:
    """How many exchanges a gate has seen: waiting, in flight and settled."""
    now = gate.snapshot()
    return now["waiters"] + now["in_flight"] + len(gate.log.exchanges)
