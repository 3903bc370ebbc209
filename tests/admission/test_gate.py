"""The gate, on a clock that jumps to the next timer."""

import asyncio
import tracemalloc
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rustygate.admission.admission import Admission
from rustygate.admission.lanes import MAX_LANES
from rustygate.core.bucket import SECOND
from rustygate.core.clients import Limits
from rustygate.core.rate_limit_headers import Quota, RateLimitUpdate
from rustygate.errors import Draining, QueueFull, QueueTimeout, Refusal, RequestTooLarge
from rustygate.exchange import Exchange
from tests.support.harness import Harness, granted, play, settle, teach, told


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


@pytest.mark.parametrize("limit", ["own", "lane"])
def test_turn_of_the_one_at_the_head_counts(limit: str) -> None:
    """Though nobody else waits behind it when it is taken out of the queue."""

    async def scene(harness: Harness) -> None:
        if limit == "lane":
            teach(harness, told(60, 0))
            await settle()
        else:
            await harness.admit("x")
        tasks = [harness.spawn("m", model="m")]
        await settle()
        tasks += [harness.spawn(client, model="m") for client in "mmmff"]
        await asyncio.gather(*tasks)

    rate = {"own": 1, "lane": None}[limit]
    assert play(scene, rate_limit=rate, rate_limit_burst=1).order[-6:] == "mfmfmm"


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


@pytest.mark.parametrize("whose", ["gate", "client"])
def test_early_refusal_reckons_with_what_is_there_for_those_ahead(whose: str) -> None:
    """Who waits for a slot does not wait for units of which there are enough."""

    async def scene(harness: Harness) -> None:
        if whose == "client":
            limits = Limits(requests_per_second=0.1, burst=100, concurrency=1)
            harness.gate.limit_clients({"a": limits})
        tasks = [harness.spawn("a", 1) for _ in range(20)]
        await settle()
        assert (await harness.admit("a")).queued == pytest.approx(20 * SECOND, rel=0.01)
        await asyncio.gather(*tasks)

    if whose == "gate":
        play(scene, rate_limit=0.1, rate_limit_burst=100, concurrency_limit=1)
    else:
        play(scene, rate_limit=None)


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
        with pytest.raises(QueueFull, match=r"full \(5 requests are waiting\); try again in 6 s"):
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
        async with harness.gate.admission(harness.exchange("a")) as admission:
            admission.give_back()
        assert (await harness.admit()).queued == 0

    play(scene, rate_limit=1, rate_limit_burst=1, tokens_per_minute=100)


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


# Tokens.


def test_tokens_are_a_budget_of_their_own() -> None:
    async def scene(harness: Harness) -> None:
        await asyncio.gather(*(harness.admit(tokens=30) for _ in range(4)))

    harness = play(scene, rate_limit=None, tokens_per_minute=60, rate_limit_timeout=90)
    assert harness.times == pytest.approx([0, 0, 30, 60], abs=0.01)


def test_settlement_gives_back_what_was_not_used() -> None:
    async def scene(harness: Harness) -> None:
        harness.answers = lambda admission: admission.settle(10)
        await asyncio.gather(*(harness.admit(tokens=60) for _ in range(2)))

    harness = play(scene, rate_limit=None, tokens_per_minute=60)
    assert harness.times == pytest.approx([0, 10], abs=0.01)


def test_settlement_takes_what_was_used_beyond_the_estimate() -> None:
    async def scene(harness: Harness) -> None:
        harness.answers = lambda admission: admission.settle(90)
        await harness.admit(tokens=30)
        harness.answers = None
        await harness.admit(tokens=30)

    harness = play(scene, rate_limit=None, tokens_per_minute=60, rate_limit_timeout=90)
    assert harness.times == pytest.approx([0, 60], abs=0.01)


def test_cost_above_the_capacity_is_refused_at_once() -> None:
    async def scene(harness: Harness) -> None:
        with pytest.raises(RequestTooLarge, match=r"61 tokens.*60"):
            await harness.admit(tokens=61, min_tokens=61)

    play(scene, rate_limit=None, tokens_per_minute=60)


