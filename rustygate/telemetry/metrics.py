"""Prometheus metrics: counts of settled exchanges, and the gate's state at each scrape.

Counts are plain numbers that become families at a scrape. The counters and histograms of
prometheus_client cost an exchange five times as much and add a `_created` series each. Gauges are
not stored; a scrape reads the gate. The text is rendered by `prometheus_text`, because a scrape
blocks the event loop and prometheus_client takes six times as long: it validates every label of
every sample again.

The number of labels is bounded: see `labels`.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from rustygate.admission.client_budgets import Spending
from rustygate.admission.gate import Gate
from rustygate.core.bucket import SECOND
from rustygate.core.fair_order import CLASS_WEIGHTS
from rustygate.core.verdict import Action
from rustygate.errors import reasons
from rustygate.exchange import MS, Exchange
from rustygate.telemetry.budget_metrics import BudgetMetrics
from rustygate.telemetry.families import Family, counter, gauge
from rustygate.telemetry.labels import ExchangeLabels
from rustygate.telemetry.prometheus_text import render_family
from rustygate.telemetry.series import (
    NONE,
    OTHER,
    OWN_LANE,
    SERIES_LIMIT,
    Counter,
    Histogram,
    histogram_family,
)
from rustygate.telemetry.worker_metrics import WorkerMetrics, Workers, one_process

if TYPE_CHECKING:
    from rustygate.admission.group.member import Member
    from rustygate.telemetry.group_metrics import GroupMetrics

# How an exchange usually ends, as status and outcome.
_LIKELY_RESULTS = (("200", "ok"), ("429", "refused"))

# No further series start at 0 once there are this many: the others are for what did happen.
ANNOUNCED_LIMIT = SERIES_LIMIT // 2

# The kinds of `Exchange.token_counts`, as upstream reports them and as the gate estimates them.
_KINDS = ("input", "cached", "output", "reasoning")
_ESTIMATED_KINDS = ("input_estimated", "cached", "output_estimated", "reasoning")


class Metrics:
    """Counts exchanges and renders the counts and the gate's state as Prometheus text.

    Attributes:
        labels: of clients and models.
    """

    def __init__(
        self,
        gate: Gate,
        labels: ExchangeLabels,
        spending: Spending | None = None,
        workers: Workers = one_process,
    ) -> None:
        self._gate = gate
        self.labels = labels
        self._exchanges = Counter()
        self._tokens = Counter()
        self._retries = Counter()
        # Starts at 0, so that Prometheus sees the first refusal as an increase.
        self._refusals = Counter({(reason,): 0 for reason in sorted(reasons())})
        self._upstream_429s = Counter()
        # In nanoseconds.
        self._client_queues = Counter()
        self._configured_clients: tuple[str, ...] = ()
        self._queue_waits = {name: Histogram() for name in CLASS_WEIGHTS}
        self._first_byte = Histogram()
        self._duration = Histogram()
        self._group = None if gate.member is None else _group_metrics(gate.member)
        self._budgets = None if spending is None else BudgetMetrics(spending)
        self._workers = WorkerMetrics(workers)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format, version 0.0.4."""
        return "".join(map(render_family, self.collect())).encode()

    def announce_clients(self, names: Iterable[str]) -> None:
        """Let the counters of configured clients start at 0, so that Prometheus sees their first
        requests as an increase."""
        self._configured_clients = tuple(names)

    # Counting.

    def settle(self, exchange: Exchange, client: str, model: str) -> None:
        """Count a settled exchange under the labels of its client and model."""
        outcome = exchange.outcome or NONE
        self._exchanges.add((client, model, str(exchange.status or NONE), outcome))
        self._client_queues.add((client,), exchange.queued)
        self._count_tokens(client, model, exchange)
        if exchange.reason is not None:
            self.count_refusal(exchange.reason)
        self._observe_times(exchange)

    def _count_tokens(self, client: str, model: str, exchange: Exchange) -> None:
        kinds = _ESTIMATED_KINDS if exchange.tokens_estimated else _KINDS
        for kind, tokens in zip(kinds, exchange.token_counts, strict=True):
            if tokens is not None:
                self._tokens.add((client, model, kind), tokens)

    def count_retry(self, reason: str) -> None:
        """Count another attempt."""
        self._retries.add((reason,))

    def count_upstream_429(self, lane: str | None, verdict: Action) -> None:
        """Count a 429 from upstream, by what it means."""
        self._upstream_429s.add((self.labels.model(lane), verdict.name.lower()))

    def count_refusal(self, reason: str) -> None:
        """Count a request that the gate refused or aborted."""
        self._refusals.add((reason,))

    def _observe_times(self, exchange: Exchange) -> None:
        # Exchanges refused on arrival did not wait.
        if exchange.attempts or exchange.queued >= MS:
            self._queue_waits[exchange.priority].observe(exchange.queued)
        if exchange.first_byte is not None:
            self._first_byte.observe(exchange.first_byte - exchange.arrived)
        if exchange.settled is not None:
            self._duration.observe(exchange.settled - exchange.arrived)

    # For the live page.

    @property
    def refusals(self) -> dict[str, int]:
        """Refusals by reason, those that happened."""
        return {reason: count for (reason,), count in self._refusals.items() if count}

    @property
    def retries(self) -> dict[str, int]:
        """Retries by reason."""
        return {reason: count for (reason,), count in self._retries.items()}

    @property
    def verdicts(self) -> dict[str, int]:
        """429s from upstream by verdict, over all lanes."""
        counts = dict.fromkeys((action.name.lower() for action in Action), 0)
        for (_, verdict), count in self._upstream_429s.items():
            counts[verdict] += count
        return counts

    @property
    def upstream_429s(self) -> int:
        """All 429s from upstream."""
        return sum(self._upstream_429s.values())

    # Scrapes.

    def collect(self) -> Iterator[Family]:
        """All metric families."""
        self._start_at_zero()
        yield from self._counters()
        yield from self._histograms()
        yield from self._gauges()
        if self._group is not None:
            yield from self._group.families()
        if self._budgets is not None:
            yield from self._budgets.families()
        yield from self._workers.families()

    def _start_at_zero(self) -> None:
        """Add the series of configured clients and known models that are likely to increase."""
        models = tuple(self.labels.models)
        for label in models:
            for verdict in Action:
                self._upstream_429s.setdefault((label, verdict.name.lower()), 0)
        for name in self._configured_clients:
            client = self.labels.client(name)
            self._client_queues.setdefault((client,), 0)
            for model in (NONE, *models):
                if len(self._exchanges) >= ANNOUNCED_LIMIT:
                    return
                for status, outcome in _LIKELY_RESULTS:
                    self._exchanges.setdefault((client, model, status, outcome), 0)

    def _counters(self) -> Iterator[Family]:
        yield counter(
            "rustygate_exchanges",
            "Settled exchanges, in exchanges; status is the status sent to the client.",
            ("client", "model", "status", "outcome"),
            self._exchanges.items(),
        )
        yield counter(
            "rustygate_tokens",
            "Tokens used by settled exchanges, in the model's tokens; kind is input, cached (part "
            "of input), output or reasoning (part of output), or input_estimated or "
            "output_estimated without a usage.",
            ("client", "model", "kind"),
            self._tokens.items(),
        )
        yield counter(
            "rustygate_retries",
            "Requests sent upstream again, in attempts; reason is why the previous one failed.",
            ("reason",),
            self._retries.items(),
        )
        yield counter(
            "rustygate_refusals",
            "Requests that the gate refused or aborted, in requests; reason is the value of "
            "X-RustyGate-Error.",
            ("reason",),
            self._refusals.items(),
        )
        yield counter(
            "rustygate_client_queue_seconds",
            "Time that a client's exchanges waited for admission, in seconds.",
            ("client",),
            ((labels, waited / SECOND) for labels, waited in self._client_queues.items()),
        )
        yield counter(
            "rustygate_upstream_429",
            "Responses with status 429 from upstream, in responses; verdict is what the gate "
            "does: pause its lane, slow its lane down as well, or pass it on.",
            ("lane", "verdict"),
            self._upstream_429s.items(),
        )

    def _histograms(self) -> Iterator[Family]:
        yield histogram_family(
            "rustygate_queue_wait_seconds",
            "Time exchanges waited for admission, over all attempts, in seconds; class is the "
            "priority class; exchanges refused on arrival are not included.",
            ("class",),
            {(name,): histogram for name, histogram in self._queue_waits.items()},
        )
        yield self._first_byte.family(
            "rustygate_time_to_first_byte_seconds",
            "Time from a request's arrival until the first byte of upstream's response was "
            "forwarded, in seconds.",
        )
        yield self._duration.family(
            "rustygate_exchange_seconds",
            "Time from a request's arrival to the end of its exchange, whatever the outcome, in "
            "seconds.",
        )

    def _gauges(self) -> Iterator[Family]:
        state = self._gate.state()
        levels = [((OWN_LANE, level.budget), level) for level in state.budgets]
        for model, lane in state.lanes.items():
            label = self.labels.model(model or None)
            # Lanes beyond the label limit are left out: their levels cannot be added up.
            if label != OTHER:
                levels += [((label, level.budget), level) for level in lane]
        yield gauge(
            "rustygate_waiters",
            "Exchanges waiting for admission, in exchanges; class is the priority class.",
            ("class",),
            (((name,), count) for name, count in state.waiters.items()),
        )
        yield gauge(
            "rustygate_in_flight",
            "Exchanges that were admitted and have not ended, in exchanges.",
            (),
            [((), state.in_flight)],
        )
        yield gauge(
            "rustygate_budget_units",
            "Units left in a budget: requests, the model's tokens, or slots in flight; negative "
            "when overdrawn. lane is the model or endpoint, or empty for the gate's own budgets.",
            ("lane", "budget"),
            ((labels, level.units) for labels, level in levels),
        )
        yield gauge(
            "rustygate_budget_units_limit",
            "Capacity of a budget, in the units of rustygate_budget_units.",
            ("lane", "budget"),
            ((labels, level.limit) for labels, level in levels),
        )


def _group_metrics(member: "Member") -> "GroupMetrics":
    # Not imported by a single gate, to save memory.
    from rustygate.telemetry.group_metrics import GroupMetrics

    return GroupMetrics(member)
