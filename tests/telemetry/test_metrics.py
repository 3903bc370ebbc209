"""/metrics: correct numbers under the documented names, with bounded labels."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from time import process_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.registry import Collector

from rustygate.admission.gate import Gate
from rustygate.config import Settings
from rustygate.core.bucket import TokenBucket
from rustygate.errors import reasons
from rustygate.exchange import MS, Exchange
from rustygate.telemetry import series
from rustygate.telemetry.metrics import Metrics
from rustygate.telemetry.series import NONE, OTHER, UNKNOWN
from tests.conftest import StartGate
from tests.support.http import CLIENT_KEY, UPSTREAM_KEY, chat, get, post, response
from tests.support.metrics import TYPES, Scrape, metrics_of, scrape_request, settle
from tests.support.upstream import Upstream
from tests.support.waiting import until

USAGE = b'{"usage": {"prompt_tokens": 11, "completion_tokens": 7}}'
JSON = "Content-Type: application/json"


def chat_for(model: str, *lines: str) -> bytes:
    return post(json.dumps({"model": model}).encode(), *lines)


def exchange(client: str = "a", **stamps: Any) -> Exchange:
    """A settled exchange."""
    settled = Exchange(client, "POST", "/v1/x", status=200, outcome="ok", attempts=1)
    settled.settled = settled.arrived + 40 * MS
    return replace(settled, **stamps)


def library_text(metrics: Metrics) -> bytes:
    registry = CollectorRegistry()
    registry.register(_Collector(metrics))
    return generate_latest(registry)


class _Collector(Collector):
    """Metrics as the library has them."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        for family in self._metrics.collect():
            metric = Metric(family.name, family.text, family.type)
            for sample in family.samples:
                name = f"{family.name}{sample.suffix}"
                metric.add_sample(name, dict(sample.labels), sample.value)
            yield metric


@asynccontextmanager
async def metrics_of_gate(*known: str) -> AsyncIterator[Metrics]:
    """The metrics of a gate that knows these models."""
    gate = Gate(Settings(openai_api_key="sk-test"))
    for model in known:
        gate.lanes.get(model).budgets.known = True
    yield metrics_of(gate)


# The scrape.


async def test_metrics_have_the_documented_names_and_types(
    gate: StartGate, upstream: Upstream
) -> None:
    upstream.reply = response(USAGE, JSON)
    running = await gate()
    await running.request(chat())
    scrape = await Scrape.of(running)
    assert {family.name: family.type for family in scrape.families} == TYPES
    assert all(family.samples for family in scrape.families if family.name != "rustygate_retries")


@pytest.mark.parametrize("unit", ["in exchanges", "in seconds", "in requests", "in attempts"])
async def test_help_texts_name_units(unit: str) -> None:
    async with metrics_of_gate() as metrics:
        helps = re.findall(r"^# HELP (\w+) (.+)$", metrics.text().decode(), re.M)
    assert len(helps) == len(TYPES)
    assert unit in " ".join(text for _, text in helps)
    assert all(len(text) > 40 and text.endswith(".") for _, text in helps)