def test_guess_above_the_capacity_waits_for_a_full_bucket() -> None:
    """What an answer will take is a guess; only what is certain refuses."""

    async def scene(harness: Harness) -> None:
        harness.answers = lambda admission: admission.settle(30)
        await asyncio.gather(*(harness.admit(tokens=500, min_tokens=5) for _ in range(2)))

    harness = play(scene, rate_limit=None, tokens_per_minute=60, rate_limit_timeout=90)
    assert harness.times == pytest.approx([0, 30], abs=0.01)


def test_flows_share_by_tokens() -> None:
    """While both wait, a client of large requests gets as many tokens as one of small ones."""

    async def scene(harness: Harness) -> None:
        big = [harness.spawn("b", tokens=30) for _ in range(5)]
        small = [harness.spawn("s", tokens=10) for _ in range(15)]
        await asyncio.gather(*big, *small)

    harness = play(scene, rate_limit=None, tokens_per_minute=60, rate_limit_timeout=600)
    # The first two were a burst, and the third was at the head before the others came.
    shared = harness.order[3:11]
    assert (shared.count("b"), shared.count("s")) == (2, 6)


@pytest.mark.parametrize("priority", ["interactive", "batch"])
def test_classes_share_as_weighted(priority: str) -> None:
    async def scene(harness: Harness) -> None:
        one = [harness.spawn("x", priority=priority) for _ in range(200)]
        other = [harness.spawn("d") for _ in range(200)]
        await asyncio.gather(*one, *other)

    order = play(scene, rate_limit=100, rate_limit_burst=1).order[:100]
    expected = {"interactive": 80, "batch": 20}[priority]
    assert order.count("x") == pytest.approx(expected, abs=2)


# Clients with limits of their own.


def test_client_at_its_limit_waits_in_its_own_line() -> None:
    async def scene(harness: Harness) -> None:
        harness.gate.limit_clients({"a": Limits(requests_per_second=1, burst=1)})
        tasks = [harness.spawn("a", model="m") for _ in range(3)]
        await settle()
        assert (await harness.admit("b", model="m")).queued == 0
        await asyncio.gather(*tasks)

    harness = play(scene, rate_limit=None)
    assert [time for client, time in harness.admitted if client == "a"] == pytest.approx(
        [0, 1, 2], abs=0.01
    )


def test_limits_of_client_and_lane_hold_together() -> None:
    """A lane of one a second, shared with others; a client of one in two seconds."""

    async def scene(harness: Harness) -> None:
        harness.gate.limit_clients({"a": Limits(requests_per_second=0.5, burst=1)})
        teach(harness, told(60, 0))
        await settle()
        tasks = [harness.spawn(client, model="m") for client in "aaaabbbb"]
        await asyncio.gather(*tasks)

    harness = play(scene, rate_limit=None)
    assert harness.times == pytest.approx(list(range(1, 9)), abs=0.01)
    assert harness.order == "abababab"


def test_own_limits_may_change_while_a_client_waits() -> None:
    async def scene(harness: Harness) -> None:
        harness.gate.limit_clients({"a": Limits(requests_per_second=0.1, burst=1)})
        tasks = [harness.spawn("a") for _ in range(3)]
        await asyncio.sleep(1)
        harness.gate.limit_clients({"a": Limits(requests_per_second=1, burst=1)})
        await settle()
        harness.gate.limit_clients({})
        await asyncio.gather(*tasks)

    assert play(scene, rate_limit=None).times == pytest.approx([0, 1, 1], abs=0.01)


def test_first_limits_hold_for_those_that_wait_already() -> None:
    async def scene(harness: Harness) -> None:
        harness.gate.limit_clients({"a": Limits()})
        tasks = [harness.spawn("a") for _ in range(4)]
        await settle()
        harness.gate.limit_clients({"a": Limits(requests_per_second=0.2, burst=1)})
        await asyncio.gather(*tasks)

    times = play(scene, rate_limit=1, rate_limit_burst=1).times
    assert times == pytest.approx([0, 1, 6, 11], abs=0.01)


