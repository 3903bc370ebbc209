"""What a request's model, and its client, are charged."""

import time
from dataclasses import dataclass
from typing import Any

from rustygate.simulator import models
from rustygate.simulator.errors import ApiError, beyond_quota
from rustygate.simulator.limits import Quota, Quotas
from rustygate.simulator.request_context import Passage
from rustygate.simulator.schemas import Usage
from rustygate.simulator.stats import Stats


@dataclass(frozen=True, slots=True)
class Account:
    """What one request is charged to; on a WebSocket, all that is asked for over it."""

    quotas: Quotas
    stats: Stats
    passage: Passage

    @property
    def wanted(self) -> int | None:
        """How many tokens answers shall have, where a fault says so."""
        return self.passage.faults.tokens

    def charge(self, model: str, cost: int, user: str | None = None) -> None:
        """Take what an answer may cost from its model's quota.

        Raises:
            ApiError: there is no such model, or it has no room.
        """
        if user is not None:
            self.passage.visit.count_for(self.stats.client(user))
        shortage = self.choose(model).charge(time.monotonic_ns(), cost)
        if shortage is not None:
            raise ApiError(beyond_quota(model, shortage))

    def choose(self, model: str) -> Quota:
        """Name the model, from whose quota it is. Raises `ApiError` if there is none such."""
        models.model(model)
        self.passage.place = model
        self.passage.quota = self.quotas.of(model)
        return self.passage.quota

    def settle(self, usage: Usage) -> None:
        """Count the tokens that an answer takes."""
        self.passage.visit.took(usage.tokens_in, usage.tokens_out)

    def levels(self) -> list[dict[str, Any]]:
        """Where the model's limits stand."""
        quota = self.passage.quota
        return [] if quota is None else quota.levels(time.monotonic_ns())
