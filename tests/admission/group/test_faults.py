"""Members that die, freeze, leave and join, and a store that fails: no request fails because of
that, and nothing is lost for good."""

import asyncio
from collections.abc import Callable

import pytest

from rustygate.admission.group.dispatcher import GroupDispatcher
from rustygate.admission.group.local_store import Fault
from rustygate.core.bucket import SECOND
from tests.support.copies import copy_of
from tests.support.group import GroupHarness, jain, run_group
from tests.support.waiting import until

RATE = 40
SETTINGS = {"rate_limit": RATE, "rate_limit_burst": 2}

OUTAGES = Fault.REFUSE, Fault.HANG, Fault.LOSE_REPLY, Fault.STALL


def flood(harness: GroupHarness, **fields: float) -> None:
    for client, gates in {"one": [0], "two": [0, 1], "all": [0, 1, 2]}.items():
        for gate in gates:
            harness.flood(client, gate, 20, **fields)


def kill(harness: GroupHarness, gate: int) -> None:
    """A member stops without a word."""
    member = harness.gates[gate].member
    assert member is not None
    assert member._task is not None
    member._task.cancel()


def test_quota_of_a_member_that_dies_goes_to_the_others() -> None:
    """It has waiters, grants, and an admission in flight."""

    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        flood(harness)
        harness.spawn("slow", 2, hold_s=1000)
        await asyncio.sleep(5)
        kill(harness, 2)
        await asyncio.sleep(10)

    harness = run_group(scenario, **SETTINGS, concurrency_limit=60)
    assert harness.errors == []
    assert harness.total(8, 16) >= 0.97 * RATE * 8
    assert len(harness.group.scheduler.members) == 2
    assert harness.total(6, 8) >= 0.7 * RATE * 2


def test_slots_of_a_member_that_dies_are_free_after_its_lease() -> None:
    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        for _ in range(2):
            harness.spawn("a", 0, hold_s=1000)
        await asyncio.sleep(1)
        kill(harness, 0)
        exchange = await harness.admit("b", 1)
        assert 1.0e9 <= exchange.queued <= 1.8e9

    run_group(scenario, rate_limit=None, concurrency_limit=2)


def test_member_that_was_frozen_uses_no_old_grant_and_registers_again() -> None:
    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        harness.spawn("slow", 0, hold_s=30)
        harness.trickle("a", [0], 0.1)
        await asyncio.sleep(1)
        member, dispatcher = harness.gates[0].member, harness.gates[0].dispatcher
        assert member is not None
        until = dispatcher.now() + 10_000_000_000
        frozen: Callable[[], int] = lambda: until  # noqa: E731
        due, member._due = member._due, frozen  # type: ignore[method-assign]
        await asyncio.sleep(5)
        # What it was given is used for a second at most.
        assert harness.count("a", 3) == 0
        await asyncio.sleep(5.001)
        member._due = due  # type: ignore[method-assign]
        await asyncio.sleep(2)
        assert harness.states() == ["together"] * 3
        await harness.stop_demand(requests=False)
        await asyncio.sleep(1)
        assert harness.group.scheduler.own.in_flight - harness.group.scheduler.own.held == 1
        assert harness.total(12) >= 60

    harness = run_group(scenario, rate_limit=40, rate_limit_burst=20)
    assert harness.errors == []


def test_draining_member_gives_everything_back_at_once() -> None:
    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        flood(harness)
        await asyncio.sleep(5)
        harness.gates[2].close()
        await harness.gates[2].leave_group()
        assert len(harness.group.scheduler.members) == 2
        await asyncio.sleep(5)

    harness = run_group(scenario, **SETTINGS)
    assert {type(error).__name__ for error in harness.errors} == {"Draining"}
    assert len(harness.errors) == 20
    assert harness.total(6, 11) >= 0.97 * RATE * 5


def test_idle_member_leaves_at_once() -> None:
    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        began = harness.now
        await harness.gates[2].leave_group()
        assert len(harness.group.scheduler.members) == 2
        assert harness.now - began < 0.01
        calls = harness.stores[2].calls
        await asyncio.sleep(2)
        assert harness.stores[2].calls == calls

    run_group(scenario)


