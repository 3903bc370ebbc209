"""The shares that are due to those who want something, by weights: max-min fairness.

Everyone gets what it wants, up to its share by weight. What some do not want is divided among the
others in the same way (Bertsekas and Gallager, Data Networks, 6.5.2). The priority classes divide
first, and inside each class its clients do.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from rustygate.core.fair_order import CLASSES, WEIGHTS

K = TypeVar("K", bound=Hashable)


class Want(NamedTuple):
    """How much somebody wants, in any unit of cost, and its weight."""

    weight: float
    amount: float


def due_shares(wants: Sequence[Mapping[K, Want]], total: float) -> list[dict[K, float]]:
    """What each client of each class is due when so much is divided.

    Args:
        wants: for each class, those who want something, by client.
    """
    demands = [
        Want(WEIGHTS[index], sum(want.amount for want in wants[index].values()))
        for index in CLASSES
    ]
    classes = divide(dict(enumerate(demands)), total)
    return [divide(wants[index], classes[index]) for index in CLASSES]


def divide(wants: Mapping[K, Want], total: float) -> dict[K, float]:
    """What each one gets of a total. If all together want less than that, the rest is left."""
    # Those who want the least for their weight are served first; what they leave is for the rest.
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