def test_limits_put_back_hold_for_those_that_wait_still() -> None:
    async def scene(harness: Harness) -> None:
        limits = {"a": Limits(requests_per_second=0.2, burst=1)}
        first = harness.spawn("b")
        await settle()
        harness.gate.limit_clients(limits)
        tasks = [first, *(harness.spawn("a") for _ in range(3))]
        await settle()
        harness.gate.limit_clients({})
        harness.gate.limit_clients(limits)
        tasks.append(harness.spawn("a"))
        await asyncio.gather(*tasks)

    times = play(scene, rate_limit=1, rate_limit_burst=1).times
    assert times == pytest.approx([0, 1, 6, 11, 16], abs=0.01)


@pytest.mark.parametrize("done", ["settled", "given back"])
def test_what_was_taken_of_old_limits_is_not_returned_to_new_ones(done: str) -> None:
    async def scene(harness: Harness) -> None:
        harness.gate.limit_clients({"a": Limits(tokens_per_minute=1000)})
        async with harness.gate.admission(harness.exchange("a", tokens=1000)) as admission:
            harness.gate.limit_clients({"a": Limits(tokens_per_minute=60)})
            await harness.admit("a", tokens=60)
            if done == "settled":
                admission.settle(0)
            else:
                admission.give_back()
            assert (await harness.admit("a", tokens=30)).queued == pytest.approx(
                30 * SECOND, rel=0.01
            )

    play(scene, rate_limit=None, rate_limit_timeout=90)


# Lanes.


def test_unknown_model_has_a_burst_in_flight_until_the_first_answer() -> None:
    async def scene(harness: Harness) -> None:
        harness.answers = lambda admission: admission.record_response(ok=True)
        await asyncio.gather(*(harness.admit(holds_s=5, model="m") for _ in range(10)))

    harness = play(scene, rate_limit=None, rate_limit_burst=3)
    assert harness.times == pytest.approx([0] * 3 + [5] * 7, abs=0.01)


def test_failed_answer_does_not_open_a_lane() -> None:
    async def scene(harness: Harness) -> None:
        harness.answers = lambda admission: admission.record_response(ok=False)
        await asyncio.gather(*(harness.admit(holds_s=5, model="m") for _ in range(6)))

    harness = play(scene, rate_limit=None, rate_limit_burst=3)
    assert harness.times == pytest.approx([0] * 3 + [5] * 3, abs=0.01)


def test_lane_keeps_the_learned_limit() -> None:
    async def scene(harness: Harness) -> None:
        teach(harness, told(60, 2))
        await settle()
        await asyncio.gather(*(harness.admit(model="m") for _ in range(5)))

    harness = play(scene, rate_limit=None)
    assert harness.times == pytest.approx([0, 0, 1, 2, 3], abs=0.01)


def test_lane_keeps_the_learned_limit_of_tokens() -> None:
    async def scene(harness: Harness) -> None:
        teach(harness, told(600, 100, tokens=True))
        await settle()
        await asyncio.gather(*(harness.admit(model="m", tokens=50) for _ in range(4)))

    harness = play(scene, rate_limit=None)
    assert harness.times == pytest.approx([0, 0, 5, 10], abs=0.01)


def test_class_keeps_its_share_when_limits_are_learned_while_others_wait() -> None:
    """What was queued before anything was known must not count for less than what comes after."""

    async def scene(harness: Harness) -> None:
        harness.answers = lambda admission: admission.record_response(ok=True, update=told(60, 0))
        batch = [harness.spawn("b", model="m", priority="batch") for _ in range(20)]
        await settle()
        await asyncio.sleep(2.5)
        web = [harness.spawn("w", model="m", priority="interactive") for _ in range(5)]
        await asyncio.gather(*batch, *web)

    harness = play(scene, rate_limit=None, rate_limit_burst=1, rate_limit_timeout=600)
    assert harness.order[3:9].count("w") >= 4


def test_operators_limit_is_only_tightened() -> None:
    async def scene(harness: Harness) -> None:
        teach(harness, told(10_000, 10_000))
        await settle()
        await asyncio.gather(*(harness.admit(model="m") for _ in range(3)))

    harness = play(scene, rate_limit=1, rate_limit_burst=2)
    assert harness.times == pytest.approx([0, 1, 2], abs=0.01)


