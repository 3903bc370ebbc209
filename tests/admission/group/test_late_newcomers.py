"""Which waiters are refused once a gate knows what waits at other members."""

import asyncio
from collections.abc import Callable

from rustygate.admission.group.late_newcomers import BATCH, LateNewcomers
from rustygate.admission.waiter import LaneQueue, Waiter
from rustygate.core.lane import Lane
from rustygate.core.predicted_wait import Prediction
from rustygate.core.work import Work
from rustygate.exchange import Exchange

LATE = Prediction(7, 3)


class Examined:
    """Waiters of a flow: those that were examined, with the work before each, and refused."""

    def __init__(self, is_late: Callable[[int, Work], bool]) -> None:
        self._is_late = is_late
        self.before: list[tuple[int, Work]] = []
        self.refused: list[int] = []
        loop = asyncio.get_running_loop()
        self.late_newcomers = LateNewcomers(self._predict, self._refuse, loop)

    def _predict(self, waiter: Waiter, before: Work) -> Prediction | None:
        self.before.append((waiter.tokens, before))
        return LATE if self._is_late(waiter.tokens, before) else None

    def _refuse(self, waiter: Waiter, prediction: Prediction) -> None:
        assert prediction is LATE
        self.refused.append(waiter.tokens)


def waiter(tokens: int) -> Waiter:
    exchange = Exchange("a", "POST", "/v1/x", tokens=tokens)
    return Waiter(exchange, LaneQueue("m", Lane()), None)


async def test_refusal_makes_room_for_those_behind_it() -> None:
    examined = Examined(lambda tokens, before: before.tokens + tokens > 10)
    examined.late_newcomers.examine([waiter(tokens) for tokens in (5, 6, 5, 1)])
    assert examined.refused == [6, 1]
    before = [(5, Work(0, 0, 0)), (6, Work(0, 1, 5)), (5, Work(0, 1, 5)), (1, Work(0, 2, 10))]
    assert examined.before == before


async def test_waiter_that_left_is_not_examined() -> None:
    examined = Examined(lambda tokens, before: True)
    gone = waiter(1)
    gone.decision = asyncio.get_running_loop().create_future()
    gone.grant()
    examined.late_newcomers.examine([gone, waiter(2)])
    assert examined.refused == [2]


async def test_other_tasks_run_while_many_are_examined() -> None:
    examined = Examined(lambda tokens, before: False)
    examined.late_newcomers.examine([waiter(1) for _ in range(2 * BATCH + 1)])
    counts = [len(examined.before)]
    for _ in range(2):
        await asyncio.sleep(0)
        counts.append(len(examined.before))
    assert counts == [BATCH, 2 * BATCH, 2 * BATCH + 1]
    assert examined.before[-1] == (1, Work(0, 2 * BATCH, 2 * BATCH))
