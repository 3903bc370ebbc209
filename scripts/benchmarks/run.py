"""One run of the benchmark: how much it measures, its contenders, and the alternation of sides."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

from scripts.benchmarks.contenders import DIRECT, Contender, Side
from scripts.benchmarks.load import MeasurementFailed, send_requests
from scripts.benchmarks.peers import Peer, install_limiters
from scripts.benchmarks.report import Report, added

Figures = dict[str, float]
Measures = Mapping[str, Callable[[], Figures]]


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured: rounds, seconds per load, and the loads.

    Rounds that count instructions are few, because they hardly differ.
    A stream lasts long enough that most events arrive after a thousand streams are open.
    """

    rounds: int = 15
    count_rounds: int = 3
    seconds: float = 0.6
    stream_seconds: float = 2.0
    connections: tuple[int, ...] = (1, 32, 256)
    streams: tuple[int, ...] = (1, 10, 50, 200, 512, 1000)
    waiters: tuple[int, ...] = (0, 10, 100, 1000, 10_000, 100_000)


QUICK = Effort(5, 1, 0.3, 1.2, streams=(1, 200, 512, 1000), waiters=(0, 1000, 100_000))


def each(sides: Iterable[Side], measure: Callable[[Side], Figures]) -> Measures:
    """The same measurement of each side."""
    return {side.name: partial(measure, side) for side in sides}


@dataclass(slots=True)
class Run:
    """A run's effort, contenders and report.

    Args:
        upstream: the URL that the contenders forward to.
        gate: the gate's environment variables.
        peers: the other proxies, empty if they are not measured.
        limiters: environment variables with which other limiters can be imported; empty if they
            are not measured.
    """

    effort: Effort
    contenders: list[Contender]
    upstream: str
    gate: dict[str, str]
    peers: Sequence[Peer] = ()
    limiters: dict[str, str] = field(default_factory=dict)
    report: Report = field(default_factory=Report)

    def install_limiters(self) -> None:
        """Install other limiters, so that they are measured too."""
        try:
            self.limiters = {"PYTHONPATH": str(install_limiters())}
        except MeasurementFailed as failure:
            self.report.skip("limiters", failure)

    @contextmanager
    def sides(self, contenders: Iterable[Contender] | None = None) -> Iterator[list[Side]]:
        """The sides that start and respond; the others are reported as skipped."""
        with ExitStack() as stack:
            started = []
            for contender in self.contenders if contenders is None else contenders:
                try:
                    side = stack.enter_context(contender.start())
                    asyncio.run(send_requests(side.port, side.headers, 1, 0))
                except MeasurementFailed as failure:
                    self.report.skip(contender.name, failure)
                else:
                    started.append(side)
            yield started

    def alternate(
        self,
        section: str,
        load: str,
        measures: Measures,
        warm_up: int = 1,
        rounds: int | None = None,
    ) -> None:
        """Measure the sides in turn, round by round, after `warm_up` rounds that do not count.

        A side that fails is reported as skipped and left out of the following rounds.
        """
        print(f"{section}, {load} ...", flush=True)
        left = dict(measures)
        for number in range(-warm_up, rounds or self.effort.rounds):
            direct: Figures = {}
            for name in list(left):
                try:
                    figures = left[name]()
                except MeasurementFailed as failure:
                    self.report.skip(f"{name}, {section}, {load}", failure)
                    self.report.forget(section, load, name)
                    del left[name]
                    continue
                if name == DIRECT:
                    direct = figures
                if number >= 0:
                    figures = figures if name == DIRECT else added(figures, direct)
                    self.report.add(section, load, name, figures)
