"""The labels of the client and model under which an exchange is counted.

Clients choose both names, so the number of labels is bounded (see `series`). A client has
its own label unless its request was refused early. A model has one once upstream has confirmed it
with a successful response.
"""

from collections.abc import Iterable

from rustygate.admission.lanes import Lanes
from rustygate.errors import (
    BadRequest,
    InvalidApiKey,
    MethodNotAllowed,
    NotFound,
    OriginNotAllowed,
)
from rustygate.exchange import Exchange
from rustygate.telemetry.series import (
    CLIENT_LIMIT,
    MODEL_LIMIT,
    NONE,
    UNKNOWN,
    BoundedLabels,
)

# Reasons of refusals that come before the client's name can be trusted.
_UNTRUSTED_REASONS = frozenset(
    refusal.reason
    for refusal in (BadRequest, InvalidApiKey, MethodNotAllowed, NotFound, OriginNotAllowed)
)


class ExchangeLabels:
    """The labels given to names so far, shared by everything that counts exchanges."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._clients = BoundedLabels(CLIENT_LIMIT)
        self._models = BoundedLabels(MODEL_LIMIT)

    def of(self, exchange: Exchange) -> tuple[str, str]:
        """The labels of an exchange's client and model, when it settles."""
        if exchange.reason in _UNTRUSTED_REASONS:
            return UNKNOWN, self.model(exchange.model)
        return self._clients[exchange.client], self.model(exchange.model)

    def client(self, name: str) -> str:
        """A client's label."""
        return self._clients[name]

    def model(self, name: str | None) -> str:
        """A model's label."""
        if name is None:
            return NONE
        if name in self._models or self._lanes.is_known(name):
            return self._models[name]
        return UNKNOWN

    @property
    def models(self) -> Iterable[str]:
        """The labels of the models that upstream has confirmed."""
        return self._models.values()

    def reserve_clients(self, names: Iterable[str]) -> None:
        """Give these clients labels of their own, even beyond the limit."""
        for name in names:
            self._clients.reserve(name)