def test_member_that_joins_shares_at_once() -> None:
    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        harness.flood("old", 0, 20)
        await asyncio.sleep(5)
        harness.flood("new", harness.add_gate(), 20)
        await asyncio.sleep(5)

    harness = run_group(scenario, gates=2, **SETTINGS)
    assert harness.errors == []
    assert jain([harness.count("old", 6.1), harness.count("new", 6.1)]) >= 0.99
    assert 0.97 * RATE * 10 <= harness.total() <= RATE * 10 + 3


@pytest.mark.parametrize("fault", list(OUTAGES))
def test_members_go_on_alone_while_the_store_fails(fault: Fault) -> None:
    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        flood(harness)
        await asyncio.sleep(9)
        harness.group.fault = fault
        await asyncio.sleep(30)
        assert harness.states() == ["alone"] * 3
        harness.group.resume()
        await asyncio.sleep(0.25)
        # Calls that were on their way have made no other members.
        assert harness.states() == ["together"] * 3
        assert len(harness.group.scheduler.members) == 3
        await asyncio.sleep(9.75)
        await harness.stop_demand()
        await asyncio.sleep(3)
        harness.assert_conserved()

    harness = run_group(scenario, **SETTINGS)
    assert harness.errors == []
    assert harness.total(12, 40) == pytest.approx(RATE * 28, rel=0.05)
    assert harness.total(42, 50) == pytest.approx(RATE * 8, rel=0.03)
    assert jain(harness.count(client, 42) for client in ("one", "two", "all")) >= 0.99
    assert harness.total(10, 12) >= 0.8 * RATE * 2
    assert harness.total(40, 42) >= 0.85 * RATE * 2
    # No member bursts when the store fails, nor while the members come back one after the other.
    assert harness.excess(9, 11) <= 2 + RATE * 0.1
    # If its calls were heard, the group does not know that they were alone.
    known = fault is not Fault.LOSE_REPLY
    assert harness.excess(39, 50) <= 2 + RATE * (0.025 if known else 0.2)


@pytest.mark.parametrize("limits", [{"rate_limit": 50}, {"rate_limit": None}], ids=["50", "auto"])
def test_gates_alone_share_the_strictest_limit(limits: dict[str, int | None]) -> None:
    async def scenario(harness: GroupHarness) -> None:
        strict = harness.add_gate(rate_limit=5)
        await asyncio.sleep(1)
        for gate in 0, strict:
            harness.flood(f"client-{gate}", gate, 10)
        await asyncio.sleep(10)
        harness.group.fault = Fault.REFUSE
        await asyncio.sleep(10)
        harness.group.fault = None
        await asyncio.sleep(10)

    harness = run_group(scenario, gates=1, rate_limit_burst=1, **limits)
    assert harness.total(2, 11) == pytest.approx(45, abs=2)
    assert harness.total(12, 21) == pytest.approx(45, abs=3)
    # Together again.
    assert harness.total(23, 30) == pytest.approx(35, abs=2)


@pytest.mark.parametrize("own", [8, None], ids=["8", "no limit"])
def test_gate_alone_has_its_share_of_the_strictest_slots(own: int | None) -> None:
    async def scenario(harness: GroupHarness) -> None:
        strict = harness.add_gate(concurrency_limit=2)
        await asyncio.sleep(1)
        for gate in 0, strict:
            harness.flood(f"client-{gate}", gate, 10, hold_s=1)
        await asyncio.sleep(5)
        harness.stores[0].fault = Fault.REFUSE
        await asyncio.sleep(5)

    harness = run_group(scenario, gates=1, concurrency_limit=own)
    alone = [at for _, gate, at in harness.admitted if gate == 0 and 7 < at < 11]
    assert 3 <= len(alone) <= 5


def test_slots_held_by_members_that_are_still_alone_are_not_granted_again() -> None:
    """They have four of six slots, and join at different instants."""

    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        for gate in range(3):
            harness.flood("a", gate, 6, hold_s=5)
        await asyncio.sleep(7)
        harness.group.fault = Fault.REFUSE
        await asyncio.sleep(20)
        harness.group.resume()
        for _ in range(100):
            await asyncio.sleep(0.01)
            in_flight = sum(gate.snapshot()["in_flight"] for gate in harness.gates)
            assert 4 <= in_flight <= 6

    run_group(scenario, rate_limit=None, concurrency_limit=6)