def test_limits_that_change_are_followed_both_ways_within_one_answer() -> None:
    async def scene(harness: Harness) -> None:
        for limit in (60, 600, 6, 600):
            harness.answers = lambda admission, now=limit: admission.record_response(
                True, told(now, 0)
            )
            await harness.admit(model="m")

    harness = play(scene, rate_limit=None)
    assert harness.times == pytest.approx([0, 1, 1.1, 11.1], abs=0.01)


def test_what_was_admitted_since_is_taken_off_what_remained() -> None:
    """An answer's `remaining` does not know of those that were admitted after its exchange."""

    async def scene(harness: Harness) -> None:
        async with harness.gate.admission(harness.exchange("a", model="m")) as first:
            first.record_response(ok=True, update=told(60, 59))
            await asyncio.gather(*(harness.admit(model="m") for _ in range(10)))
            first.record_response(ok=True, update=told(60, 11))
        await asyncio.gather(*(harness.admit(model="m") for _ in range(3)))

    harness = play(scene, rate_limit=None)
    assert harness.times[10:] == pytest.approx([0, 1, 2], abs=0.01)


def test_other_consumer_of_the_quota_is_made_room_for() -> None:
    async def scene(harness: Harness) -> None:
        harness.answers = lambda admission: admission.record_response(ok=True, update=told(60, 0))
        for _ in range(5):
            await harness.admit(model="m")

    assert play(scene, rate_limit=None).times == pytest.approx([0, 1, 2, 3, 4], abs=0.01)


def test_answer_to_an_older_exchange_does_not_overrule_a_newer_one() -> None:
    async def scene(harness: Harness) -> None:
        old, new = (harness.gate.admission(harness.exchange("a", model="m")) for _ in range(2))
        async with old, new:
            new.record_response(ok=True, update=told(60, 0))
            old.record_response(ok=True, update=told(60, 60))
            await harness.admit(model="m")

    assert play(scene, rate_limit=None).times == pytest.approx([1], abs=0.01)


def test_paused_lane_holds_up_nobody_else() -> None:
    """Not even the same client's requests for another model."""

    async def scene(harness: Harness) -> None:
        async with harness.gate.admission(harness.exchange("a", model="m")) as admission:
            admission.pause(5 * SECOND)
        waiting = harness.spawn("a", model="m")
        await settle()
        assert (await harness.admit("a", model="other")).queued == 0
        assert (await harness.admit("b")).queued == 0
        assert (await waiting).queued == pytest.approx(5 * SECOND, rel=0.01)

    play(scene, rate_limit=None)


def test_lane_that_was_paused_goes_on_as_before_once_it_is_answered() -> None:
    """Known or not: the one that is tried opens it again."""

    async def scene(harness: Harness) -> None:
        harness.answers = lambda admission: admission.record_response(ok=True)
        await harness.admit(model="m")
        async with harness.gate.admission(harness.exchange("a", model="m")) as admission:
            admission.record_response(ok=False)
            admission.pause(5 * SECOND)
        harness.admitted.clear()
        await asyncio.gather(*(harness.admit(holds_s=1, model="m") for _ in range(4)))

    assert play(scene, rate_limit=None).times == pytest.approx([5, 6, 6, 6], abs=0.01)


def test_answer_from_before_a_pause_does_not_end_its_care() -> None:
    async def scene(harness: Harness) -> None:
        old = harness.gate.admission(harness.exchange("a", model="m"))
        async with old:
            async with harness.gate.admission(harness.exchange("a", model="m")) as refused:
                refused.record_response(ok=False)
                refused.pause(5 * SECOND)
            old.record_response(ok=True)
        harness.answers = lambda admission: admission.record_response(ok=True)
        await asyncio.gather(*(harness.admit(holds_s=1, model="m") for _ in range(3)))

    assert play(scene, rate_limit=None).times == pytest.approx([5, 6, 6], abs=0.01)


