"""Bounded time series: label values, counters and histograms.

Clients choose client and model names, so the number of names and of series has limits.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate

from rustygate.core.bucket import SECOND
from rustygate.telemetry.families import Family, Labels, histogram

# Names with a label of their own. A dashboard cannot show more.
CLIENT_LIMIT = 200
MODEL_LIMIT = 200

# Once a counter has this many series, new ones are counted under the client OTHER; once it has
# OVERFLOW_LIMIT more, under the model OTHER as well.
SERIES_LIMIT = 1000
OVERFLOW_LIMIT = 250

# Labels in place of a name: beyond the limit; absent from the request; unverified, because the
# request was refused early or upstream has never confirmed the model.
OTHER, NONE, UNKNOWN = "(other)", "(none)", "(unknown)"

# The lane label of the gate's own budgets.
OWN_LANE = ""

# From a cached response to that of a model that reasons for minutes.
BOUNDS_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0),
)


class BoundedLabels(dict[str, str]):
    """Maps names to labels.

    The first `limit` names are their own labels. Later ones map to OTHER, and so does a name
    whose label is already taken.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit
        self._taken = {OTHER, NONE, UNKNOWN, OWN_LANE}

    def __missing__(self, name: str) -> str:
        # JSON may contain a lone surrogate, which UTF-8 cannot encode.
        label = name.encode(errors="replace").decode()
        if len(self) >= self._limit or label in self._taken:
            return OTHER
        self._taken.add(label)
        self[name] = label
        return label

    def reserve(self, name: str) -> None:
        """Let a name be its own label, even beyond the limit."""
        label = name.encode(errors="replace").decode()
        if label not in self._taken:
            self._taken.add(label)
            self[name] = label


class Counter(dict[Labels, int]):
    """Counts by labels. In a counter with many series, client and model are the first two."""

    def add(self, labels: Labels, amount: int = 1) -> None:
        try:
            self[labels] += amount
        except KeyError:
            labels = self._bounded(labels)
            self[labels] = self.get(labels, 0) + amount

    def _bounded(self, labels: Labels) -> Labels:
        """The labels under which a new series is counted."""
        if len(self) < SERIES_LIMIT:
            return labels
        labels = (OTHER, *labels[1:])
        if labels in self or len(self) < SERIES_LIMIT + OVERFLOW_LIMIT:
            return labels
        return (OTHER, OTHER, *labels[2:])


class Histogram:
    """Durations in buckets with these upper bounds, in seconds."""

    def __init__(self, bounds_s: Sequence[float] = BOUNDS_S) -> None:
        self._bounds = [round(bound * SECOND) for bound in bounds_s]
        self._edges = [*map(str, bounds_s), "+Inf"]
        self._counts = [0] * len(self._edges)
        self._sum = 0

    def observe(self, duration: int) -> None:
        """Count a duration in nanoseconds."""
        self._counts[bisect_left(self._bounds, duration)] += 1
        self._sum += duration

    def family(self, name: str, text: str) -> Family:
        return histogram_family(name, text, (), {(): self})

    def samples(self) -> tuple[list[tuple[str, float]], float]:
        """The buckets with their upper bounds, and the sum in seconds."""
        buckets = zip(self._edges, accumulate(self._counts), strict=True)
        return [(edge, float(count)) for edge, count in buckets], self._sum / SECOND


def histogram_family(
    name: str, text: str, labels: Labels, histograms: Mapping[Labels, Histogram]
) -> Family:
    """A family of histograms, by the values of its labels."""
    samples = ((values, each.samples()) for values, each in histograms.items())
    return histogram(name, text, labels, samples)
