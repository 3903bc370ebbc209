"""The gate, on a clock that jumps to the next timer."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rustygate.admission import Gate
from rustygate.config import Settings
from rustygate.core.bucket import SECOND
from rustygate.errors import Draining, QueueFull, QueueTimeout, Refusal
from rustygate.exchange import Exchange
from tests import jumping

DEFAULTS = Settings(openai_api_key="sk-test")


class Harness:
    """A gate and the exchanges that went through it, by name, with their times."""

    def __init__(self, **overrides: object) -> None:
        self.settings = replace(DEFAULTS, **overrides)  # type: ignore[arg-type]
        self.gate = Gate(self.settings)
        self.gate.start()
        self.began = self.gate.now()
        self.admitted: list[tuple[str, float]] = []

    def exchange(self, client: str, timeout_s: float | None = None) -> Exchange:
        limit = self.settings.rate_limit_timeout if timeout_s is None else timeout_s
        deadline = self.gate.now() + int(limit * SECOND)
        return Exchange(client, "POST", "/v1/x", deadline=deadline)

    async def admit(self, client: str = "a", holds_s: float = 0) -> Exchange:
        exchange = self.exchange(client)
        async with self.gate.admission(exchange):
            self.admitted.append((client, (self.gate.now() - self.began) / SECOND))
            if holds_s:
                await asyncio.sleep(holds_s)
        return exchange

    def spawn(self, client: str = "a", holds_s: float = 0) -> asyncio.Task:  # type: ignore[type-arg]
        return asyncio.create_task(self.admit(client, holds_s))

    @property
    def times(self) -> list[float]:
        return [time for _, time in self.admitted]

    @property
    def order(self) -> str:
        return "".join(client for client, _ in self.admitted)


def play(scene: Callable[[Harness], Awaitable[None]], **overrides: object) -> Harness:
    """Run a scene on a jumping clock; afterwards nobody may wait or be in flight."""

    async def main() -> Harness:
        harness = Harness(**overrides)
        await scene(harness)
        assert harness.gate.snapshot() == {"waiters": 0, "in_flight": 0}
        harness.gate.close()
        return harness

    return jumping.run(main)


async def settle() -> None:
    """Let everything that is ready run, without letting time pass."""
    for _ in range(20):
        await asyncio.sleep(0)


async def granted(harness: Harness) -> None:
    """Let the loop run until somebody is in flight, and not a step further."""
    for _ in range(20):
        if harness.gate.snapshot()["in_flight"]:
            return
        await asyncio.sleep(0)


def test_ten_at_once_at_one_a_second_and_burst_three_take_seven_seconds_in_order() -> None:
    async def scene(harness: Harness) -> None:
        await asyncio.gather(*(harness.admit() for _ in range(10)))

    harness = play(scene, rate_limit=1, rate_limit_burst=3)
    assert harness.times == pytest.approx([0, 0, 0, 1, 2, 3, 4, 5, 6, 7], abs=0.01)


def test_admission_at_once_does_not_wait() -> None:
    async def scene(harness: Harness) -> None:
        exchange = await harness.admit()
        assert exchange.queued == 0

    play(scene, rate_limit=1, rate_limit_burst=1)


def test_wait_is_stamped_on_the_exchange() -> None:
    async def scene(harness: Harness) -> None:
        await harness.admit()
        assert (await harness.admit()).queued == pytest.approx(SECOND / 4, rel=0.01)

    play(scene, rate_limit=4, rate_limit_burst=1)


def test_auto_sets_no_limit() -> None:
    async def scene(harness: Harness) -> None:
        await asyncio.gather(*(harness.admit() for _ in range(1000)))

    assert max(play(scene, rate_limit=None).times) == 0


@pytest.mark.parametrize("burst", [1, 2, 20])
def test_no_budget_is_lost_to_timers(burst: int) -> None:
    """RATE_LIMIT=200 for 10 s of demand admits 2000 + burst."""

    async def scene(harness: Harness) -> None:
        await asyncio.gather(*(harness.admit() for _ in range(2000 + burst)))

    harness = play(scene, rate_limit=200, rate_limit_burst=burst, rate_limit_timeout=60)
    assert harness.times[-1] == pytest.approx(10, rel=0.01)


def test_clients_take_turns() -> None:
    async def scene(harness: Harness) -> None:
        tasks = [harness.spawn(client) for client in "aaaaabb"]
        await settle()
        tasks.append(harness.spawn("c"))
        await asyncio.gather(*tasks)

    assert play(scene, rate_limit=1, rate_limit_burst=1).order == "aabcabaa"


def test_nobody_barges() -> None:
    """A newcomer does not take the unit that a waiter was about to get."""

    async def scene(harness: Harness) -> None:
        tasks = [harness.spawn("a") for _ in range(3)]
        await asyncio.sleep(1 - 1e-9)
        tasks.append(harness.spawn("a"))
        tasks.append(harness.spawn("b"))
        await asyncio.gather(*tasks)

    assert play(scene, rate_limit=1, rate_limit_burst=1).order == "aabaa"


def test_slots_bound_what_is_in_flight() -> None:
    async def scene(harness: Harness) -> None:
        tasks = [harness.spawn("a", 5) for _ in range(5)]
        await settle()
        assert harness.gate.snapshot() == {"waiters": 3, "in_flight": 2}
        await asyncio.gather(*tasks)

    harness = play(scene, rate_limit=None, concurrency_limit=2)
    assert harness.times == pytest.approx([0, 0, 5, 5, 10], abs=0.01)


def test_request_that_cannot_be_admitted_in_time_is_refused_on_arrival() -> None:
    async def scene(harness: Harness) -> None:
        tasks = [harness.spawn() for _ in range(3)]
        await settle()
        with pytest.raises(QueueTimeout) as caught:
            await harness.admit()
        assert harness.gate.now() == harness.began
        assert caught.value.retry_after_ms == 3000
        await asyncio.gather(*tasks)

    play(scene, rate_limit=1, rate_limit_burst=1, rate_limit_timeout=2.5)


def test_early_refusal_reckons_with_the_turns_of_others_only() -> None:
    """A light client is not refused for a flood that it would overtake."""

    async def scene(harness: Harness) -> None:
        flood = [harness.spawn("flood") for _ in range(100)]
        await settle()
        assert (await harness.admit("light")).queued <= 3 * SECOND
        for task in flood:
            task.cancel()
        await asyncio.gather(*flood, return_exceptions=True)

    play(scene, rate_limit=1, rate_limit_burst=1, rate_limit_timeout=200)


def test_waiter_whose_turn_does_not_come_is_refused_at_its_deadline() -> None:
    async def scene(harness: Harness) -> None:
        holder = harness.spawn("a", 60)
        await settle()
        with pytest.raises(QueueTimeout):
            await harness.admit()
        assert harness.gate.now() - harness.began == pytest.approx(30 * SECOND, rel=0.001)
        await holder

    play(scene, rate_limit=None, concurrency_limit=1)


def test_full_queue_refuses() -> None:
    async def scene(harness: Harness) -> None:
        tasks = [harness.spawn() for _ in range(6)]
        await settle()
        with pytest.raises(QueueFull, match="5 requests wait already"):
            await harness.admit()
        await asyncio.gather(*tasks)

    play(scene, rate_limit=1, rate_limit_burst=1, queue_limit=5)


@pytest.mark.parametrize("leaver", [1, 2], ids=["at the head", "in the queue"])
def test_cancelled_waiter_leaves_its_place_to_the_next(leaver: int) -> None:
    async def scene(harness: Harness) -> None:
        tasks = [harness.spawn(client) for client in "abcd"]
        await settle()
        tasks[leaver].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    harness = play(scene, rate_limit=1, rate_limit_burst=1)
    assert harness.times == pytest.approx([0, 1, 2], abs=0.01)
    assert harness.order == "abcd".replace("abcd"[leaver], "")


def test_grant_that_meets_a_cancellation_goes_to_the_next() -> None:
    async def scene(harness: Harness) -> None:
        holder = harness.spawn("a", 5)
        await settle()
        chosen, following = harness.spawn("b"), harness.spawn("c")
        await settle()
        await holder
        await granted(harness)
        chosen.cancel()
        await asyncio.gather(chosen, following, return_exceptions=True)
        assert chosen.cancelled()

    harness = play(scene, rate_limit=1, rate_limit_burst=2, concurrency_limit=1)
    assert harness.order == "ac"
    assert harness.times == pytest.approx([0, 5], abs=0.01)


def test_flow_whose_waiter_left_at_the_head_keeps_its_turn() -> None:
    async def scene(harness: Harness) -> None:
        tasks = [harness.spawn(client) for client in "xabab"]
        await settle()
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    assert play(scene, rate_limit=1, rate_limit_burst=1).order == "xabb"


def test_retry_keeps_its_place() -> None:
    async def scene(harness: Harness) -> None:
        tried = harness.exchange("a")
        async with harness.gate.admission(tried):
            tried.attempts = 1
        others = [harness.spawn("a") for _ in range(3)]
        await settle()
        async with harness.gate.admission(tried):
            harness.admitted.append(("r", 0))
        await asyncio.gather(*others)

    # The first of the others is at the head already; the retry comes next.
    assert play(scene, rate_limit=1, rate_limit_burst=1).order == "araa"


def test_unit_of_an_attempt_that_never_left_is_given_back() -> None:
    async def scene(harness: Harness) -> None:
        await harness.admit()
        harness.gate.give_back()
        assert (await harness.admit()).queued == 0

    play(scene, rate_limit=1, rate_limit_burst=1)


def test_closing_refuses_waiters_and_newcomers_and_spares_those_in_flight() -> None:
    async def scene(harness: Harness) -> None:
        holder = harness.spawn("a", 5)
        await settle()
        waiters = [harness.spawn() for _ in range(3)]
        await settle()
        harness.gate.close()
        outcomes = await asyncio.gather(*waiters, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Draining] * 3
        with pytest.raises(Draining):
            await harness.admit()
        await holder

    play(scene, rate_limit=None, concurrency_limit=1)


def test_repr_shows_the_live_state() -> None:
    async def scene(harness: Harness) -> None:
        assert repr(harness.gate) == "<Gate 0 in flight, 0 waiting, None>"

    play(scene, rate_limit=None)


Arrival = tuple[float, str, float, float | None]
arrivals = st.lists(
    st.tuples(
        st.floats(0, 2),
        st.sampled_from("abc"),
        st.floats(0, 3),
        st.none() | st.floats(0, 4),
    ),
    max_size=30,
)


@hypothesis_settings(deadline=None)
@given(arrivals, st.sampled_from([0.5, 3, 50]), st.integers(1, 5), st.none() | st.integers(1, 3))
def test_no_interleaving_loses_or_makes_a_unit_or_a_slot(
    plan: Sequence[Arrival], rate: float, burst: int, slots: int | None
) -> None:
    """Arrivals that hold for a while, some leaving; at the end all is as at the start."""

    async def scene(harness: Harness) -> None:
        tasks = []
        for pause, client, hold, leaves_after in plan:
            await asyncio.sleep(pause)
            task = harness.spawn(client, hold)
            tasks.append(task)
            if leaves_after is not None:
                asyncio.get_running_loop().call_later(leaves_after, task.cancel)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        expected = Exchange | Refusal | asyncio.CancelledError
        assert all(isinstance(outcome, expected) for outcome in outcomes)

    harness = play(scene, rate_limit=rate, rate_limit_burst=burst, concurrency_limit=slots)
    times = harness.times
    for first, begin in enumerate(times):
        for last, end in enumerate(times[first:], first):
            assert last - first + 1 <= burst + rate * (end - begin + 0.002) + 1e-6
    assert all(one <= other for one, other in pairwise(times))