def test_store_that_loses_its_state_grants_no_second_burst() -> None:
    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        flood(harness)
        await asyncio.sleep(9)
        harness.group.lose_state()
        await asyncio.sleep(10)
        assert harness.states() == ["together"] * 3

    harness = run_group(scenario, rate_limit=40, rate_limit_burst=20)
    assert harness.errors == []
    assert harness.excess() <= 20 + RATE * 0.05
    assert harness.total(10, 20) >= 0.97 * RATE * 10
    assert jain(harness.count(client, 11) for client in ("one", "two", "all")) >= 0.99


def test_idle_gate_that_comes_back_first_reports_no_refill_since_its_last_call() -> None:
    """The busy gate has used that refill meanwhile."""

    async def scenario(harness: GroupHarness) -> None:
        harness.flood("a", 0, 10)
        for loss in range(10):
            await asyncio.sleep(2 + loss * 0.043)
            harness.group.lose_state()
            for _ in range(20):
                harness.spawn("b", 1)

    harness = run_group(scenario, gates=2, rate_limit=40, rate_limit_burst=20)
    assert harness.errors == []
    assert harness.excess() <= 21


@pytest.mark.parametrize(("burst", "seed"), [(2, 0), (20, 0), (20, 19)])
@pytest.mark.parametrize("lost_s", [0.05, 2])
def test_store_that_loses_the_last_calls_grants_nothing_twice(
    lost_s: float, burst: int, seed: int
) -> None:
    """As after a failover: the state is an older one. With seed 19, another member than the first
    one to come back has a grant that is not due yet."""

    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        flood(harness, hold_s=0.05)
        await asyncio.sleep(9)
        older = copy_of(harness.group.scheduler)
        await asyncio.sleep(lost_s)
        # The store does not know of it either.
        quiet = harness.spawn("quiet", 2, model="m")
        await asyncio.sleep(0.03)
        harness.group.scheduler = older
        await quiet
        assert harness.now < 11.5 + lost_s
        await asyncio.sleep(5)
        assert harness.states() == ["together"] * 3
        await harness.stop_demand(requests=False)
        await asyncio.sleep(3)
        harness.assert_conserved()

    limits = {"rate_limit": RATE, "rate_limit_burst": burst, "concurrency_limit": 12}
    harness = run_group(scenario, seed=seed, **limits)
    assert harness.errors == []
    assert burst - 0.5 <= harness.excess() <= burst + 0.001
    assert 0.97 * RATE * 6 <= harness.total(9, 15) <= RATE * 6 + 2
    assert jain(harness.count(client, 11 + lost_s) for client in ("one", "two", "all")) >= 0.99


def test_repeated_calls_grant_nothing_twice() -> None:
    async def scenario(harness: GroupHarness) -> None:
        harness.group.fault = Fault.REPEAT
        await asyncio.sleep(1)
        flood(harness)
        await asyncio.sleep(10)
        await harness.stop_demand()
        await asyncio.sleep(3)
        harness.assert_conserved()

    harness = run_group(scenario, **SETTINGS)
    assert 0.97 * RATE * 10 <= harness.total() <= RATE * 10 + 3


def test_gate_serves_alone_until_a_store_is_there_for_the_first_time() -> None:
    async def scenario(harness: GroupHarness) -> None:
        harness.group.fault = Fault.REFUSE
        harness.flood("a", 0, 20)
        await asyncio.sleep(5)
        assert harness.states() == ["alone"]
        harness.group.fault = None
        await asyncio.sleep(5)
        assert harness.states() == ["together"]

    harness = run_group(scenario, gates=1, **SETTINGS)
    assert harness.total(0, 5) == pytest.approx(RATE * 5, abs=5)
    assert harness.total(6.5, 10) >= 0.97 * RATE * 3.5


