"""All faults at once, through one gate process that also serves a hundred healthy streams.

Other tests cover the variants of each fault. Here, all faults happen together: each exchange has
exactly one log line with the outcome of its fault, healthy streams are not affected, and nothing
is left at the end. `EXAMPLES=1000` runs ten rounds.
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
from tests.support.fault_testbed import (
    BURST,
    CLIENTS,
    SETTINGS,
    STREAMS,
    FaultTestbed,
    GateProcess,
    HealthyStreams,
    Outcome,
    Outcomes,
)
from tests.support.faults import EXCLUSIVE_FAULTS, FAULTS, Scenario, check_refusal
from tests.support.http import (
    response,
)
from tests.support.waiting import in_background, soon, until

ROUNDS = max(1, int(os.environ.get("EXAMPLES", "100")) // 100)

# All faults together.

SERVED = Counter([Outcome("ok", 200)])

# Upstream keeps silent while the next gate starts, which takes long on a busy machine.
PATIENT = {"UPSTREAM_READ_TIMEOUT": "60"}

StartGate = Callable[..., Awaitable[GateProcess]]


@pytest.fixture
async def testbed() -> AsyncIterator[FaultTestbed]:
    """A testbed with its upstream; at the end all clients disconnect."""
    testbed = FaultTestbed()
    await testbed.upstream.start()
    async with in_background(testbed.sort_calls()):
        yield testbed
    testbed.disconnect()
    await testbed.upstream.stop()


@pytest.fixture
def start_gate(start: Start, testbed: FaultTestbed, tmp_path: Path) -> Iterator[StartGate]:
    """Starts gates on one listening socket; the testbed uses the newest."""
    (tmp_path / "clients.toml").write_text(CLIENTS)
    given = SETTINGS | {"OPENAI_BASE_URL": testbed.upstream.url, "CLIENTS_FILE": "clients.toml"}
    started: list[GateProcess] = []

    async def start_gate(**settings: str) -> GateProcess:
        process = start(sockets=[listening], **given | settings)
        testbed.running = await asyncio.to_thread(GateProcess, process)
        started.append(testbed.running)
        return testbed.running

    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield start_gate
    for running in started:
        running.kill()


@asynccontextmanager
async def healthy_streams(testbed: FaultTestbed) -> AsyncIterator[HealthyStreams]:
    """All healthy streams, started; those still open at the end are cancelled."""
    streams = HealthyStreams(testbed)
    try:
        for number in range(STREAMS):
            await streams.start(f"/v1/healthy_streams/{number}")
        yield streams
    finally:
        await streams.stop()


async def check_log(running: GateProcess, expected: Mapping[str, Outcomes]) -> None:
    """Check that each exchange has exactly one log line, and that no line reports a defect."""
    expected_lines = Counter(
        {(path, each): n for path, outcomes in expected.items() for each, n in outcomes.items()}
    )
    with suppress(TimeoutError):
        await until(lambda: len(running.exchanges) >= expected_lines.total())
    logged_lines = Counter((line["path"], Outcome.of(line)) for line in running.exchanges)
    assert (expected_lines - logged_lines, logged_lines - expected_lines) == (Counter(), Counter())
    other = [line for line in running.lines if not line["message"].startswith("refused ")]
    assert {line["level"] for line in other} == {"info"}


def units_spent(outcomes: Iterable[Outcomes]) -> int:
    """Units taken by exchanges that upstream may have seen."""
    return sum(
        times * outcome.attempts
        for outcomes_of_fault in outcomes
        for outcome, times in outcomes_of_fault.items()
        if outcome.reason != "upstream_unreachable"
    )


@pytest.mark.timeout(60 * (1 + ROUNDS))
async def test_each_fault_has_its_outcome_and_leaves_nothing(
    testbed: FaultTestbed, start_gate: StartGate
) -> None:
    running = await start_gate()
    files = running.open_files
    async with healthy_streams(testbed) as streams:
        expected = streams.expected
        for number in range(ROUNDS):
            async with asyncio.TaskGroup() as group:
                for fault, outcomes in FAULTS.items():
                    scenario = Scenario(testbed, f"/v1/{number}/{fault.__name__}")
                    expected[scenario.target] = outcomes
                    group.create_task(fault(scenario), name=fault.__name__)
                running.process.signal(signal.SIGHUP)
            for fault, outcomes in EXCLUSIVE_FAULTS.items():
                scenario = Scenario(testbed, f"/v1/{number}/{fault.__name__}")
                expected[scenario.target] = outcomes
                testbed.close_upstream_connections(streams.wires)
                await fault(scenario)
        await running.wait_for_log("clients file reloaded: ")
        await testbed.wait_for_metric("rustygate_in_flight", STREAMS)
        await streams.finish()
    await check_log(running, expected)
    scrape = await testbed.wait_for_metric("rustygate_in_flight", 0)
    assert scrape.sum("rustygate_waiters") == 0
    assert scrape.sum("rustygate_exchanges_total") == len(running.exchanges)
    left = scrape.sum("rustygate_budget_units", lane="", budget="requests")
    assert left == BURST - units_spent(expected.values())
    testbed.disconnect()
    testbed.close_upstream_connections()
    await until(lambda: running.open_files == files)
    # A drain would wait for any exchange that is left.
    running.process.signal()
    async with soon():
        assert await running.exit_code() == 0


async def test_draining_gate_finishes_its_exchanges_and_refuses_waiters(
    testbed: FaultTestbed, start_gate: StartGate
) -> None:
    """The next gate already has the socket, so that no new request is refused."""
    old = await start_gate(**PATIENT)
    async with healthy_streams(testbed) as streams:
        limited, later = Scenario(testbed, "/v1/limited"), Scenario(testbed, "/v1/later")
        holder = await limited.send_limited()
        call = await limited.read_call()
        waiters = [await limited.send_limited() for _ in range(10)]
        await testbed.wait_for_waiters(10)
        new = await start_gate()
        old.process.signal()
        await old.wait_for_log("draining")
        for waiter in waiters:
            check_refusal(await waiter.response(), 503, "draining")
        for _ in range(10):
            await later.check_served()
        await call.respond(response(b"whole"))
        assert (await holder.response()).body == b"whole"
        await streams.finish()
        assert await old.exit_code() == 0
    refused = Counter({Outcome("refused", 503, "draining", 0): 10})
    await check_log(old, streams.expected | {limited.target: SERVED + refused})
    await check_log(new, {later.target: Counter({Outcome("ok", 200): 10})})


async def test_killed_gate_cuts_only_its_own_clients(
    testbed: FaultTestbed, start_gate: StartGate
) -> None:
    """No cut stream looks complete; clients that connect meanwhile get the next gate."""
    old = await start_gate(**PATIENT)
    async with healthy_streams(testbed) as streams:
        limited, later = Scenario(testbed, "/v1/limited"), Scenario(testbed, "/v1/later")
        cut = [await limited.send_limited() for _ in range(10)]
        await testbed.wait_for_waiters(9)
        await later.check_served()
        await check_log(old, {later.target: SERVED})
        old.process.signal(signal.SIGKILL)
        await old.exit_code()
        await streams.stop()
        for client, call in zip(streams.clients, streams.calls, strict=True):
            await client.read_until_cut()
            await call.ended()
        for client in cut:
            await client.ended()
            assert client.wire.received == b""
        early = [await later.send() for _ in range(10)]
        new = await start_gate()
        async with later.handle_calls(lambda call: call.send(response(b"whole"))):
            assert {(await client.response()).body for client in early} == {b"whole"}
    await check_log(new, {later.target: Counter({Outcome("ok", 200): 10})})
    await testbed.wait_for_metric("rustygate_in_flight", 0)
