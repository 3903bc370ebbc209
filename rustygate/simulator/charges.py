"""Charging a request to its model's quota, and counting its tokens for its client."""

import time
from dataclasses import dataclass
from typing import Any

from rustygate.simulator.errors import ApiError, rate_limit_exceeded
from rustygate.simulator.limits import Quota, Quotas
from rustygate.simulator.models import Models
from rustygate.simulator.request_context import RequestContext
from rustygate.simulator.schemas import Usage
from rustygate.simulator.stats import Stats


@dataclass(frozen=True, slots=True)
class Charges:
    """Charges one HTTP request, or every response created on one WebSocket."""

    models: Models
    quotas: Quotas
    stats: Stats
    context: RequestContext

    @property
    def forced_tokens(self) -> int | None:
        """The output length in tokens, if a fault sets it."""
        return self.context.faults.tokens

    def charge(self, model: str, cost: int, user: str | None = None) -> None:
        """Take the cost of a response, in tokens, from its model's quota.

        Raises:
            ApiError: the model does not exist, or its quota is exceeded.
        """
        if user is not None:
            self.context.recorder.count_for(self.stats.client(user))
        exceeded = self.select_model(model).charge(time.monotonic_ns(), cost)
        if exceeded is not None:
            raise ApiError(rate_limit_exceeded(model, exceeded))

    def select_model(self, model: str) -> Quota:
        """Set the request's model and return its quota.

        Raises:
            ApiError: the model does not exist; status 404.
        """
        self.models.find(model)
        self.context.subject = model
        self.context.quota = self.quotas.get(model)
        return self.context.quota

    def record_usage(self, usage: Usage) -> None:
        """Count the tokens of a response in the stats."""
        self.context.add_tokens(usage.tokens_in, usage.tokens_out)

    def rate_limits(self) -> list[dict[str, Any]]:
        """The model's rate limits as the Realtime API reports them."""
        quota = self.context.quota
        return [] if quota is None else quota.rate_limits(time.monotonic_ns())
