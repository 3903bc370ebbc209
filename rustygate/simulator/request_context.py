"""The state of one request, kept from its arrival to its response."""

from dataclasses import dataclass

from aiohttp import web

from rustygate.simulator.errors import ErrorResponse, SimulatedLimitExceeded
from rustygate.simulator.faults import NO_FAULTS, Faults
from rustygate.simulator.limits import Quota
from rustygate.simulator.stats import RequestRecorder


@dataclass(slots=True)
class RequestContext:
    """The state of one request.

    Args:
        started_ns: when the request head arrived, on the monotonic clock.
        subject: what a simulated rate limit applies to: the path, or the model once it is known.
        quota: the quota of the model, once it is known.
    """

    recorder: RequestRecorder
    started_ns: int
    subject: str
    faults: Faults = NO_FAULTS
    quota: Quota | None = None

    @property
    def simulated_error(self) -> ErrorResponse | None:
        """The error response that the request's faults ask for."""
        error = self.faults.error
        if isinstance(error, SimulatedLimitExceeded):
            return error.response(self.subject, self.quota)
        return error


CONTEXT = web.RequestKey("context", RequestContext)
