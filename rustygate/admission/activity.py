"""How much each client was admitted, and what it has in flight, for the live page.

Admissions are counted as plain numbers, by priority class and client. Their history consists of
samples, which the caller takes at fixed intervals (`sample`).
"""

from rustygate.core.fair_order import CLASS_NAMES
from rustygate.core.history import CountHistory
from rustygate.exchange import Exchange

# How many clients of a class are counted separately. Later ones are counted together, until others
# have been idle for as long as samples are kept.
CLIENT_LIMIT = 200

# The name under which the others are counted.
OTHER_CLIENTS = "(other)"

# The length of a client's history, in intervals: a minute.
INTERVALS = 12


class ClientActivity:
    """What a client does in a priority class.

    Attributes:
        weight: its weight at the last admission.
        cost: the total cost admitted, in the gate's unit of cost (`Budgets.cost`).
        in_flight: its exchanges that hold a slot.
    """

    __slots__ = ("cost", "history", "in_flight", "weight")

    def __init__(self) -> None:
        self.weight = 1.0
        self.cost = self.in_flight = 0
        self.history = CountHistory(INTERVALS)

    def __repr__(self) -> str:
        return f"<ClientActivity {self.cost} ns, {self.in_flight} in flight>"

    @property
    def lately(self) -> int:
        """The cost admitted in the last minute."""
        return self.history.growth(self.cost, INTERVALS)

    @property
    def is_idle(self) -> bool:
        """Whether nothing was admitted in the last minute and nothing is in flight."""
        return not (self.in_flight or self.lately)


class Activity:
    """The activity of all clients.

    Attributes:
        admitted: all admissions so far.
        clients: by class, the clients that were active in the last minute.
    """

    def __init__(self) -> None:
        self.admitted = 0
        self.clients: dict[str, dict[str, ClientActivity]] = {name: {} for name in CLASS_NAMES}

    def admit(self, exchange: Exchange, cost: int) -> ClientActivity:
        """Count an admission. The caller lowers `in_flight` when it frees its slot."""
        self.admitted += 1
        client = self.clients[exchange.priority].get(exchange.client)
        if client is None:
            client = self._add(exchange)
        client.weight = exchange.weight
        client.cost += cost
        client.in_flight += 1
        return client

    def _add(self, exchange: Exchange) -> ClientActivity:
        clients = self.clients[exchange.priority]
        name = exchange.client if len(clients) < CLIENT_LIMIT else OTHER_CLIENTS
        return clients.setdefault(name, ClientActivity())

    def sample(self, intervals: int) -> None:
        """End one or more intervals, and forget the clients that have become idle."""
        for name, clients in self.clients.items():
            for client in clients.values():
                client.history.sample(client.cost, intervals)
            active = {key: each for key, each in clients.items() if not each.is_idle}
            self.clients[name] = active
