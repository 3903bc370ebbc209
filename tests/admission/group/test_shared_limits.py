"""What one gate of a group learns of upstream, or of a client's limits, holds for all of them."""

import asyncio
from random import Random

import pytest

from rustygate.admission.admission import Admission
from rustygate.core.bucket import MINUTE, SECOND
from rustygate.core.clients import Limits
from rustygate.core.rate_limit_headers import Quota, RateLimitUpdate
from rustygate.exchange import Exchange
from tests.support.group import GroupHarness, jain, run_group


class Upstream:
    """Limits the requests of one model, and reports that, as OpenAI does."""

    def __init__(self, harness: GroupHarness, per_minute: int) -> None:
        self.harness, self.per_minute = harness, per_minute
        self.level, self.at = float(per_minute), harness.now
        self.refused: list[float] = []

    def respond(self, admission: Admission) -> None:
        answer(admission, self.charge())

    def charge(self) -> Quota | None:
        """A request arrives; None: it is refused."""
        now = self.harness.now
        self.level += (now - self.at) * self.per_minute / 60
        self.level, self.at = min(self.per_minute, self.level), now
        if self.level < 1:
            self.refused.append(now)
            return None
        self.level -= 1
        return Quota(self.per_minute, int(self.level))


def answer(admission: Admission, quota: Quota | None) -> None:
    update = None if quota is None else RateLimitUpdate(quota, None)
    admission.record_response(quota is not None, update, refused=quota is None)


@pytest.mark.parametrize("per_minute", [60, 600, 6000])
def test_learned_limit_is_used_by_all_gates_together(per_minute: int) -> None:
    upstream: Upstream

    async def scenario(harness: GroupHarness) -> None:
        nonlocal upstream
        upstream = Upstream(harness, per_minute)
        upstream.level = per_minute / 10
        harness.on_response = upstream.respond
        await asyncio.sleep(1)
        for client, gate in (("a", 0), ("b", 1), ("b", 2)):
            harness.flood(client, gate, 10, hold_s=0.05, model="m")
        await asyncio.sleep(60)

    harness = run_group(scenario, rate_limit=None, rate_limit_burst=5)
    assert harness.errors == []
    # Responses to the first requests, sent at once by different gates, cross each other.
    assert len(upstream.refused) <= 3
    assert sum(at > 3 for at in upstream.refused) <= 0.01 * harness.total()
    assert harness.total(11, 61) >= 0.97 * 50 * per_minute / 60
    assert jain([harness.count("a", 11), harness.count("b", 11)]) >= 0.98


def test_gate_without_requests_knows_the_limit_with_its_first_one() -> None:
    async def scenario(harness: GroupHarness) -> None:
        upstream = Upstream(harness, 60)
        harness.on_response = upstream.respond
        await asyncio.sleep(1)
        await asyncio.gather(*(harness.admit("a", 0, model="m") for _ in range(60)))
        exchange = await harness.admit("b", 1, model="m")
        assert exchange.queued >= 0.5 * SECOND
        assert upstream.refused == []

    run_group(scenario, rate_limit=None, rate_limit_burst=5)


def test_pause_holds_for_all_gates() -> None:
    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        harness.on_response = lambda admission: admission.pause(3 * SECOND)
        await harness.admit("a", 0, model="m")
        harness.on_response = None
        await asyncio.sleep(0.2)
        exchange = await harness.admit("b", 1, model="m")
        assert 2.7 * SECOND <= exchange.queued <= 2.85 * SECOND

    run_group(scenario)


def test_slow_down_halves_the_rate_of_all_gates_together() -> None:
    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        for gate in range(3):
            harness.flood("a", gate, 10, model="m")
        await asyncio.sleep(10)

        def slow_down(admission: Admission) -> None:
            if admission.exchange.client == "b":
                admission.pause(0, slow=True)

        harness.on_response = slow_down
        await harness.admit("b", 0, model="m")
        harness.on_response = None
        await asyncio.sleep(10)

    harness = run_group(scenario, rate_limit=40, rate_limit_burst=2)
    assert harness.total(2, 11) == pytest.approx(40 * 9, rel=0.03)
    assert harness.total(12, 21) == pytest.approx(20 * 9, rel=0.1)


def test_limits_of_a_client_are_for_all_gates_together() -> None:
    limits = {"a": Limits(requests_per_second=5, burst=2), "b": Limits()}

    async def scenario(harness: GroupHarness) -> None:
        for each in harness.gates:
            each.limit_clients(limits, {"a": 1.0, "b": 1.0}, version=1)
        await asyncio.sleep(1)
        for gate in range(3):
            harness.flood("a", gate, 5)
        harness.trickle("b", [0, 1, 2], 0.1)
        await asyncio.sleep(20)

    harness = run_group(scenario, rate_limit=100, rate_limit_burst=10)
    assert harness.count("a") == pytest.approx(5 * 20 + 2, abs=2)
    assert max(harness.waits["b"]) <= 0.05


