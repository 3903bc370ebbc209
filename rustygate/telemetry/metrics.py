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

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from rustygate.admission.gate import Gate
from rustygate.errors import (
    BadRequest,
    InvalidApiKey,
    MethodNotAllowed,
    NotFound,
    OriginNotAllowed,
    reasons,
)
from rustygate.exchange import MS, Exchange
from rustygate.telemetry.prometheus_text import written
from rustygate.telemetry.series import (
    CLIENTS,
    MODELS,
    NONE,
    OTHER,
    OWN,
    UNKNOWN,
    Histogram,
    Labels,
    Names,
    Tally,
)

# Whoever is refused so early may have made up any name, somebody else's too.
_TURNED_AWAY = frozenset(
    refusal.reason
    for refusal in (BadRequest, InvalidApiKey, MethodNotAllowed, NotFound, OriginNotAllowed)
)


class Metrics(Collector):
    """Counts exchanges, and shows that and the gate as Prometheus text."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._clients = Names(CLIENTS)
        self._models = Names(MODELS)
        self._exchanges = Tally()
        self._tokens = Tally()
        self._retries = Tally()
        # From 0, so that the first one is seen to be an increase.
        self._refusals = Tally({(reason,): 0 for reason in sorted(reasons())})
        self._queue_wait = Histogram()
        self._first_byte = Histogram()
        self._whole = Histogram()

    def text(self) -> bytes:
        """All metrics in Prometheus' text format, version 0.0.4."""
        return "".join(map(written, self.collect())).encode()

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