def test_after_a_pause_a_lane_without_limits_tries_with_one() -> None:
    async def scene(harness: Harness) -> None:
        async with harness.gate.admission(harness.exchange("a", model="m")) as admission:
            admission.record_response(ok=False)
            admission.pause(5 * SECOND)
        harness.answers = lambda admission: admission.record_response(ok=True)
        await asyncio.gather(*(harness.admit(holds_s=1, model="m") for _ in range(4)))

    assert play(scene, rate_limit=None).times == pytest.approx([5, 6, 6, 6], abs=0.01)


def test_slowed_lane_halves_its_rate_and_recovers() -> None:
    async def scene(harness: Harness) -> None:
        harness.answers = lambda admission: admission.record_response(ok=True)
        for _ in range(20):
            await harness.admit(model="m")
            await asyncio.sleep(0.5)
        async with harness.gate.admission(harness.exchange("a", model="m")) as admission:
            admission.record_response(ok=False)
            admission.pause(1, slow=True)
            admission.record_response(ok=True)
        harness.admitted.clear()
        harness.began = harness.gate.now()
        for _ in range(100):
            await harness.admit(model="m")

    gaps = [later - sooner for sooner, later in pairwise(play(scene, rate_limit=None).times)]
    assert gaps[0] == pytest.approx(1, rel=0.1)
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 0.85


def test_one_burst_of_slow_downs_halves_once() -> None:
    async def scene(harness: Harness) -> None:
        admissions = [harness.gate.admission(harness.exchange("a", model="m")) for _ in range(8)]
        for admission in admissions:
            await admission.__aenter__()
        for admission in admissions:
            admission.pause(1, slow=True)
            admission.record_response(ok=True)
            await admission.__aexit__(None, None, None)
        await asyncio.sleep(1)
        await harness.admit(model="m")
        await harness.admit(model="m")

    times = play(scene, rate_limit=None).times
    assert times[1] - times[0] == pytest.approx(2 / 8, rel=0.1)


def test_lane_that_is_busy_serves_clients_in_turns() -> None:
    async def scene(harness: Harness) -> None:
        teach(harness, told(60, 0))
        await settle()
        tasks = [harness.spawn(client, model="m") for client in "aaaabb"]
        await settle()
        tasks.append(harness.spawn("c", model="m"))
        await asyncio.gather(*tasks)

    assert play(scene, rate_limit=None).order == "abcabaa"


def test_nobody_barges_into_a_lane() -> None:
    async def scene(harness: Harness) -> None:
        teach(harness, told(60, 0))
        await settle()
        tasks = [harness.spawn("a", model="m", tokens=1) for _ in range(3)]
        await asyncio.sleep(1 - 1e-9)
        tasks.append(harness.spawn("b", model="m"))
        await asyncio.gather(*tasks)

    assert play(scene, rate_limit=None).order == "abaa"


def test_retries_go_in_the_order_in_which_they_came() -> None:
    async def scene(harness: Harness) -> None:
        teach(harness, told(60, 0))
        await settle()
        tasks = []
        for _ in range(5):
            tasks.append(harness.spawn("a", model="m", attempts=1))
            await settle()
        await asyncio.gather(*tasks)
        waits = [task.result().queued for task in tasks]
        assert waits == sorted(waits)

    play(scene, rate_limit=None)


def test_retry_goes_first_in_its_lane() -> None:
    async def scene(harness: Harness) -> None:
        teach(harness, told(60, 0))
        await settle()
        others = [harness.spawn("a", model="m") for _ in range(3)]
        await settle()
        await harness.admit("a", model="m", attempts=1)
        assert harness.order == "a"
        await asyncio.gather(*others)

    play(scene, rate_limit=None)


def test_waiter_that_leaves_a_line_leaves_its_place() -> None:
    async def scene(harness: Harness) -> None:
        teach(harness, told(60, 0))
        await settle()
        tasks = [harness.spawn(client, model="m") for client in "abc"]
        await settle()
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    harness = play(scene, rate_limit=None)
    assert harness.order == "bc"
    assert harness.times == pytest.approx([1, 2], abs=0.01)