def test_waived_admission_is_returned_to_the_groups_own_budgets() -> None:
    async def scenario(harness: GroupHarness) -> None:
        harness.on_response = lambda admission: admission.waive()
        await asyncio.sleep(1)
        for _ in range(5):
            await harness.admit("a", 0, tokens=100)
        await asyncio.sleep(1)
        own = harness.group.scheduler.own
        assert own.requests is not None
        assert own.tokens is not None
        now = harness.group.now()
        assert (own.requests.level(now) + own.held, own.in_flight - own.held) == (10, 0)
        assert own.tokens.level(now) + own.held_tokens == 1000

    run_group(scenario, rate_limit=0.001, rate_limit_burst=10, tokens_per_minute=1000)


def test_newest_clients_file_counts_at_all_gates() -> None:
    async def scenario(harness: GroupHarness) -> None:
        for place, version in enumerate((1, 3, 2)):
            limits = {"a": Limits(requests_per_second=5 * version, burst=1)}
            harness.gates[place].limit_clients(limits, {"a": 1.0}, version=version)
            await asyncio.sleep(0.1)
        harness.flood("a", 0, 5)
        await asyncio.sleep(10)

    harness = run_group(scenario, rate_limit=100, rate_limit_burst=10)
    assert harness.count("a") == pytest.approx(15 * 10, abs=3)


def test_lane_knowledge_survives_a_store_that_loses_its_state() -> None:
    async def scenario(harness: GroupHarness) -> None:
        upstream = Upstream(harness, 600)
        upstream.level = 20
        harness.on_response = upstream.respond
        await asyncio.sleep(1)
        for gate in range(3):
            harness.flood("a", gate, 10, hold_s=0.05, model="m")
        await asyncio.sleep(20)
        harness.group.lose_state()
        await asyncio.sleep(20)
        lane = harness.group.scheduler.lanes["m"].budgets
        assert lane.known
        assert lane.requests is not None
        assert (lane.requests.burst, lane.requests.period) == (600, MINUTE // 600)
        assert sum(at > 3 for at in upstream.refused) <= 0.02 * harness.total()

    harness = run_group(scenario, rate_limit=None, rate_limit_burst=5)
    assert harness.errors == []
    assert harness.total(22, 41) >= 0.95 * 10 * 19


def test_late_response_at_one_gate_does_not_stop_the_others() -> None:
    """Its levels are as old as its request, and the others have admitted much since."""

    async def scenario(harness: GroupHarness) -> None:
        upstream = Upstream(harness, 600)
        upstream.level = 60

        def respond(admission: Admission) -> None:
            if admission.exchange.client == "slow":
                answer(admission, Quota(600, 40))
            else:
                upstream.respond(admission)

        harness.on_response = respond
        await asyncio.sleep(1)
        await harness.admit("a", 1, model="m")
        harness.spawn("slow", 0, hold_s=60, model="m")
        await asyncio.sleep(1)
        harness.flood("a", 1, 10, model="m")
        await asyncio.sleep(80)
        assert upstream.refused == []

    harness = run_group(scenario, rate_limit=None, rate_limit_burst=5)
    assert harness.count("slow") == 1
    assert harness.total(50, 60) == pytest.approx(100, abs=3)
    assert harness.total(63, 73) == pytest.approx(100, abs=3)


@pytest.mark.parametrize("times_s", [(0.5, 3), (12, 40)], ids=["seconds", "half a minute"])
def test_learned_limit_is_used_in_full_although_responses_take_long(
    times_s: tuple[float, float],
) -> None:
    """Upstream charges a request when it arrives, and reports the level then with its response."""
    upstream: Upstream

    async def send(harness: GroupHarness, gate: int, random: Random) -> None:
        exchange = Exchange("a", "POST", "/v1/x", model="m", deadline=10**18)
        while True:
            async with harness.gates[gate].admission(exchange) as admission:
                harness.admitted.append(("a", gate, harness.now))
                await asyncio.sleep(random.uniform(0.005, 0.025))
                quota = upstream.charge()
                await asyncio.sleep(random.uniform(*times_s))
                answer(admission, quota)

    async def scenario(harness: GroupHarness) -> None:
        nonlocal upstream
        upstream = Upstream(harness, 600)
        upstream.level = 60
        await asyncio.sleep(1)
        random = Random(1)
        for number in range(int(15 * times_s[1])):
            harness.demand(send(harness, number % 3, random))
        await asyncio.sleep(100)

    harness = run_group(scenario, rate_limit=None, rate_limit_burst=5)
    assert len(upstream.refused) <= 3
    assert 0.94 * 600 <= harness.total(41, 101) <= 1.06 * 600
