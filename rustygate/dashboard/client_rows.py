"""The clients on the live page: their waiters, and the share that each got and was due.

`share` and `share_due` are about the last minute, in the gate's unit of cost. What a client is due
is what it would have got if the gate had been shared perfectly: nobody is due more than it wanted
(`core.fair_shares`). It wanted what it got and what still waits.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from rustygate.admission.activity import OTHER_CLIENTS
from rustygate.admission.gate import Gate
from rustygate.core.clients import Client
from rustygate.core.fair_order import CLASS_INDEX, CLASS_NAMES, CLASSES
from rustygate.core.fair_shares import Want, due_shares
from rustygate.core.predicted_wait import cost_of
from rustygate.core.usage_rows import UsageTotals, amounts
from rustygate.dashboard.values import label
from rustygate.dashboard.waiting import Waiting
from rustygate.telemetry.series import NONE, UNKNOWN

Row = dict[str, Any]

_NO_USAGE = UsageTotals()

# Labels of usage that are not the names of clients.
_UNNAMED = (NONE, UNKNOWN)

# More would not fit on a page. The others are combined in one row.
CLIENTS_SHOWN = 200

# If nothing was admitted in the last minute, this part of the demand is divided.
_SMALL_PART = 1e-6


@dataclass(slots=True)
class _Client:
    """What is known of a client, over all classes."""

    name: str
    weight: float = 1.0
    priority: str | None = None
    waiting: int = 0
    in_flight: int = 0
    got: float = 0
    due: float = 0

    def add(self, other: "_Client") -> None:
        self.waiting += other.waiting
        self.in_flight += other.in_flight
        self.got += other.got
        self.due += other.due

    @property
    def importance(self) -> tuple[float, ...]:
        return self.waiting + self.in_flight, self.got


class ClientSources(NamedTuple):
    """Sources of facts about clients, besides the gate.

    Attributes:
        configured: those of CLIENTS_FILE.
        today: their usage of today, by label.
        budget_left: what is left of the budgets of a client.
    """

    configured: Mapping[str, Client]
    today: Mapping[str, UsageTotals]
    budget_left: Callable[[str], Mapping[str, float]]


def client_rows(gate: Gate, waiting: Waiting, sources: ClientSources) -> list[Row]:
    """The clients in CLIENTS_FILE, and those active today or in the last minute, by name."""
    clients: dict[str, _Client] = {}
    for name, client in sources.configured.items():
        clients[name] = _Client(name, client.weight, client.priority)
    wants = [_wants(gate, waiting, clients, index) for index in CLASSES]
    total = _divide(clients, wants)
    for name in sources.today.keys() - set(map(_usage_label, clients)):
        if name not in _UNNAMED:
            clients[name] = _Client(name)
    shown = _shown(clients)
    return [{**_row(client, total), **_spending(client, sources)} for client in shown]


def _wants(
    gate: Gate, waiting: Waiting, clients: dict[str, _Client], index: int
) -> dict[str, Want]:
    """The demand of each client of a class in the last minute: what it got plus what waits."""
    own, wants = gate.dispatcher.budgets, {}
    active = gate.dispatcher.activity.clients[CLASS_NAMES[index]]
    for name in active.keys() | waiting.by_class[index].keys():
        client = _client(clients, name, index)
        got = 0
        if name in active:
            got = active[name].lately
            client.in_flight += active[name].in_flight
            client.weight = active[name].weight
        items, tokens, weight = waiting.by_class[index].get(name, (0, 0, client.weight))
        client.waiting += items
        client.got += got
        amount = got + cost_of(own, items, tokens)
        if amount:
            wants[name] = Want(weight, amount)
    return wants


def _client(clients: dict[str, _Client], name: str, index: int) -> _Client:
    client = clients.setdefault(name, _Client(name))
    best = client.priority
    if best is None or CLASS_INDEX[best] > index:
        client.priority = CLASS_NAMES[index]
    return client


def _divide(clients: Mapping[str, _Client], wants: list[dict[str, Want]]) -> float:
    """Set the share that each client was due; returns the total that was divided."""
    total = sum(client.got for client in clients.values())
    if not total:
        total = _SMALL_PART * sum(want.amount for each in wants for want in each.values())
    for due in due_shares(wants, total):
        for name, amount in due.items():
            clients[name].due += amount
    return total


def _shown(clients: Mapping[str, _Client]) -> list[_Client]:
    """The most important clients by name, and the others as one."""
    if len(clients) <= CLIENTS_SHOWN:
        return sorted(clients.values(), key=lambda client: client.name)
    # What waits may be added up already, and a client may have that name.
    others = clients.get(OTHER_CLIENTS) or _Client(OTHER_CLIENTS)
    named = (client for client in clients.values() if client is not others)
    ranked = sorted(named, key=lambda client: client.importance, reverse=True)
    for client in ranked[CLIENTS_SHOWN:]:
        others.add(client)
    return [*sorted(ranked[:CLIENTS_SHOWN], key=lambda client: client.name), others]


def _row(client: _Client, total: float) -> Row:
    return {
        "client": label(client.name),
        "weight": client.weight,
        "priority": client.priority or "default",
        "waiting": client.waiting,
        "in_flight": client.in_flight,
        "share": round(client.got / total, 4) if total else 0.0,
        "share_due": round(client.due / total, 4) if total else 0.0,
    }


def _spending(client: _Client, sources: ClientSources) -> Row:
    """What a client has used today, and what is left of its budgets."""
    totals = sources.today.get(_usage_label(client.name), _NO_USAGE)
    return {
        "tokens_today": totals.tokens_in + totals.tokens_out + totals.tokens_estimated,
        "cost_today_usd": amounts(totals)["cost_usd"],
        "budget_left": dict(sources.budget_left(client.name)),
    }


def _usage_label(name: str) -> str:
    """The label under which a client's usage is recorded, if it has one of its own."""
    return name.encode(errors="replace").decode()
