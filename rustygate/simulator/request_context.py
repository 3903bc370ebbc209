"""What one request has with it on its way to its answer."""

from dataclasses import dataclass

from aiohttp import web

from rustygate.simulator.errors import Failure, NoRoom
from rustygate.simulator.faults import NO_FAULTS, Faults
from rustygate.simulator.limits import Quota
from rustygate.simulator.stats import Visit


@dataclass(slots=True)
class Passage:
    """A request's passage.

    Args:
        started: when its head was there, in nanoseconds of the monotonic clock.
        place: who refuses, if that was asked for: the model once it is known, before that the
            path.
        quota: the model's, once it is known.
    """

    visit: Visit
    started: int
    place: str
    faults: Faults = NO_FAULTS
    quota: Quota | None = None

    @property
    def failure(self) -> Failure | None:
        """The failure that was asked for."""
        failure = self.faults.failure
        return failure.failure(self.place, self.quota) if isinstance(failure, NoRoom) else failure


PASSAGE = web.RequestKey("passage", Passage)
