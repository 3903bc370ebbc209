"""Predicted waits: exact where the order is simple, and never above the bound that is quick to
compute."""

from random import Random

import pytest

from rustygate.core.bucket import SECOND
from rustygate.core.fair_order import CLASSES
from rustygate.core.predicted_wait import Newcomer, Prediction, longest_wait, predict
from tests.core.test_upcoming import random_run
from tests.support.scheduled import Demand, Run, emptied, limits

DEFAULT_CLASS = 1


def newcomer_of(run: Run, demand: Demand) -> Newcomer:
    client = run.clients.get(demand.client)
    lane = run.lane(demand.lane)
    return Newcomer(lane, client, DEFAULT_CLASS, demand.client, demand.weight, demand.tokens)


def admitted_after(run: Run, demand: Demand) -> int:
    """How long a newcomer waits in fact."""
    arrived, item = run.now, run.push(demand)
    for _ in run.events(1000):
        pass
    [at] = [at for each, at in run.granted if each == item]
    return round(at * SECOND) - arrived


@pytest.mark.parametrize("seed", range(60))
def test_wait_among_equal_requests_is_predicted_exactly(seed: int) -> None:
    """Some flows have been served before, and some have begun to wait since then."""
    random = Random(seed)
    run = Run(limits(rate=1))
    for _ in range(random.randint(1, 3)):
        for _ in range(random.randint(1, 8)):
            run.push(Demand(random.choice("abc")))
        for _ in run.events(run.now / SECOND + random.randint(0, 5)):
            pass
    demand = Demand(random.choice("abcd"))
    predicted = predict(run.scheduler, newcomer_of(run, demand), run.now)
    assert predicted.ahead <= run.scheduler.waiting
    assert predicted.wait == admitted_after(run, demand)


@pytest.mark.parametrize("seconds", range(9))
def test_wait_of_a_flow_that_comes_back_is_predicted_exactly(seconds: int) -> None:
    run = Run(limits(rate=1))
    for client in "abcbcbcbc":
        run.push(Demand(client))
    for _ in run.events(run.now / SECOND + seconds):
        pass
    demand = Demand("a")
    predicted = predict(run.scheduler, newcomer_of(run, demand), run.now)
    assert predicted.wait == admitted_after(run, demand)


@pytest.mark.parametrize("where", ["gate", "lane", "client"])
@pytest.mark.parametrize(
    ("limit", "wait_s"),
    [({"rate": 1}, 5), ({"tokens": 60}, 4 * 5 + 7)],
    ids=["requests", "tokens"],
)
def test_bound_is_the_wait_behind_everything(
    where: str, limit: dict[str, int], wait_s: int
) -> None:
    """At one client, that is the wait itself."""
    budgets = emptied(limits(**limit))
    budgets.take(0)
    run = Run(
        budgets if where == "gate" else None,
        {"m": budgets} if where == "lane" else None,
        {"a": budgets} if where == "client" else None,
    )
    for _ in range(4):
        run.push(Demand("a", tokens=5))
    newcomer = newcomer_of(run, Demand("a", tokens=7))
    bound = longest_wait(run.scheduler, newcomer.lane, newcomer.client, 7, 0)
    assert bound == pytest.approx(wait_s * SECOND)
    assert predict(run.scheduler, newcomer, 0) == Prediction(bound, 4)


@pytest.mark.parametrize("seed", range(40))
def test_no_wait_is_predicted_to_be_longer_than_the_bound(seed: int) -> None:
    run = random_run(Random(seed))
    for lane in run.lanes.values():
        for name, client in (*run.clients.items(), ("new", None)):
            bound = longest_wait(run.scheduler, lane, client, 9, run.now)
            for index in CLASSES:
                newcomer = Newcomer(lane, client, index, name, 1.0, 9)
                assert predict(run.scheduler, newcomer, run.now).wait <= bound
