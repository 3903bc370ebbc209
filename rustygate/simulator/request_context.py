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
        status: the status of the response, once its head was sent.
        tokens_in, tokens_out: the tokens of all responses to the request.
    """

    recorder: RequestRecorder
    started_ns: int
    subject: str
    faults: Faults = NO_FAULTS
    quota: Quota | None = None
    status: int | None = None
    tokens_in: int = 0
    tokens_out: int = 0

    def response_started(self, status: int) -> None:
        self.status = status
        self.recorder.response_started(status)

    def add_tokens(self, tokens_in: int, tokens_out: int) -> None:
        self.tokens_in += tokens_in
        self.tokens_out += tokens_out
        self.recorder.add_tokens(tokens_in, tokens_out)

    @property
    def simulated_error(self) -> ErrorResponse | None:
        """The error response that the request's faults ask for."""
        error = self.faults.error
        if isinstance(error, SimulatedLimitExceeded):
            return error.response(self.subject, self.quota)
        return error


CONTEXT = web.RequestKey("context", RequestContext)