def test_cancelled_waiters_give_back_what_they_were_granted() -> None:
    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        for round_ in range(200):
            tasks = [harness.spawn(client, gate) for client, gate in (("a", 0), ("b", 1)) * 3]
            await asyncio.sleep(0.001 * (round_ % 40))
            for task in tasks[round_ % 3 :]:
                task.cancel()
        await asyncio.sleep(5)
        harness.assert_conserved()

    harness = run_group(scenario, rate_limit=200, rate_limit_burst=5)
    assert harness.errors == []


@pytest.mark.parametrize("reply", [{}, {"members": "x"}, {"grants": 1, "members": 1, "share": 1}])
def test_reply_of_an_unexpected_shape_fails_no_request(
    monkeypatch: pytest.MonkeyPatch, reply: dict[str, object]
) -> None:
    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        store = harness.stores[0]
        sync = store.sync

        async def answer(call: dict[str, object], limit_s: float) -> dict[str, object]:
            await sync(call, limit_s)
            return reply

        harness.flood("a", 0, 5)
        monkeypatch.setattr(store, "sync", answer)
        await asyncio.sleep(2)
        assert harness.states() == ["alone", "together", "together"]
        monkeypatch.setattr(store, "sync", sync)
        await asyncio.sleep(3)
        assert harness.states() == ["together"] * 3

    harness = run_group(scenario, **SETTINGS)
    assert harness.errors == []
    assert harness.total(4, 6) >= 0.95 * RATE * 2


def test_first_call_may_take_a_second() -> None:
    async def scenario(harness: GroupHarness) -> None:
        harness.group.delay_s = 0.9
        harness.add_gate()
        await asyncio.sleep(1)
        assert harness.states() == ["together"]

    run_group(scenario, gates=0, **SETTINGS)


def test_draining_member_holds_its_slots_until_its_exchanges_end() -> None:
    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        harness.spawn("a", 0, hold_s=3)
        await asyncio.sleep(0.5)
        harness.gates[0].close()
        waiter = harness.spawn("b", 1)
        await asyncio.sleep(2)
        assert not waiter.done()
        assert (await waiter).queued / 1e9 == pytest.approx(2.5, abs=0.06)
        await harness.gates[0].leave_group()
        assert len(harness.group.scheduler.members) == 2

    run_group(scenario, rate_limit=None, concurrency_limit=1)


def test_admission_that_is_undone_while_a_gate_joins_again_costs_nothing() -> None:
    """The gate still admits by itself, and already tells the group what happens."""

    async def scenario(harness: GroupHarness) -> None:
        holder = harness.spawn("a", 0, hold_s=1000, model="m")
        await asyncio.sleep(1)
        waiter = harness.spawn("a", 0, model="m")
        harness.stores[0].fault = Fault.REFUSE
        await asyncio.sleep(1)
        harness.stores[0].fault = None
        dispatcher = harness.gates[0].dispatcher
        assert isinstance(dispatcher, GroupDispatcher)
        harness.group.delay_s = 0.01
        await until(lambda: dispatcher.news.recording)
        assert dispatcher.local
        # Its slot is granted to a waiter that has just been cancelled.
        holder.cancel()
        waiter.cancel()
        await asyncio.sleep(1)
        group = harness.group.scheduler
        assert (group.own.in_flight, list(group.lanes)) == (0, [])
        # A gate that was alone begins at 0.
        assert group.own.requests is not None
        assert group.own.requests.level(harness.group.now()) == 0

    run_group(scenario, gates=1, rate_limit=0.01, rate_limit_burst=5, concurrency_limit=1)


def test_gate_of_a_group_does_not_refill_later() -> None:
    async def scenario(harness: GroupHarness) -> None:
        harness.group.fault = Fault.REFUSE
        await asyncio.sleep(5)
        assert harness.states() == ["alone"]
        harness.on_response = lambda admission: admission.pause(SECOND)
        for _ in range(3):
            harness.spawn("a", 0, 0.001)
        await asyncio.sleep(1)
        budgets = harness.gates[0].dispatcher.budgets
        assert budgets.requests is not None
        assert len(harness.admitted) == 3
        assert budgets.requests.lag == 0

    run_group(scenario, gates=1, rate_limit=0.1, rate_limit_burst=3)
