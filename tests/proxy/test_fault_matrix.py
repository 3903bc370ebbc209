"""All faults at once, before a gate that is a process of its own, while a hundred streams pass.

What one fault comes to in all its shapes is told elsewhere. Here they meet: each exchange has its
one line in the log, with the outcome that its fault determines, the healthy ones notice nothing,
and in the end nothing is left of any. `EXAMPLES=1000` makes ten rounds of it.
"""

import asyncio
import os
import signal
import socket
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.conftest import Start
from tests.support.fault_stage import (
    BURST,
    CLIENTS,
    SETTINGS,
    STREAMS,
    Endings,
    Ends,
    Healthy,
    Running,
    Stage,
)
from tests.support.faults import EXCLUSIVE, FAULTS, Act, is_refused
from tests.support.http import (
    response,
)
from tests.support.waiting import in_background, soon, until

ROUNDS = max(1, int(os.environ.get("EXAMPLES", "100")) // 100)

# All of it.

SERVED = Counter([Ends("ok", 200)])

Run = Callable[[], Awaitable[Running]]


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    """Upstream, and at the end nobody is there any more."""
    stage = Stage()
    await stage.upstream.start()
    async with in_background(stage.sort_calls()):
        yield stage
    stage.disconnect()
    await stage.upstream.stop()


@pytest.fixture
def run(start: Start, stage: Stage, tmp_path: Path) -> Iterator[Run]:
    """Starts gates on one socket, the next one as the stage's."""
    (tmp_path / "clients.toml").write_text(CLIENTS)
    given = SETTINGS | {"OPENAI_BASE_URL": stage.upstream.url, "CLIENTS_FILE": "clients.toml"}
    started: list[Running] = []

    async def run() -> Running:
        process = start(sockets=[listening], **given)
        stage.running = await asyncio.to_thread(Running, process)
        started.append(stage.running)
        return stage.running

    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield run
    for running in started:
        running.end()


@asynccontextmanager
async def healthy(stage: Stage) -> AsyncIterator[Healthy]:
    """All the healthy streams, begun; those that are not told to end are cancelled."""
    streams = Healthy(stage)
    try:
        for number in range(STREAMS):
            await streams.begin(f"/v1/healthy/{number}")
        yield streams
    finally:
        await streams.stop()


async def has_accounted_for(running: Running, expected: Mapping[str, Endings]) -> None:
    """There is a line for each exchange and no other, and none of a defect."""
    wanted = Counter(
        {(path, each): n for path, ends_so in expected.items() for each, n in ends_so.items()}
    )
    with suppress(TimeoutError):
        await until(lambda: len(running.exchanges) >= wanted.total())
    found = Counter((line["path"], Ends.of(line)) for line in running.exchanges)
    assert (wanted - found, found - wanted) == (Counter(), Counter())
    assert {line["level"] for line in running.lines} == {"info"}


def spent(endings: Iterable[Endings]) -> int:
    """Units that exchanges took which upstream may have seen."""
    return sum(
        times * ended.attempts
        for ending in endings
        for ended, times in ending.items()
        if ended.reason != "upstream_unreachable"
    )


@pytest.mark.timeout(60 * (1 + ROUNDS))
async def test_each_fault_ends_in_its_outcome_and_leaves_nothing(stage: Stage, run: Run) -> None:
    running = await run()
    files = running.open_files
    async with healthy(stage) as streams:
        expected = streams.expected
        for number in range(ROUNDS):
            async with asyncio.TaskGroup() as together:
                for fault, endings in FAULTS.items():
                    act = Act(stage, f"/v1/{number}/{fault.__name__}")
                    expected[act.target] = endings
                    together.create_task(fault(act), name=fault.__name__)
                running.process.signal(signal.SIGHUP)
            for fault, endings in EXCLUSIVE.items():
                act = Act(stage, f"/v1/{number}/{fault.__name__}")
                expected[act.target] = endings
                stage.hang_up(streams.wires)
                await fault(act)
        await running.says("clients file reloaded")
        await stage.wait_until("rustygate_in_flight", STREAMS)
        await streams.end()
    await has_accounted_for(running, expected)
    shown = await stage.wait_until("rustygate_in_flight", 0)
    assert shown.sum("rustygate_waiters") == 0
    assert shown.sum("rustygate_exchanges_total") == len(running.exchanges)
    left = shown.sum("rustygate_budget_units", lane="", budget="requests")
    assert left == BURST - spent(expected.values())
    stage.disconnect()
    stage.hang_up()
    await until(lambda: running.open_files == files)
    # A drain waits for whatever task is still at an exchange.
    running.process.signal()
    async with soon():
        assert await running.exit_code() == 0


async def test_gate_that_is_to_stop_finishes_what_it_has_and_tells_who_waits(
    stage: Stage, run: Run
) -> None:
    """The next one has the socket already: nobody is refused by it."""
    old = await run()
    async with healthy(stage) as streams:
        narrow, later = Act(stage, "/v1/narrow"), Act(stage, "/v1/later")
        holder = await narrow.asks_narrowly()
        call = await narrow.asked()
        waiters = [await narrow.asks_narrowly() for _ in range(10)]
        await stage.waits(10)
        new = await run()
        old.process.signal()
        await old.says("draining")
        for waiter in waiters:
            is_refused(await waiter.response(), 503, "draining")
        for _ in range(10):
            await later.is_served()
        await call.respond(response(b"whole"))
        assert (await holder.response()).body == b"whole"
        await streams.end()
        assert await old.exit_code() == 0
    told = Counter({Ends("refused", 503, "draining", 0): 10})
    await has_accounted_for(old, streams.expected | {narrow.target: SERVED + told})
    await has_accounted_for(new, {later.target: Counter({Ends("ok", 200): 10})})


async def test_gate_that_is_killed_cuts_who_was_there_and_nobody_else(
    stage: Stage, run: Run
) -> None:
    """No cut stream looks complete; clients that connect meanwhile get the next gate."""
    old = await run()
    async with healthy(stage) as streams:
        narrow, later = Act(stage, "/v1/narrow"), Act(stage, "/v1/later")
        cut = [await narrow.asks_narrowly() for _ in range(10)]
        await stage.waits(9)
        await later.is_served()
        await has_accounted_for(old, {later.target: SERVED})
        old.process.signal(signal.SIGKILL)
        await old.exit_code()
        await streams.stop()
        for client, call in zip(streams.clients, streams.calls, strict=True):
            await client.read_until_cut()
            await call.ended()
        for client in cut:
            await client.ended()
            assert client.wire.received == b""
        early = [await later.asks() for _ in range(10)]
        new = await run()
        async with later.each(lambda call: call.send(response(b"whole"))):
            assert {(await client.response()).body for client in early} == {b"whole"}
    await has_accounted_for(new, {later.target: Counter({Ends("ok", 200): 10})})
    await stage.wait_until("rustygate_in_flight", 0)
