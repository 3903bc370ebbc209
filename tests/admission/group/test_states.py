"""What the log says of a gate's group: each change once."""

import asyncio
from collections.abc import Iterator

import pytest
from loguru import logger

from rustygate.admission.group.local_store import Fault
from rustygate.admission.group.store import Call, Reply, SyncFailed
from tests.support.group import GroupHarness, run_group


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """The lines of the log, with their levels."""
    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(str(line).strip()), format="{level} {message}")
    yield lines
    logger.remove(sink)


def test_each_change_of_the_state_is_logged_once(lines: list[str]) -> None:
    async def scenario(harness: GroupHarness) -> None:
        harness.flood("a", 0, 5)
        await asyncio.sleep(1)
        harness.group.fault = Fault.HANG
        await asyncio.sleep(10)
        harness.group.fault = None
        await asyncio.sleep(2)
        harness.group.lose_state()
        await asyncio.sleep(2)

    run_group(scenario, gates=1, gate_group="g")
    assert lines == [
        "INFO joined group g: 1 member",
        "WARNING the Redis of group g does not answer (no answer within 100 ms): this gate "
        "continues alone with 100% of the limits until it does",
        "INFO Redis answers again: joined group g again, 1 member",
        "INFO group g has forgotten this gate: registering again",
    ]


def test_defect_that_lasts_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    async def fail(call: Call) -> Reply:
        raise SyncFailed("the group's keys hold something else")

    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        for _ in range(2):
            with monkeypatch.context() as patch:
                patch.setattr(harness.stores[0], "sync", fail)
                await asyncio.sleep(10)
            await asyncio.sleep(2)

    run_group(scenario, gates=1, gate_group="g")
    defect = "ERROR a call to group g failed: the group's keys hold something else"
    assert [line for line in lines if line.startswith("ERROR")] == [defect] * 2


def test_gates_with_different_limits_say_so_once(lines: list[str]) -> None:
    async def scenario(harness: GroupHarness) -> None:
        strict = harness.add_gate(rate_limit=5)
        await asyncio.sleep(1)
        harness.flood("a", 0, 10)
        harness.flood("a", strict, 10)
        await asyncio.sleep(10)

    harness = run_group(scenario, gates=1, rate_limit=50, rate_limit_burst=1)
    # The other one has the limits that count.
    assert sum("different limits" in line for line in lines) == 1
    assert harness.total(2, 11) == pytest.approx(45, abs=2)
