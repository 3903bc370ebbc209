"""The metrics: what settled exchanges add up to, and the gate's state at the time of a scrape.

What is counted is held as plain numbers, and made into families of prometheus_client's when it is
scraped: its own counters and histograms cost an exchange five times as much, and add a series
`_created` to each. Gauges are not held at all; a scrape reads the gate. The families' text is
written here, for nothing else runs meanwhile: prometheus_client's checks each label of each sample
again, and takes six times as long to write the same.

Labels are bounded whatever clients send. A client's name may be its own to choose: the first
`CLIENTS` are told apart, of those that were not turned away at the door. A model has a name once
upstream has answered well for it.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import accumulate

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from rustygate.admission.gate import Gate
from rustygate.core.bucket import SECOND
from rustygate.errors import (
    BadRequest,
    InvalidApiKey,
    MethodNotAllowed,
    NotFound,
    OriginNotAllowed,
    reasons,
)
from rustygate.exchange import MS, Exchange

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

# Whoever is refused so early may have made up any name, somebody else's too.
_TURNED_AWAY = frozenset(
    refusal.reason
    for refusal in (BadRequest, InvalidApiKey, MethodNotAllowed, NotFound, OriginNotAllowed)
)

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


class Metrics(Collector):
    """Counts exchanges, and shows that and the gate as Prometheus text."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._clients = Names(CLIENTS)
        self._models = Names(MODELS)
        self._exchanges = _Tally()
        self._tokens = _Tally()
        self._retries = _Tally()
        # From 0, so that the first one is seen to be an increase.
        self._refusals = _Tally({(reason,): 0 for reason in sorted(reasons())})
        self._queue_wait = _Histogram()
        self._first_byte = _Histogram()
        self._whole = _Histogram()

    def text(self) -> bytes:
        """All metrics in Prometheus' text format, version 0.0.4."""
        return "".join(map(_written, self.collect())).encode()

    # Counting.

    def settle(self, exchange: Exchange) -> None:
        """Count an exchange that is over."""
        turned_away = exchange.reason in _TURNED_AWAY
        client = UNKNOWN if turned_away else self._clients[exchange.client]
        model = self._model(exchange.model)
        outcome = exchange.outcome or NONE
        self._exchanges.add((client, model, str(exchange.status or NONE), outcome))
        if exchange.tokens_in is not None:
            self._tokens.add((client, model, "input"), exchange.tokens_in)
        if exchange.tokens_out is not None:
            self._tokens.add((client, model, "output"), exchange.tokens_out)
        if exchange.reason is not None:
            self.refused(exchange.reason)
        self._time(exchange)

    def retried(self, reason: str) -> None:
        """Count another attempt."""
        self._retries.add((reason,))

    def refused(self, reason: str) -> None:
        """Count what the gate answered by itself."""
        self._refusals.add((reason,))

    def _time(self, exchange: Exchange) -> None:
        # Whoever was refused on arrival did not wait.
        if exchange.attempts or exchange.queued >= MS:
            self._queue_wait.observe(exchange.queued)
        if exchange.first_byte is not None:
            self._first_byte.observe(exchange.first_byte - exchange.arrived)
        if exchange.settled is not None:
            self._whole.observe(exchange.settled - exchange.arrived)

    def _model(self, model: str | None) -> str:
        if model is None:
            return NONE
        if model in self._models or self._gate.lanes.is_known(model):
            return self._models[model]
        return UNKNOWN

    # Showing.

    def collect(self) -> Iterator[Metric]:
        """All metrics, as prometheus_client asks for them."""
        yield from self._counts()
        yield from self._times()
        yield from self._state()

    def _counts(self) -> Iterator[Metric]:
        yield _counter(
            "rustygate_exchanges",
            "Exchanges that are over, in exchanges; status is what the client got.",
            ("client", "model", "status", "outcome"),
            self._exchanges,
        )
        yield _counter(
            "rustygate_tokens",
            "What answers took of their models, in the model's tokens; kind is input or output.",
            ("client", "model", "kind"),
            self._tokens,
        )
        yield _counter(
            "rustygate_retries",
            "Requests sent upstream again, in attempts; reason is what the one before came to.",
            ("reason",),
            self._retries,
        )
        yield _counter(
            "rustygate_refusals",
            "What the gate answered, or broke off, by itself, in requests; reason is the one in "
            "X-RustyGate-Error.",
            ("reason",),
            self._refusals,
        )

    def _times(self) -> Iterator[Metric]:
        yield self._queue_wait.family(
            "rustygate_queue_wait_seconds",
            "How long exchanges waited for admission, over all their attempts, in seconds; "
            "without those refused on arrival.",
        )
        yield self._first_byte.family(
            "rustygate_time_to_first_byte_seconds",
            "From a request's arrival until the first byte of upstream's answer was passed on, "
            "in seconds.",
        )
        yield self._whole.family(
            "rustygate_exchange_seconds",
            "From a request's arrival to the end of its exchange, however it ended, in seconds.",
        )

    def _state(self) -> Iterator[Metric]:
        state = self._gate.state()
        levels = [((OWN, level.budget), level) for level in state.budgets]
        for model, lane in state.lanes.items():
            label = self._model(model or None)
            # Many lanes have no level in common: those without a name of their own are left out.
            if label != OTHER:
                levels += [((label, level.budget), level) for level in lane]
        yield _gauge(
            "rustygate_waiters",
            "Exchanges that wait for admission, in exchanges; class is their priority.",
            ("class",),
            (((name,), count) for name, count in state.waiters.items()),
        )
        yield _gauge(
            "rustygate_in_flight",
            "Exchanges that were admitted and are not over, in exchanges.",
            (),
            [((), state.in_flight)],
        )
        yield _gauge(
            "rustygate_budget_units",
            "What a budget has left, in its units: requests, the model's tokens, or slots in "
            "flight; below 0 when overdrawn. A lane has its model's name, the gate itself none.",
            ("lane", "budget"),
            ((labels, level.units) for labels, level in levels),
        )
        yield _gauge(
            "rustygate_budget_units_limit",
            "What a budget holds when it is full, in the same units.",
            ("lane", "budget"),
            ((labels, level.limit) for labels, level in levels),
        )


class _Tally(dict[Labels, int]):
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


class _Histogram:
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


def _counter(name: str, text: str, labels: Labels, counted: Mapping[Labels, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for values, count in counted.items():
        family.add_metric(values, count)
    return family


def _gauge(name: str, text: str, labels: Labels, levels: Iterable[tuple[Labels, int]]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, level in levels:
        family.add_metric(values, level)
    return family


# The text format, version 0.0.4.

_ESCAPED_IN_HELP = str.maketrans({"\\": r"\\", "\n": r"\n"})
_ESCAPED = _ESCAPED_IN_HELP | str.maketrans({'"': r"\""})


def _written(family: Metric) -> str:
    name = f"{family.name}_total" if family.type == "counter" else family.name
    text = family.documentation.translate(_ESCAPED_IN_HELP)
    head = f"# HELP {name} {text}\n# TYPE {name} {family.type}\n"
    return head + "".join(map(_line, family.samples))


def _line(sample: Sample) -> str:
    if not sample.labels:
        return f"{sample.name} {sample.value}\n"
    labels = ",".join(
        [f'{key}="{_quoted(label)}"' for key, label in sorted(sample.labels.items())]
    )
    return f"{sample.name}{{{labels}}} {sample.value}\n"


@lru_cache(maxsize=1024)
def _quoted(label: str) -> str:
    return label.translate(_ESCAPED)
