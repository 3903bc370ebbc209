"""What is known of the workers of a gate that has several: their states, and metrics of them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rustygate.telemetry.families import Family, counter, gauge

State = Literal["starting", "serving", "silent", "draining", "ended"]


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One worker now.

    Attributes:
        number: which of the workers it is, from 1; the process that replaces it has the same.
        in_flight: its exchanges in flight.
        connections: its connections from clients.
        restarts: how often it was replaced.
    """

    number: int
    pid: int
    state: State
    in_flight: int
    connections: int
    restarts: int


Workers = Callable[[], Sequence[WorkerStatus]]


def one_process() -> Sequence[WorkerStatus]:
    """The workers of a gate that has none."""
    return ()


class WorkerMetrics:
    """The metrics of workers."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    def families(self) -> Iterator[Family]:
        workers = self._workers()
        if not workers:
            return
        yield gauge(
            "rustygate_workers",
            "Processes of this gate that serve clients now, in processes.",
            (),
            [((), sum(worker.state == "serving" for worker in workers))],
        )
        yield counter(
            "rustygate_worker_restarts",
            "Processes that ended and were replaced, in processes.",
            (),
            [((), sum(worker.restarts for worker in workers))],
        )
