"""Waits predicted on arrival and waits had, on a clock that jumps."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from rustygate.core.bucket import MINUTE, SECOND
from rustygate.core.clients import Limits
from rustygate.core.rate_limit_headers import Quota, RateLimitUpdate
from tests.support.harness import Harness, play, settle, teach, told


@dataclass(frozen=True)
class Crowd:
    """Requests of some clients, so many of each, of sizes between two."""

    names: str
    each: int
    tokens: tuple[int, int] = (10, 10)
    priority: str = "default"

    def requests(self, random: Random) -> Iterator[dict[str, Any]]:
        for client in self.names.split():
            for _ in range(self.each):
                yield {
                    "client": client,
                    "tokens": random.randint(*self.tokens),
                    "priority": self.priority,
                }


LIGHT = " ".join(f"c{number}" for number in range(30))
SMALL, LARGE, ANY = (1, 20), (800, 1200), (1, 600)
OWN = {"rate_limit": 2, "rate_limit_burst": 1, "tokens_per_minute": 24_000}


@dataclass(frozen=True)
class Scene:
    """Who waits already, and for what; `learned` are a lane's requests and tokens a minute."""

    crowds: tuple[Crowd, ...]
    learned: tuple[int | None, int | None] = (None, None)
    settings: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, Limits] = field(default_factory=dict)

    def news(self) -> RateLimitUpdate:
        requests, tokens = self.learned
        return RateLimitUpdate(_drained(requests), _drained(tokens))


def _drained(limit: int | None) -> Quota | None:
    return None if limit is None else Quota(limit, 0, None)


def lane(*crowds: Crowd, requests: int | None = 120, tokens: int | None = 24_000) -> Scene:
    return Scene(crowds, (requests, tokens), {"rate_limit": None})


SCENES = {
    "equal flows": lane(Crowd(LIGHT, 5)),
    "equal flows, tokens": lane(Crowd(LIGHT, 5, LARGE)),
    "hog and light flows": lane(Crowd("hog", 300), Crowd(LIGHT, 2)),
    "two hogs and light flows": lane(Crowd("hog", 100), Crowd("boar", 300), Crowd(LIGHT, 2)),
    "three classes": lane(
        Crowd("a b", 40, priority="interactive"),
        Crowd("c d", 40),
        Crowd("e f", 40, priority="batch"),
    ),
    "three classes, mixed": lane(
        Crowd("a b", 40, SMALL, "interactive"),
        Crowd("c d", 40, ANY),
        Crowd("e f", 20, LARGE, "batch"),
    ),
    "mixed sizes": lane(Crowd(LIGHT, 4, ANY)),
    "small and large flows": lane(Crowd(LIGHT, 6, SMALL), Crowd("hog boar sow", 10, LARGE)),
    "small hog among large": lane(Crowd("hog", 200, SMALL), Crowd(LIGHT, 2, LARGE)),
    "large hog among small": lane(Crowd("hog", 60, LARGE), Crowd(LIGHT, 6, SMALL)),
    "gate's own budgets": Scene((Crowd(LIGHT, 4, ANY),), settings=OWN),
    "client's own limits": Scene(
        (Crowd("hog", 60), Crowd(LIGHT, 4)),
        settings={"rate_limit": None},
        limits={"hog": Limits(requests_per_second=0.5)},
    ),
    "client's own limits, three classes": Scene(
        (
            Crowd("hog", 20, priority="interactive"),
            Crowd("hog", 20),
            Crowd("hog", 60, priority="batch"),
        ),
        settings={"rate_limit": None},
        limits={"hog": Limits(requests_per_second=0.5, burst=1)},
    ),
    "client's own limits in a busy lane": Scene(
        (Crowd("hog", 40, ANY), Crowd(LIGHT, 1, ANY)),
        (120, 24_000),
        {"rate_limit": None},
        {"hog": Limits(requests_per_second=0.5, burst=1)},
    ),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES)
def test_predicted_wait_is_within_thirty_percent(scene: Scene, seed: int) -> None:
    """Asked for one more request of each crowd, each in a run of its own."""
    for crowd in scene.crowds:
        predicted, at_most, had = foretold(scene, crowd, Random(seed))
        assert predicted == pytest.approx(had, rel=0.3, abs=SECOND)
        assert predicted <= at_most


def foretold(scene: Scene, crowd: Crowd, random: Random) -> tuple[int, ...]:
    """The wait predicted for a newcomer of a crowd, the longest it could be, and the one had."""
    found: list[int] = []

    async def run(harness: Harness) -> None:
        harness.gate.limit_clients(scene.limits)
        teach(harness, scene.news())
        await settle()
        waiting = [request for each in scene.crowds for request in each.requests(random)]
        random.shuffle(waiting)
        tasks = [harness.spawn(model="m", **request) for request in waiting]
        await settle()
        newcomer = next(crowd.requests(random)) | {"model": "m"}
        asking = harness.gate.admission(harness.exchange(**newcomer))
        found.append(harness.gate.dispatcher.predict(asking).wait)
        found.append(harness.gate.dispatcher.predict(asking, at_most=True).wait)
        found.append((await harness.admit(**newcomer)).queued)
        for task in tasks:
            await task

    play(run, rate_limit_timeout=100 * MINUTE, queue_limit=10_000, **scene.settings)
    return tuple(found)


def test_predicted_wait_includes_a_slowed_lane() -> None:
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


def test_predicted_wait_includes_a_paused_lane() -> None:
    async def scene(harness: Harness) -> None:
        async with harness.gate.admission(harness.exchange("a", model="m")) as admission:
            admission.record_response(ok=True)
            admission.pause(5 * SECOND)
        newcomer = harness.gate.admission(harness.exchange("a", model="m"))
        assert harness.gate.dispatcher.predict(newcomer).wait == 5 * SECOND

    play(scene, rate_limit=1, rate_limit_burst=10)


@pytest.mark.parametrize("waiters", [5, 100])
@pytest.mark.parametrize("limit", ["own", "lane", "tokens"])
def test_predicted_wait_is_near_the_actual_wait(limit: str, waiters: int) -> None:
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
