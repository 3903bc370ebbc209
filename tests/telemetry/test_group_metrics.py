"""/metrics of a gate in a group: state, members, and the duration of its calls."""

from collections.abc import Callable

import pytest

from rustygate.admission.gate import Gate
from rustygate.config import Settings
from rustygate.exchange import MS
from rustygate.telemetry.group_metrics import STATES
from rustygate.telemetry.metrics import Metrics
from tests.support.metrics import GROUP_TYPES, TYPES, Scrape


class Member:
    """A member in some state."""

    def __init__(self, state: str = "together") -> None:
        self.state = state
        self.members = 3
        self.on_sync: Callable[[int], None] = lambda duration: None


async def metrics_of(member: Member) -> Metrics:
    metrics = Metrics(Gate(Settings(openai_api_key="sk-test")))
    metrics.watch_group(member)
    return metrics


async def test_gate_in_a_group_has_its_metrics_besides_its_own() -> None:
    scrape = Scrape((await metrics_of(Member())).text())
    assert {family.name: family.type for family in scrape.families} == TYPES | GROUP_TYPES


@pytest.mark.parametrize("state", STATES)
async def test_one_state_is_1_and_the_others_are_0(state: str) -> None:
    scrape = Scrape((await metrics_of(Member(state))).text())
    values = {labels["state"]: value for labels, value in scrape.samples("rustygate_group_state")}
    assert values == {each: float(each == state) for each in STATES}


async def test_state_and_members_are_read_at_each_scrape() -> None:
    member = Member()
    metrics = await metrics_of(member)
    assert Scrape(metrics.text()).sum("rustygate_group_members") == 3
    member.state, member.members = "alone", 0
    scrape = Scrape(metrics.text())
    assert scrape.sum("rustygate_group_members") == 0
    assert scrape.sum("rustygate_group_state", state="alone") == 1


async def test_answered_calls_are_counted_by_duration() -> None:
    member = Member()
    metrics = await metrics_of(member)
    for duration in (MS // 2, MS // 2, 20 * MS):
        member.on_sync(duration)
    scrape = Scrape(metrics.text())
    name = "rustygate_group_sync_seconds"
    assert scrape.sum(f"{name}_count") == 3
    assert scrape.sum(f"{name}_sum") == pytest.approx(0.021)
    assert scrape.sum(f"{name}_bucket", le="0.001") == 2
    assert scrape.sum(f"{name}_bucket", le="0.01") == 2
    assert scrape.sum(f"{name}_bucket", le="0.025") == 3
