"""Over any window a group admits at most its burst and the rate times the window, and at the end
all units, slots and floats are back, however many of its members die."""

import asyncio
from random import Random

import pytest

from tests.support.group import GroupHarness, run_group

RATE, BURST = 30, 12
SETTINGS = {"rate_limit": RATE, "rate_limit_burst": BURST, "concurrency_limit": 20}

# A dead member's slots are back after this time, and the next call of another one.
LEASE_S = 1.5


async def live_and_die(harness: GroupHarness, seed: int) -> int:
    """Requests, cancellations, deaths, drains and joins. Returns how many admissions dead members
    had used at most without the group's knowledge: these go back to it."""
    random, unknown, alive = Random(seed), 0, [0, 1, 2]
    tasks: list[asyncio.Task[object]] = []
    for step in range(400):
        for _ in range(random.choice([0, 1, 1, 2, 9])):
            gate, hold_s = random.choice(alive), random.choice([0, 0.05, 0.4])
            tasks.append(harness.spawn(random.choice("abcd"), gate, hold_s, model="m"))
        if tasks and random.random() < 0.2:
            random.choice(tasks).cancel()
        if step % 80 == 60:
            dead = alive.pop(random.randrange(len(alive)))
            unknown += harness.unknown_to_group(dead)
            harness.kill(dead)
            alive.append(harness.add_gate())
        if step == 200:
            left = alive.pop(0)
            harness.gates[left].close()
            await harness.gates[left].leave_group()
            alive.append(harness.add_gate())
        await asyncio.sleep(random.expovariate(14))
    return unknown


@pytest.mark.parametrize("seed", range(4))
def test_windows_hold_and_everything_comes_back(seed: int) -> None:
    unknown = 0

    async def scenario(harness: GroupHarness) -> None:
        nonlocal unknown
        await asyncio.sleep(1)
        unknown = await live_and_die(harness, seed)
        await asyncio.sleep(40)
        assert len(harness.group.scheduler.members) == 3
        harness.assert_conserved()

    harness = run_group(scenario, **SETTINGS)
    assert {type(error).__name__ for error in harness.errors} <= {"Draining"}
    assert harness.total() >= 300
    assert BURST - 1 <= harness.excess() <= BURST + unknown + 0.1


async def wait_in_line(harness: GroupHarness) -> None:
    for _ in range(30):
        harness.spawn("a", 0, model="m")


async def be_granted(harness: GroupHarness) -> None:
    """Grants are in the box of a member that never hears of them."""
    harness.hold_replies(0)
    await wait_in_line(harness)
    await asyncio.sleep(0.02)


async def stream(harness: GroupHarness) -> None:
    for _ in range(8):
        harness.spawn("a", 0, 1000, model="m")


async def have_a_float(harness: GroupHarness) -> None:
    for _ in range(4):
        await harness.admit("a", 0, model="m")
        await asyncio.sleep(0.1)
    await asyncio.sleep(0.5)
    assert harness.group.scheduler.own.held > 0


@pytest.mark.parametrize(
    "state", [wait_in_line, be_granted, stream, have_a_float], ids=lambda state: state.__name__
)
def test_what_a_dead_member_had_is_back_after_its_lease(state: object) -> None:
    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        await state(harness)  # type: ignore[operator]
        await asyncio.sleep(0.03)
        harness.kill(0)
        group = harness.group.scheduler
        assert group.waiting or group.own.in_flight
        # An idle member calls every half second.
        await asyncio.sleep(LEASE_S + 0.51)
        assert len(group.members) == 2
        assert (group.waiting, group.own.in_flight, group.own.held) == (0, 0, 0)
        assert not any(lane.budgets.in_flight for lane in group.lanes.values())
        await asyncio.sleep(2)
        harness.assert_conserved()
        began = harness.now
        await asyncio.gather(*(harness.admit("b", 1, model="m") for _ in range(BURST)))
        assert harness.now - began <= 0.05

    run_group(scenario, **SETTINGS)