def test_turn_in_a_line_that_a_leaver_had_goes_to_its_flow() -> None:
    """It was first of its lane's line, and waited for the gate's own budget."""

    async def scene(harness: Harness) -> None:
        teach(harness, told(60, 0))
        await settle()
        tasks = [harness.spawn(client, model="m") for client in "aabb"]
        await asyncio.sleep(2)
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    assert play(scene, rate_limit=1 / 3, rate_limit_burst=1).order == "abb"


def test_limits_that_change_twice_within_a_second_are_reckoned_with_after_it() -> None:
    async def scene(harness: Harness) -> None:
        asked = [harness.gate.admission(harness.exchange("a", model="m")) for _ in range(3)]
        async with asked[0], asked[1], asked[2]:
            asked[0].record_response(ok=True, update=told(60, 0))
            tasks = [harness.spawn("a", model="m") for _ in range(30)]
            await settle()
            for admission, limit in zip(asked[1:], (300, 10), strict=True):
                admission.record_response(ok=True, update=told(limit, 0))
        await asyncio.sleep(1.001)
        line = harness.gate.lanes.queue("m")
        assert line.queue.total_work().cost == len(line.queue) * line.budgets.cost()
        await asyncio.gather(*tasks)

    play(scene, rate_limit=None, rate_limit_timeout=600)


def test_names_that_clients_invent_leave_no_lane() -> None:
    async def scene(harness: Harness) -> None:
        harness.answers = lambda admission: admission.record_response(ok=False)
        for number in range(100):
            await harness.admit(model=f"invented-{number}")
        assert len(harness.gate.lanes) == 0

    play(scene, rate_limit=None)


def test_lanes_are_bounded() -> None:
    async def scene(harness: Harness) -> None:
        harness.answers = lambda admission: admission.record_response(ok=True, update=told(60, 59))
        for number in range(MAX_LANES + 100):
            await harness.admit(model=f"m-{number}")
        assert len(harness.gate.lanes) == MAX_LANES
        assert list(harness.gate.lanes)[-1].name == f"m-{MAX_LANES + 99}"

    play(scene, rate_limit=None)


def test_lanes_in_use_are_kept_and_not_in_the_way() -> None:
    async def scene(harness: Harness) -> None:
        harness.answers = lambda admission: admission.record_response(ok=True, update=told(60, 59))
        users = [
            harness.spawn(model=f"used-{number}", holds_s=1) for number in range(MAX_LANES + 50)
        ]
        await settle()
        assert len(harness.gate.lanes) == MAX_LANES + 50
        first = next(iter(harness.gate.lanes))
        await harness.admit(model="new")
        assert next(iter(harness.gate.lanes)) is not first
        await asyncio.gather(*users)
        assert len(harness.gate.lanes) == MAX_LANES

    play(scene, rate_limit=None)


def test_wait_for_a_lane_is_reckoned_with_on_arrival() -> None:
    async def scene(harness: Harness) -> None:
        teach(harness, told(60, 0))
        await settle()
        tasks = [harness.spawn(model="m") for _ in range(10)]
        await settle()
        deadline = harness.gate.now() + 5 * SECOND
        with pytest.raises(QueueTimeout) as caught:
            await harness.admit(model="m", deadline=deadline)
        assert caught.value.retry_after_ms == pytest.approx(11_000, rel=0.1)
        await asyncio.gather(*tasks)

    play(scene, rate_limit=None)


@pytest.mark.parametrize("elapsed_s", [0, 61])
def test_learned_limit_refuses_what_never_fits_as_long_as_it_is_fresh(elapsed_s: int) -> None:
    """A limit that was raised meanwhile is learned of only by asking."""

    async def scene(harness: Harness) -> None:
        teach(harness, told(100, 100, tokens=True))
        await settle()
        await asyncio.sleep(elapsed_s)
        asking = harness.admit(model="m", tokens=500, min_tokens=500)
        if elapsed_s:
            assert (await asking).queued == 0
        else:
            with pytest.raises(RequestTooLarge):
                await asking

    play(scene, rate_limit=None)