async def test_content_type_is_prometheus_text(gate: StartGate) -> None:
    received = await (await gate()).request(scrape_request())
    assert received.head["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


async def test_scrape_is_not_counted_as_an_exchange(gate: StartGate) -> None:
    running = await gate()
    await running.request(scrape_request())
    assert (await Scrape.of(running)).sum("rustygate_exchanges_total") == 0
    assert running.log.exchanges == []


# Counters and histograms.


async def test_exchange_and_its_tokens_are_counted(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = response(USAGE, JSON)
    running = await gate()
    for _ in range(3):
        await running.request(chat("X-RustyGate-Client: search"))
    await running.request(get())
    scrape = await Scrape.of(running)
    labels_of_client = {"client": "search", "model": "gpt-4o"}
    labels_of_result = {"status": "200", "outcome": "ok"}
    assert scrape.sum("rustygate_exchanges_total", **labels_of_client, **labels_of_result) == 3
    assert (
        scrape.sum("rustygate_exchanges_total", client="127.0.0.1", model=NONE, **labels_of_result)
        == 1
    )
    assert scrape.sum("rustygate_tokens_total", **labels_of_client, kind="input") == 33
    assert scrape.sum("rustygate_tokens_total", **labels_of_client, kind="output") == 21
    assert scrape.sum("rustygate_exchange_seconds_count") == 4
    assert scrape.sum("rustygate_time_to_first_byte_seconds_count") == 4
    assert scrape.sum("rustygate_queue_wait_seconds_bucket", le="0.001") == 4


async def test_refusals_are_counted_by_reason(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(CONCURRENCY_LIMIT=1, QUEUE_LIMIT=0)
    holder = await running.send(chat())
    call = await upstream.call()
    assert (await running.request(chat())).reason == "queue_full"
    assert (await running.request(get("/nothing"))).reason == "not_found"
    await call.respond(response())
    await holder.response()
    scrape = await Scrape.of(running)
    assert scrape.labels("rustygate_refusals_total", "reason") == reasons()
    assert scrape.sum("rustygate_refusals_total", reason="queue_full") == 1
    assert scrape.sum("rustygate_refusals_total") == 2
    assert scrape.sum("rustygate_exchanges_total", outcome="refused") == 2
    # Exchanges refused on arrival did not wait.
    assert scrape.sum("rustygate_queue_wait_seconds_count") == 1


async def test_retries_are_counted_by_reason(gate: StartGate, upstream: Upstream) -> None:
    running = await gate()
    client = await running.send(chat().replace(b"POST", b"PUT", 1))
    error = b'{"error": {"code": "rate_limit_exceeded"}}'
    slow = response(error, JSON, "retry-after-ms: 1", status="429 Too Many Requests")
    await (await upstream.call()).respond(slow)
    call = await upstream.call()
    await call.read_rest()
    call.reset()
    await (await upstream.call()).respond(response())
    assert (await client.response()).head["x-rustygate-attempts"] == "3"
    scrape = await Scrape.of(running)
    counted = {labels["reason"]: n for labels, n in scrape.samples("rustygate_retries_total")}
    assert counted == {"upstream_429": 1, "upstream_disconnected": 1}
    assert scrape.sum("rustygate_refusals_total") == 0


async def test_disconnected_client_has_no_status(gate: StartGate, upstream: Upstream) -> None:
    running = await gate()
    client = await running.send(chat())
    await upstream.call()
    client.disconnect()
    await running.settled()
    scrape = await Scrape.of(running)
    left = {"status": NONE, "outcome": "client_left", "model": UNKNOWN}
    assert scrape.sum("rustygate_exchanges_total", **left) == 1


@pytest.mark.parametrize(
    ("queued", "edge"),
    [(0, "0.001"), (MS, "0.001"), (MS + 1, "0.0025"), (600_000 * MS, "600.0"), (10**15, "+Inf")],
)
async def test_duration_is_counted_in_its_bucket(queued: int, edge: str) -> None:
    async with metrics_of_gate() as metrics:
        settle(metrics, exchange(queued=queued))
    scrape = Scrape(metrics.text())
    buckets = {
        labels["le"]: n
        for labels, n in scrape.samples("rustygate_queue_wait_seconds_bucket")
        if labels["class"] == "default"
    }
    assert next(le for le, n in buckets.items() if n) == edge
    assert buckets["+Inf"] == 1
    assert scrape.sum("rustygate_queue_wait_seconds_sum") == pytest.approx(queued / 10**9)


# Gauges.


async def test_gauges_show_waiters_and_slots(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(CONCURRENCY_LIMIT=1)
    holder = await running.send(chat())
    call = await upstream.call()
    classes = {"interactive": 1, "default": 2, "batch": 3}
    waiters = [
        await running.send(chat(f"X-RustyGate-Priority: {name}"))
        for name, count in classes.items()
        for _ in range(count)
    ]
    await running.wait_until(waiters=6)
    scrape = await Scrape.of(running)
    assert {v["class"]: n for v, n in scrape.samples("rustygate_waiters")} == classes
    assert scrape.sum("rustygate_in_flight") == 1
    assert scrape.sum("rustygate_budget_units", lane="", budget="slots") == 0
    assert scrape.sum("rustygate_budget_units_limit", lane="", budget="slots") == 1
    for waiter in waiters:
        waiter.disconnect()
    await call.respond(response())
    await holder.response()
    await running.wait_until(waiters=0, in_flight=0)
    scrape = await Scrape.of(running)
    assert scrape.sum("rustygate_waiters") == scrape.sum("rustygate_in_flight") == 0


async def test_budgets_have_levels_and_limits(gate: StartGate, upstream: Upstream) -> None:
    quota = ["x-ratelimit-limit-requests: 500", "x-ratelimit-remaining-requests: 400"]
    upstream.reply = response(USAGE, JSON, *quota)
    running = await gate(RATE_LIMIT="0.001", RATE_LIMIT_BURST=9, TOKENS_PER_MINUTE=600)
    await running.request(chat())
    scrape = await Scrape.of(running)
    limits = {
        (labels["lane"], labels["budget"]): value
        for labels, value in scrape.samples("rustygate_budget_units_limit")
    }
    assert limits == {("", "requests"): 9, ("", "tokens"): 600, ("gpt-4o", "requests"): 500}
    assert scrape.sum("rustygate_budget_units", lane="", budget="requests") == 8
    assert 400 <= scrape.sum("rustygate_budget_units", lane="gpt-4o") < 500


def flood(gate: Gate, metrics: Metrics) -> None:
    """Create every series that clients can cause: each client, each model, many outcomes."""
    models = [f"model-number-{number}" for number in range(series.MODEL_LIMIT)]
    for model in models:
        lane = gate.lanes.get(model).budgets
        lane.known, lane.requests, lane.tokens = True, TokenBucket(1, 5), TokenBucket(1, 5)
    for client in range(series.CLIENT_LIMIT):
        for model in models:
            settle(metrics, exchange(f"client-{client}", model=model, tokens_in=1, tokens_out=1))
    for model, status in product(models, range(400, 420)):
        settle(metrics, exchange("client-0", model=model, status=status))


@pytest.mark.alone
async def test_scrape_is_fast_with_ten_thousand_waiters_and_all_series() -> None:
    gate = Gate(Settings(openai_api_key="sk-test", concurrency_limit=1, rate_limit=1e9))
    metrics = metrics_of(gate)
    deadline = gate.now() + 10**12

    async def wait(number: int) -> None:
        async with gate.admission(Exchange(str(number % 3), "POST", "/v1/x", deadline)):
            await asyncio.Event().wait()

    flood(gate, metrics)
    waiters = [asyncio.create_task(wait(number)) for number in range(10_001)]
    await until(lambda: gate.snapshot()["waiters"] == 10_000)
    began = process_time()
    text = metrics.text()
    assert process_time() - began < 0.1
    scrape = Scrape(text)
    assert scrape.sum("rustygate_waiters", **{"class": "default"}) == 10_000
    assert len(list(scrape.samples("rustygate_exchanges_total"))) > series.SERIES_LIMIT
    for waiter in waiters:
        waiter.cancel()
    await asyncio.gather(*waiters, return_exceptions=True)
    gate.close()


# Labels.


async def test_invented_names_are_bounded(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = response(status="404 Not Found")
    running = await gate()
    client = await running.connect()
    for number in range(series.CLIENT_LIMIT + 20):
        await client.request(chat_for(f"invented-{number}", f"X-RustyGate-Client: c{number}"))
    scrape = await Scrape.of(running)
    clients = scrape.labels("rustygate_exchanges_total", "client")
    assert clients == {f"c{number}" for number in range(series.CLIENT_LIMIT)} | {OTHER}
    assert scrape.labels("rustygate_exchanges_total", "model") == {UNKNOWN}
    assert scrape.sum("rustygate_exchanges_total", client=OTHER) == 20


async def test_refused_clients_have_no_label_of_their_own(gate: StartGate, tmp_path: Path) -> None:
    clients = tmp_path / "clients.toml"
    clients.write_text(f'[client.search]\nkey_sha256 = "{"0" * 64}"\n')
    running = await gate(CLIENTS_FILE=clients)
    for name in ("search", "invented"):
        line = f"X-RustyGate-Client: {name}"
        for wrong in (chat(line), get("/nothing", line), get("/v1/../x", line)):
            await running.request(wrong)
    scrape = await Scrape.of(running)
    # The configured client has only counters at 0.
    assert scrape.labels("rustygate_exchanges_total", "client") == {UNKNOWN, "search"}
    assert scrape.sum("rustygate_exchanges_total", client="search") == 0
    assert scrape.sum("rustygate_refusals_total", reason="invalid_api_key") == 2


async def test_models_are_bounded() -> None:
    models = [f"m{number}" for number in range(series.MODEL_LIMIT + 20)]
    async with metrics_of_gate(*models) as metrics:
        for lane in metrics._gate.lanes:
            lane.budgets.requests = TokenBucket(1, 5)
        for model in models:
            settle(metrics, exchange(model=model))
        scrape = Scrape(metrics.text())
    named = set(models[: series.MODEL_LIMIT])
    assert scrape.labels("rustygate_exchanges_total", "model") == named | {OTHER}
    assert scrape.labels("rustygate_budget_units", "lane") == named | {""}


async def test_series_are_bounded() -> None:
    async with metrics_of_gate(
        *(f"model-number-{number}" for number in range(series.MODEL_LIMIT))
    ) as metrics:
        flood(metrics._gate, metrics)
    scrape = Scrape(metrics.text())
    for name, rest in (("rustygate_exchanges_total", 21), ("rustygate_tokens_total", 2)):
        count = len(list(scrape.samples(name)))
        assert series.SERIES_LIMIT < count <= series.SERIES_LIMIT + series.OVERFLOW_LIMIT + rest
    chat_for = series.CLIENT_LIMIT * series.MODEL_LIMIT
    assert scrape.sum("rustygate_exchanges_total") == chat_for + 20 * series.MODEL_LIMIT
    assert scrape.sum("rustygate_tokens_total") == 2 * chat_for


@given(names=st.lists(st.text(st.characters(exclude_categories=[])), max_size=8))
def test_any_name_can_be_rendered_and_each_series_once(names: list[str]) -> None:
    async def show() -> None:
        async with metrics_of_gate(*names) as metrics:
            for name in names:
                settle(metrics, exchange(name, model=name or None))
            for lane in metrics._gate.lanes:
                lane.budgets.requests = TokenBucket(1, 5)
        scrape = Scrape(metrics.text())
        assert scrape.families == Scrape(library_text(metrics)).families
        for family in ("rustygate_exchanges_total", "rustygate_budget_units"):
            series = [tuple(labels.values()) for labels, _ in scrape.samples(family)]
            assert len(series) == len(set(series))
        assert scrape.sum("rustygate_exchanges_total") == len(names)

    asyncio.run(show())


@pytest.mark.parametrize(
    "name", ["\ud800", "?", OTHER, NONE, UNKNOWN, 'a"b\\c\nd', "\r\x85\u2028"]
)
async def test_model_with_an_unusual_name_can_be_rendered(
    gate: StartGate, upstream: Upstream, name: str
) -> None:
    upstream.reply = response(
        b"{}", "x-ratelimit-limit-requests: 500", "x-ratelimit-remaining-requests: 400"
    )
    running = await gate()
    for model in (name, "plain"):
        assert (await running.request(chat_for(model))).status == 200
    scrape = await Scrape.of(running)
    assert "plain" in scrape.labels("rustygate_budget_units", "lane")
    assert scrape.sum("rustygate_exchanges_total", outcome="ok") == 2


async def test_metrics_contain_no_key(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = response(USAGE, JSON)
    running = await gate(ADMIN_KEY="admin-canary")
    await running.request(chat())
    await running.request(get("/nothing"))
    received = await running.request(scrape_request("Authorization: Bearer admin-canary"))
    for secret in (CLIENT_KEY, UPSTREAM_KEY, "admin-canary"):
        assert secret.encode() not in received.body
        assert secret not in running.log.text
