"""A group of gates as processes, under load from clients of the official SDK."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from aiohttp import web

from rustygate.simulator import Options, make_app
from tests.support.gate_group import GateGroup, pass_time, running_group
from tests.support.gates import CLIENT_KEYS, CLIENTS_FILE
from tests.support.redis import NONE_INSTALLED, SERVERS
from tests.support.sdk import simulator_stats

# Its processes keep instants of milliseconds.
pytestmark = [pytest.mark.alone, pytest.mark.skipif(not SERVERS, reason=NONE_INSTALLED)]

RATE, BURST = 40.0, 2
LIMITS: dict[str, Any] = {"RATE_LIMIT": RATE, "RATE_LIMIT_BURST": BURST}
# A Redis that is late by this much has failed. A busy machine makes each process late.
NO_ANSWER_S = 0.05

BUSY = ("one gate", "all gates", "two gates")


def keep_busy(group: GateGroup) -> None:
    """Clients at one gate, at all of them, and at two."""
    for name, places in zip(BUSY, ((0,), (0, 1, 2), (1, 2)), strict=True):
        group.keep_sending(name, *places)


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_three_gates_keep_one_limit_and_one_order(tmp_path: Path) -> None:
    async with running_group(tmp_path, **LIMITS) as group:
        keep_busy(group)
        began = await pass_time(0.5)
        syncs = [await group.metric(gate, "rustygate_group_sync_seconds_count") for gate in group]
        ended = await pass_time(5)
        for gate, before in zip(group, syncs, strict=True):
            made = await group.metric(gate, "rustygate_group_sync_seconds_count") - before
            assert 5 * 10 <= made <= 60 * (now() - began)
        assert not group.errors
        assert group.upstream.excess(RATE) <= BURST + RATE * group.jitter_s
        least, most = group.bounds(0.97, 1.03)
        assert least <= group.upstream.used(RATE, began, ended) <= most
        assert group.upstream.jain(BUSY, began, ended) >= 0.99


async def test_three_gates_learn_one_limit(tmp_path: Path) -> None:
    """Upstream admits 120 requests at once, and then two a second."""
    async with (
        simulator(rpm=120) as url,
        running_group(tmp_path, upstream_url=url, RATE_LIMIT="auto") as group,
    ):
        keep_busy(group)
        began = now()
        asked = await pass_time(5) - began
        by_status = (await simulator_stats(url))["by_status"]
        answered = now() - began
        assert not group.errors
    assert by_status.get("429", 0) <= 0.01 * sum(by_status.values())
    assert 0.97 * (120 + 2 * asked) <= by_status["200"] <= 1.01 * (120 + 2 * answered)


async def test_limits_of_a_client_hold_over_all_gates(tmp_path: Path) -> None:
    clients = tmp_path / "clients.toml"
    clients.write_text(CLIENTS_FILE)
    async with running_group(tmp_path, **LIMITS, CLIENTS_FILE=clients) as group:
        for name, key in CLIENT_KEYS.items():
            group.keep_sending(name, 0, 1, 2, key=key)
        began = await pass_time(0.5)
        ended = await pass_time(4)
        assert not group.errors
        upstream = group.upstream
        assert upstream.excess(10, client="slow") <= 2 + 10 * group.jitter_s
        least, most = group.bounds(0.95, 1.06)
        assert least <= upstream.used(10, began, ended, "slow") <= most
        assert least <= upstream.used(RATE - 10, began, ended, "other") <= most


async def test_concurrency_limit_holds_over_all_gates(tmp_path: Path) -> None:
    async with running_group(
        tmp_path, RATE_LIMIT=1000, RATE_LIMIT_BURST=1000, CONCURRENCY_LIMIT=4
    ) as group:
        group.upstream.hold_s = 0.2
        keep_busy(group)
        began = await pass_time(0.5)
        ended = await pass_time(3)
        assert not group.errors
        assert group.upstream.most_in_flight["all"] == 4
        # A slot is free until its gate has said so, and another one has got the grant.
        least, most = group.bounds(0.7, 1.05)
        assert least <= group.upstream.used(4 / 0.2, began, ended) <= most


async def test_requests_that_need_not_wait_do_not(tmp_path: Path) -> None:
    async with running_group(tmp_path, RATE_LIMIT=RATE, RATE_LIMIT_BURST=20) as group:
        client = group.client("light", 0, 1, 2)
        for _ in range(6):
            await client.send()
        queued_ms = []
        for _ in range(40):
            queued_ms.append(await client.send())
            await asyncio.sleep(0.04)
        assert not group.errors
    assert median(queued_ms) <= 0.1
    assert group.upstream.count(0, now()) == 46


async def test_killed_gate_costs_only_its_own_exchanges(tmp_path: Path) -> None:
    """It is killed while it streams, has waiters, and holds grants and slots."""
    async with running_group(tmp_path, **LIMITS, CONCURRENCY_LIMIT=30) as group:
        keep_busy(group)
        group.keep_sending("streams", 0, 1, 2, in_flight=3, stream=True)
        began = await pass_time(0.5)
        killed = await pass_time(2)
        group.gates[0].kill()
        await group.until_members(2, limit_s=3)
        settled = await pass_time(max(0.0, killed + 2 - now()))
        ended = await pass_time(2)
        assert not group.errors
        assert group.lost >= 8
        upstream = group.upstream
        least, most = group.bounds(0.95, 1.05)
        assert upstream.used(RATE, began, killed) >= least
        assert least <= upstream.used(RATE, settled, ended) <= most
        assert upstream.excess(RATE) <= BURST + RATE * group.jitter_s
        assert upstream.jain(BUSY, settled, ended) >= 0.98


async def test_redis_that_restarts_empty_starts_no_second_burst(tmp_path: Path) -> None:
    async with running_group(tmp_path, RATE_LIMIT=RATE, RATE_LIMIT_BURST=20) as group:
        keep_busy(group)
        await pass_time(1.5)
        group.redis.stop()
        await group.until_state("alone", limit_s=2)
        assert [await group.metric(gate, "rustygate_group_members") for gate in group] == [0] * 3
        await pass_time(1)
        group.redis.start()
        await group.until_state("together", limit_s=4)
        await group.until_members(3)
        settled = await pass_time(1)
        ended = await pass_time(2)
        assert not group.errors
        for gate in group:
            # While it joined, a busy machine may have kept it from it.
            alone = gate.log("this gate continues alone")
            outages = len([line for line in alone if " 100% " not in line])
            assert outages == len(gate.log("joined group rustygate again"))
            assert outages == 1 or (outages > 1 and group.lateness.worst_s > NO_ANSWER_S)
        upstream = group.upstream
        assert upstream.excess(RATE) <= 20 + RATE * (0.2 + group.jitter_s)
        assert upstream.excess(RATE, since=settled) <= 3 + RATE * group.jitter_s
        least, most = group.bounds(0.95, 1.05)
        assert least <= upstream.used(RATE, settled, ended) <= most
        assert upstream.jain(BUSY, settled, ended) >= 0.98


async def test_paused_redis_delays_nobody(tmp_path: Path) -> None:
    async with running_group(tmp_path, RATE_LIMIT=RATE, RATE_LIMIT_BURST=6) as group:
        keep_busy(group)
        await pass_time(1.5)
        group.redis.pause()
        paused = now()
        await group.until_state("alone", limit_s=2)
        settled = await pass_time(max(0.0, paused + 1 - now()))
        resumed = await pass_time(2)
        group.redis.resume()
        await group.until_state("together", limit_s=4)
        again = await pass_time(1)
        ended = await pass_time(2)
        assert not group.errors
        upstream = group.upstream
        least, most = group.bounds(0.95, 1.05)
        assert least - 0.05 <= upstream.used(RATE, settled, resumed) <= most + 0.05
        assert least <= upstream.used(RATE, again, ended) <= most
        assert upstream.jain(BUSY, again, ended) >= 0.98


@asynccontextmanager
async def simulator(rpm: int) -> AsyncIterator[str]:
    """A simulator in this process; the value is its base URL."""
    runner = web.AppRunner(make_app(Options(rpm=rpm, tpm=10**9)), shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()