def test_what_left_cannot_hold_a_lane_up_for_long() -> None:
    """A huge request that was under way when a limit was learned counts for a minute's worth."""

    async def scene(harness: Harness) -> None:
        async with harness.gate.admission(harness.exchange("a", model="m", tokens=10)) as small:
            async with harness.gate.admission(harness.exchange("b", model="m", tokens=10**7)):
                pass
            small.record_response(True, told(200_000, 199_990, tokens=True))
        assert (await harness.admit(model="m", tokens=10)).queued <= 61 * SECOND

    play(scene, rate_limit=None, rate_limit_timeout=100)


def test_usage_that_lies_does_not_stop_the_gate() -> None:
    async def scene(harness: Harness) -> None:
        harness.answers = lambda admission: admission.settle(999_999_999)
        await harness.admit(tokens=10)
        harness.answers = None
        assert (await harness.admit(tokens=10)).queued <= 61 * SECOND

    play(scene, rate_limit=None, tokens_per_minute=200_000, rate_limit_timeout=100)


def test_full_queue_takes_retries_in_place() -> None:
    async def scene(harness: Harness) -> None:
        tasks = [harness.spawn() for _ in range(3)]
        await settle()
        assert (await harness.admit(attempts=1)).queued
        await asyncio.gather(*tasks)

    play(scene, rate_limit=1, rate_limit_burst=1, queue_limit=2)


def test_reading_the_same_limits_again_fills_nothing_up() -> None:
    async def scene(harness: Harness) -> None:
        for _ in range(3):
            harness.gate.limit_clients({"a": Limits(requests_per_second=1, burst=1)})
            await harness.admit("a")

    assert play(scene, rate_limit=None).times == pytest.approx([0, 1, 2], abs=0.01)


def test_client_taken_out_and_put_back_keeps_its_slots() -> None:
    async def scene(harness: Harness) -> None:
        one = {"a": Limits(concurrency=1)}
        harness.gate.limit_clients(one)
        holder = harness.spawn("a", 5)
        await settle()
        harness.gate.limit_clients({})
        harness.gate.limit_clients(one)
        assert (await harness.admit("a")).queued == pytest.approx(5 * SECOND, rel=0.01)
        await holder

    play(scene, rate_limit=None)


def test_predicted_wait_knows_of_a_slowed_lane() -> None:
    async def scene(harness: Harness) -> None:
        async with harness.gate.admission(harness.exchange("a", model="m")) as admission:
            admission.record_response(ok=True)
            admission.pause(1, slow=True)
        tasks = [harness.spawn(model="m") for _ in range(10)]
        await settle()
        newcomer = harness.gate.admission(harness.exchange("a", model="m"))
        predicted = harness.gate.dispatcher.predict(newcomer).wait
        assert (await harness.admit(model="m")).queued == pytest.approx(predicted, rel=0.3)
        await asyncio.gather(*tasks)

    play(scene, rate_limit=None)


def test_predicted_wait_knows_of_a_paused_lane() -> None:
    async def scene(harness: Harness) -> None:
        async with harness.gate.admission(harness.exchange("a", model="m")) as admission:
            admission.record_response(ok=True)
            admission.pause(5 * SECOND)
        newcomer = harness.gate.admission(harness.exchange("a", model="m"))
        assert harness.gate.dispatcher.predict(newcomer).wait == 5 * SECOND

    play(scene, rate_limit=1, rate_limit_burst=10)


@pytest.mark.parametrize("waiters", [5, 100])
@pytest.mark.parametrize("limit", ["own", "lane", "tokens"])
def test_predicted_wait_is_near_the_wait_had(limit: str, waiters: int) -> None:
    async def scene(harness: Harness) -> None:
        if limit == "lane":
            teach(harness, told(60, 0))
            await settle()
        tasks = [harness.spawn(f"c{n % 7}", model="m", tokens=10) for n in range(waiters)]
        await settle()
        newcomer = harness.gate.admission(harness.exchange("c3", model="m", tokens=10))
        predicted = harness.gate.dispatcher.predict(newcomer).wait
        had = (await harness.admit("c3", model="m", tokens=10)).queued
        assert predicted == pytest.approx(had, rel=0.3)
        await asyncio.gather(*tasks)

    budgets: dict[str, dict[str, Any]] = {
        "own": {"rate_limit": 1, "rate_limit_burst": 1},
        "lane": {"rate_limit": None},
        "tokens": {"rate_limit": None, "tokens_per_minute": 20},
    }
    play(scene, rate_limit_timeout=10_000, **budgets[limit])


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


