"""Series that stay bounded: label values, counters and histograms."""

from bisect import bisect_left
from itertools import accumulate

from prometheus_client.metrics_core import HistogramMetricFamily, Metric

from rustygate.core.bucket import SECOND

Labels = tuple[str, ...]

# How many names are told apart; more are no help on a dashboard.
CLIENTS = 200
MODELS = 200

# Series of a counter, after which a client that would add one counts as another; and how many more
# there may be for those, before a model does too.
SERIES = 1000
SERIES_OF_OTHERS = 250

# What stands in place of a name: there are too many; the request had none; nobody vouches for it,
# since it was turned away, or upstream never answered well for it.
OTHER, NONE, UNKNOWN = "(other)", "(none)", "(unknown)"

# The lane of the budgets that are the gate's own.
OWN = ""

# From an answer out of a cache to that of a model that thinks for minutes.
BOUNDS_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0),
)
_BOUNDS = [round(bound * SECOND) for bound in BOUNDS_S]
_EDGES = [*map(str, BOUNDS_S), "+Inf"]


class Names(dict[str, str]):
    """The label of each name: itself for the first `limit`, `OTHER` for more and for one that
    looks like another."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit
        self._taken = {OTHER, NONE, UNKNOWN, OWN}

    def __missing__(self, name: str) -> str:
        # A lone surrogate, which JSON may hold, cannot be encoded.
        label = name.encode(errors="replace").decode()
        if len(self) >= self._limit or label in self._taken:
            return OTHER
        self._taken.add(label)
        self[name] = label
        return label


class Tally(dict[Labels, int]):
    """A counter: numbers by labels, of which the first two are a client's and a model's where
    there are many."""

    def add(self, labels: Labels, amount: int = 1) -> None:
        count = self.get(labels)
        if count is None:
            labels = self._bounded(labels)
            count = self.get(labels, 0)
        self[labels] = count + amount

    def _bounded(self, labels: Labels) -> Labels:
        """What a series is counted under that is not there yet."""
        if len(self) < SERIES:
            return labels
        labels = (OTHER, *labels[1:])
        if labels in self or len(self) < SERIES + SERIES_OF_OTHERS:
            return labels
        return (OTHER, OTHER, *labels[2:])


class Histogram:
    """Durations, counted by `BOUNDS_S`."""

    def __init__(self) -> None:
        self._counts = [0] * len(_EDGES)
        self._sum = 0

    def observe(self, duration: int) -> None:
        """Count a duration, in nanoseconds."""
        self._counts[bisect_left(_BOUNDS, duration)] += 1
        self._sum += duration

    def family(self, name: str, text: str) -> Metric:
        buckets = list(zip(_EDGES, accumulate(self._counts), strict=True))
        return HistogramMetricFamily(name, text, buckets, self._sum / SECOND)
