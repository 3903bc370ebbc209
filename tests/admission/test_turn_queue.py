"""The turns of one WebSocket at the gate: each waits from its arrival, and all are in order."""

import asyncio

import pytest

from rustygate.admission.waiter import TurnQueue
from rustygate.core.clients import Limits
from rustygate.core.rate_limit_headers import RateLimitUpdate
from rustygate.errors import Draining, QueueTimeout
from tests.support.harness import (
    Harness,
    rate_limit,
    run_ready_tasks,
    run_scenario,
    set_rate_limit,
)

NONE_LEFT: RateLimitUpdate = rate_limit(60, 0)


class Socket:
    """A WebSocket whose turns go through the gate; `sent` are those admitted, with the times."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.queue: TurnQueue = TurnQueue()
        self.sent: list[tuple[str, float]] = []
        self.refused: list[tuple[str, float, str]] = []

    @property
    def now(self) -> float:
        return round((self.harness.gate.now() - self.harness.began) / 1e9, 3)

    async def _turn(self, name: str, hold_s: float, client: str, **fields: object) -> None:
        gate = self.harness.gate
        exchange = self.harness.exchange(client, **fields)
        try:
            async with gate.turn_admission(exchange, self.queue):
                self.sent.append((name, self.now))
                await asyncio.sleep(hold_s)
        except (QueueTimeout, Draining) as refusal:
            self.refused.append((name, self.now, refusal.message))

    def turn(
        self, name: str, model: str = "m", hold_s: float = 0, client: str = "a", **fields: object
    ) -> "asyncio.Task[None]":
        return asyncio.create_task(self._turn(name, hold_s, client, model=model, **fields))

    @property
    def order(self) -> str:
        return "".join(name for name, _ in self.sent)

    def check_empty(self) -> None:
        assert repr(self.queue) == "<TurnQueue 0 waiting>"
        assert self.harness.gate.snapshot()["waiters"] == 0


def test_turns_are_admitted_at_the_rate_and_in_order() -> None:
    async def scenario(harness: Harness) -> None:
        socket = Socket(harness)
        await asyncio.gather(*(socket.turn(name) for name in "abcd"))
        assert socket.sent == [("a", 0), ("b", 1), ("c", 2), ("d", 3)]

    run_scenario(scenario, rate_limit=1, rate_limit_burst=1)


def test_hopeless_turns_are_refused_on_arrival() -> None:
    async def scenario(harness: Harness) -> None:
        socket = Socket(harness)
        turns = [socket.turn(name) for name in "abcdef"]
        await run_ready_tasks()
        assert [(name, at) for name, at, _ in socket.refused] == [("d", 0), ("e", 0), ("f", 0)]
        assert all("2 requests are ahead" in message for *_, message in socket.refused)
        assert all("try again in 3 s" in message for *_, message in socket.refused)
        await asyncio.gather(*turns)
        assert socket.order == "abc"

    run_scenario(scenario, rate_limit=1, rate_limit_burst=1, rate_limit_timeout=2.5)


def test_waiting_turns_count_in_the_predictions_of_others() -> None:
    async def scenario(harness: Harness) -> None:
        socket = Socket(harness)
        turns = [socket.turn(name, client="same") for name in "abcd"]
        await run_ready_tasks()
        assert harness.gate.snapshot()["waiters"] == 3
        with pytest.raises(QueueTimeout, match="3 requests are ahead"):
            await harness.admit("same", deadline=harness.gate.now() + 3_900_000_000)
        await asyncio.gather(*turns)

    run_scenario(scenario, rate_limit=1, rate_limit_burst=1)


def test_turn_for_another_model_does_not_overtake() -> None:
    async def scenario(harness: Harness) -> None:
        set_rate_limit(harness, NONE_LEFT, "full")
        await run_ready_tasks()
        socket = Socket(harness)
        turns = [socket.turn("a", "full"), socket.turn("b", "free"), socket.turn("c", "free")]
        await run_ready_tasks()
        assert harness.gate.snapshot() == {"waiters": 3, "in_flight": 0}
        await asyncio.gather(*turns)
        assert socket.sent == [("a", 1), ("b", 1), ("c", 1)]

    run_scenario(scenario, rate_limit=1000, rate_limit_burst=1000)


def test_turn_that_comes_too_early_takes_no_slot() -> None:
    """Else it would wait for a turn that waits for its slot."""

    async def scenario(harness: Harness) -> None:
        set_rate_limit(harness, NONE_LEFT, "full")
        await run_ready_tasks()
        socket = Socket(harness)
        turns = [socket.turn("a", "full", 5), socket.turn("b", "free")]
        await run_ready_tasks()
        await harness.admit("other", hold_s=0.5)
        await asyncio.gather(*turns)
        assert socket.sent == [("a", 1), ("b", 6)]
        socket.check_empty()

    run_scenario(scenario, rate_limit=1000, rate_limit_burst=1000, concurrency_limit=1)


def test_alternating_turns_for_two_full_models_keep_their_order() -> None:
    async def scenario(harness: Harness) -> None:
        for model in ("x", "y"):
            set_rate_limit(harness, NONE_LEFT, model)
        await run_ready_tasks()
        socket = Socket(harness)
        turns = [socket.turn(name, model) for name, model in zip("abcdef", "xyyxxy", strict=True)]
        await asyncio.gather(*turns)
        assert socket.order == "abcdef"
        assert socket.sent[-1][1] == 3

    run_scenario(scenario, rate_limit=1000, rate_limit_burst=1000)


@pytest.mark.parametrize("gone", ["a", "b"])
def test_turns_behind_one_that_is_cancelled_continue(gone: str) -> None:
    async def scenario(harness: Harness) -> None:
        set_rate_limit(harness, NONE_LEFT, "full")
        await run_ready_tasks()
        socket = Socket(harness)
        turns = {
            "a": socket.turn("a", "full"),
            "b": socket.turn("b", "free"),
            "c": socket.turn("c", "free"),
        }
        await run_ready_tasks()
        turns.pop(gone).cancel()
        await asyncio.gather(*turns.values())
        assert socket.sent == ([("b", 0), ("c", 0)] if gone == "a" else [("a", 1), ("c", 1)])
        socket.check_empty()

    run_scenario(scenario, rate_limit=1000, rate_limit_burst=1000)


def test_turn_that_moves_on_to_its_own_lane_waits_there_only() -> None:
    async def scenario(harness: Harness) -> None:
        set_rate_limit(harness, NONE_LEFT, "x")
        await run_ready_tasks()
        await asyncio.sleep(0.5)
        set_rate_limit(harness, NONE_LEFT, "y")
        await run_ready_tasks()
        socket = Socket(harness)
        turns = [socket.turn(name, model) for name, model in zip("abcd", "xyzz", strict=True)]
        await asyncio.sleep(0.6)
        assert repr(socket.queue) == "<TurnQueue 3 waiting>"
        turns.pop().cancel()
        await run_ready_tasks()
        assert repr(socket.queue) == "<TurnQueue 2 waiting>"
        await asyncio.gather(*turns)
        assert socket.sent == [("a", 1), ("b", 1.5), ("c", 1.5)]
        socket.check_empty()

    run_scenario(scenario, rate_limit=1000, rate_limit_burst=1000)


def test_turn_that_leaves_behind_another_leaves_nothing() -> None:
    async def scenario(harness: Harness) -> None:
        set_rate_limit(harness, NONE_LEFT, "full")
        await run_ready_tasks()
        socket = Socket(harness)
        first, second = socket.turn("a", "full"), socket.turn("b", "free")
        await asyncio.sleep(0.5)
        assert harness.gate.state().waiters["default"] == 2
        second.cancel()
        await run_ready_tasks()
        assert harness.gate.snapshot()["waiters"] == 1
        await first
        assert socket.sent == [("a", 1)]
        socket.check_empty()

    run_scenario(scenario, rate_limit=1000, rate_limit_burst=1000)


def test_turn_behind_one_that_is_refused_continues() -> None:
    async def scenario(harness: Harness) -> None:
        socket = Socket(harness)
        deadline = harness.gate.now() + 1_000_000_000
        turns = [
            socket.turn("a", hold_s=2),
            socket.turn("b", deadline=deadline),
            socket.turn("c", "other"),
        ]
        await asyncio.gather(*turns)
        assert socket.sent == [("a", 0), ("c", 2)]
        assert [(name, at) for name, at, _ in socket.refused] == [("b", 1)]

    run_scenario(scenario, concurrency_limit=1)


def test_other_clients_pass_a_turn_that_waits_for_an_earlier_one() -> None:
    async def scenario(harness: Harness) -> None:
        set_rate_limit(harness, NONE_LEFT, "full")
        await run_ready_tasks()
        socket = Socket(harness)
        turns = [socket.turn("a", "full"), socket.turn("b", "free")]
        await run_ready_tasks()
        other = Socket(harness)
        await other.turn("o", "free", client="a")
        assert other.sent == [("o", 0)]
        await asyncio.gather(*turns)

    run_scenario(scenario, rate_limit=1000, rate_limit_burst=1000)


def test_closed_gate_refuses_turns_wherever_they_wait() -> None:
    async def scenario(harness: Harness) -> None:
        set_rate_limit(harness, NONE_LEFT, "full")
        await run_ready_tasks()
        socket = Socket(harness)
        turns = [socket.turn("a", "full"), socket.turn("b", "free"), socket.turn("c", "free")]
        await run_ready_tasks()
        harness.gate.close()
        await run_ready_tasks()
        assert all(turn.done() for turn in turns)
        assert [name for name, *_ in socket.refused] == ["a", "b", "c"]
        socket.check_empty()

    run_scenario(scenario, rate_limit=1000, rate_limit_burst=1000)


def test_turns_wait_for_the_limits_of_their_client() -> None:
    async def scenario(harness: Harness) -> None:
        harness.gate.limit_clients({"a": Limits(concurrency=1)})
        socket = Socket(harness)
        await asyncio.gather(socket.turn("a", "x", 1), socket.turn("b", "y", 1), socket.turn("c"))
        assert socket.sent == [("a", 0), ("b", 1), ("c", 2)]

    run_scenario(scenario, rate_limit=1000, rate_limit_burst=1000)