quotas = st.none() | st.builds(Quota, st.integers(1, 600), st.none() | st.integers(0, 600))
happenings = st.one_of(
    st.none(),
    st.tuples(st.just("answer"), st.booleans(), st.builds(RateLimitUpdate, quotas, quotas)),
    st.tuples(st.just("pause"), st.integers(0, 20 * SECOND), st.booleans()),
    st.tuples(st.just("settle"), st.integers(0, 100)),
    st.tuples(st.just("give back")),
)


def befall(admission: Admission, what: tuple[Any, ...] | None) -> None:
    """Let something become known of an admitted attempt."""
    match what:
        case ("answer", ok, news):
            admission.record_response(ok, news)
        case ("pause", wait, slow):
            admission.pause(wait, slow=slow)
        case ("settle", tokens):
            admission.settle(tokens)
        case ("give back",):
            admission.give_back()


comings = st.tuples(
    st.floats(0, 2),
    st.sampled_from("abc"),
    st.sampled_from(["interactive", "default", "batch"]),
    st.sampled_from([None, "m", "n"]),
    st.integers(0, 60),
    st.floats(0, 3),
    happenings,
    st.none() | st.floats(0, 4),
)


@hypothesis_settings(deadline=None)
@given(
    st.lists(comings, max_size=25),
    st.sampled_from([None, 0.5, 50]),
    st.sampled_from([None, 60, 600]),
    st.none() | st.integers(1, 3),
    st.integers(1, 3),
    st.booleans(),
)
def test_no_interleaving_wedges_a_lane_or_leaves_anything_behind(
    plan: Sequence[tuple[Any, ...]],
    rate: float | None,
    tokens_per_minute: int | None,
    slots: int | None,
    burst: int,
    limited: bool,
) -> None:
    """Two attempts each, some leaving, whatever upstream says; the deadline is far away, so that
    whoever is refused was forgotten."""

    async def one(harness: Harness, coming: tuple[Any, ...]) -> None:
        _, client, priority, model, tokens, hold, what, _ = coming
        exchange = harness.exchange(client, priority=priority, model=model, tokens=tokens)
        for attempt in range(2):
            async with harness.gate.admission(exchange) as admission:
                exchange.attempts = attempt + 1
                await asyncio.sleep(hold)
                befall(admission, what)

    async def scene(harness: Harness) -> None:
        if limited:
            own = {"a": Limits(2.0, 1, 300, 2), "b": Limits(concurrency=1), "x": Limits()}
            harness.gate.limit_clients(own)
        tasks = []
        for coming in plan:
            await asyncio.sleep(coming[0])
            task = asyncio.create_task(one(harness, coming))
            tasks.append(task)
            if coming[-1] is not None:
                asyncio.get_running_loop().call_later(coming[-1], task.cancel)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {type(None), asyncio.CancelledError}
        lines = [*harness.gate.lanes, *filter(None, map(harness.gate.client_queue, "abc"))]
        for line in lines:
            assert line.is_empty
            assert (line.users, line.budgets.in_flight, len(line.queue)) == (0, 0, 0)

    play(
        scene,
        rate_limit=rate,
        rate_limit_burst=burst,
        rate_limit_timeout=1_000_000,
        tokens_per_minute=tokens_per_minute,
        concurrency_limit=slots,
    )


def test_waiter_takes_at_most_four_kilobytes() -> None:
    """With its exchange, its task and a flow of its own; that is beside connection and body."""
    waiters = 2000

    async def scene(harness: Harness) -> None:
        await harness.admit()
        tracemalloc.start()
        tasks = [harness.spawn(f"client-{n}", model="m", tokens=1000 + n) for n in range(waiters)]
        await settle()
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert harness.gate.snapshot()["waiters"] == waiters
        assert held / waiters <= 4096
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    play(scene, rate_limit=0.001, rate_limit_burst=1, rate_limit_timeout=10**9)
