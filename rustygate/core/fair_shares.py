"""The fair shares of clients by demand and weight: max-min fairness.

Each client gets what it wants, up to its share by weight. What some do not want is divided among
the others in the same way (Bertsekas and Gallager, Data Networks, 6.5.2). The priority classes
divide first, and inside each class its clients do.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from rustygate.core.fair_order import CLASSES, WEIGHTS

K = TypeVar("K", bound=Hashable)


class Want(NamedTuple):
    """How much a client wants, in any unit of cost, and its weight."""

    weight: float
    amount: float


def due_shares(wants: Sequence[Mapping[K, Want]], total: float) -> list[dict[K, float]]:
    """The share of each client of each class in a total.

    Args:
        wants: for each class, the wants by client.
    """
    demands = [
        Want(WEIGHTS[index], sum(want.amount for want in wants[index].values()))
        for index in CLASSES
    ]
    classes = divide(dict(enumerate(demands)), total)
    return [divide(wants[index], classes[index]) for index in CLASSES]


def divide(wants: Mapping[K, Want], total: float) -> dict[K, float]:
    """Divide a total by weight. If all together want less, the rest is not divided."""
    # Those who want least for their weight come first; what they leave goes to the rest.
    in_order = sorted(wants, key=lambda key: wants[key].amount / wants[key].weight)
    weights = sum(want.weight for want in wants.values())
    got = {}
    for key in in_order:
        weight, amount = wants[key]
        share = total * weight / weights if weights > 0 else total
        got[key] = min(amount, share)
        total -= got[key]
        weights -= weight
    return got
