"""What /metrics and /ready say of a gate in a group."""

import asyncio

import pytest

from rustygate.admission.gate import Gate
from rustygate.admission.group.local_store import Fault
from rustygate.admission.group.member import STATES
from rustygate.config import Settings
from rustygate.control_plane import readiness
from tests.support.group import GroupHarness, run_group
from tests.support.metrics import GROUP_TYPES, TYPES, Scrape, metrics_of

SYNCS = "rustygate_group_sync_seconds"


def scrape(harness: GroupHarness) -> Scrape:
    """A scrape of the first gate."""
    return Scrape(metrics_of(harness.gates[0]).text())


def state_in(scraped: Scrape) -> str:
    """The one state whose value is 1."""
    values = {labels["state"]: value for labels, value in scraped.samples("rustygate_group_state")}
    assert sorted(values.values()) == [0, 0, 1]
    assert tuple(values) == STATES
    return max(values, key=lambda state: values[state])


def test_gate_in_a_group_has_its_metrics_besides_its_own() -> None:
    async def scenario(harness: GroupHarness) -> None:
        types = {family.name: family.type for family in scrape(harness).families}
        assert types == TYPES | GROUP_TYPES

    run_group(scenario)


def test_state_and_members_are_read_at_each_scrape() -> None:
    async def scenario(harness: GroupHarness) -> None:
        [first, *_] = harness.gates
        metrics = metrics_of(first)
        seen = []

        def look() -> None:
            scraped = Scrape(metrics.text())
            state = state_in(scraped)
            assert readiness(first) == {"status": "ready", "group": state}
            seen.append((state, scraped.sum("rustygate_group_members")))

        look()
        await asyncio.sleep(2)
        look()
        harness.group.fault = Fault.REFUSE
        await asyncio.sleep(2)
        look()
        harness.group.fault = None
        await asyncio.sleep(3)
        look()
        assert seen == [("joining", 0), ("together", 3), ("alone", 0), ("together", 3)]

    run_group(scenario, gates=3)


def test_answered_calls_are_counted_by_duration() -> None:
    """Each takes half a millisecond; those without an answer are not counted."""

    async def scenario(harness: GroupHarness) -> None:
        metrics = metrics_of(harness.gates[0])
        await asyncio.sleep(5)
        answered = harness.stores[0].calls
        harness.group.fault = Fault.HANG
        await asyncio.sleep(2)
        scraped = Scrape(metrics.text())
        count = scraped.sum(f"{SYNCS}_count")
        assert answered >= count >= answered - 1 >= 5
        assert scraped.sum(f"{SYNCS}_sum") == pytest.approx(count * 0.0005, rel=0.01)
        assert scraped.sum(f"{SYNCS}_bucket", le="0.0005") == count
        buckets = [labels["le"] for labels, _ in scraped.samples(f"{SYNCS}_bucket")]
        assert (buckets[0], buckets[-2], len(buckets)) == ("0.0005", "1.0", 12)

    run_group(scenario, gates=1)


async def test_gate_without_a_group_says_nothing_of_one() -> None:
    gate = Gate(Settings(openai_api_key="sk-test"))
    types = {family.name: family.type for family in Scrape(metrics_of(gate).text()).families}
    assert types == TYPES
    assert readiness(gate) == {"status": "ready"}


def test_draining_gate_is_not_ready_whatever_its_group() -> None:
    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        harness.gates[0].close()
        assert readiness(harness.gates[0]) == {"status": "draining", "group": "together"}

    run_group(scenario)
