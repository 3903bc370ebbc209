"""What /metrics shows: true numbers, under the contract's names, with bounded labels."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

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
from tests.support.metrics import TYPES, Scrape, scrape_request
from tests.support.upstream import Upstream
from tests.support.waiting import until

USAGE = b'{"usage": {"prompt_tokens": 11, "completion_tokens": 7}}'
JSON = "Content-Type: application/json"


def asked(model: str, *lines: str) -> bytes:
    return post(json.dumps({"model": model}).encode(), *lines)


def exchange(client: str = "a", **stamps: Any) -> Exchange:
    """One that is over."""
    made = Exchange(client, "POST", "/v1/x", status=200, outcome="ok", attempts=1)
    made.settled = made.arrived + 40 * MS
    return replace(made, **stamps)


def written_by_the_library(counts: Metrics) -> bytes:
    registry = CollectorRegistry()
    registry.register(counts)
    return generate_latest(registry)


@asynccontextmanager
async def counting(*known: str) -> AsyncIterator[Metrics]:
    """Metrics of a gate that knows these models."""
    gate = Gate(Settings(openai_api_key="sk-test"))
    for model in known:
        gate.lanes.queue(model).lane.known = True
    yield Metrics(gate)


# What is shown.


async def test_metrics_are_the_contracts(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = response(USAGE, JSON)
    running = await gate()
    await running.request(chat())
    shown = await Scrape.of(running)
    assert {family.name: family.type for family in shown.families} == TYPES
    assert all(family.samples for family in shown.families if family.name != "rustygate_retries")


@pytest.mark.parametrize("unit", ["in exchanges", "in seconds", "in requests", "in attempts"])
async def test_help_tells_units(unit: str) -> None:
    async with counting() as counts:
        helps = re.findall(r"^# HELP (\w+) (.+)$", counts.text().decode(), re.M)
    assert len(helps) == len(TYPES)
    assert unit in " ".join(text for _, text in helps)
    assert all(len(text) > 40 and text.endswith(".") for _, text in helps)


async def test_text_says_what_it_is(gate: StartGate) -> None:
    got = await (await gate()).request(scrape_request())
    assert got.head["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


async def test_scrape_is_no_exchange(gate: StartGate) -> None:
    running = await gate()
    await running.request(scrape_request())
    assert (await Scrape.of(running)).sum("rustygate_exchanges_total") == 0
    assert running.log.exchanges == []


# What is counted.


async def test_exchange_and_its_tokens_are_counted(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = response(USAGE, JSON)
    running = await gate()
    for _ in range(3):
        await running.request(chat("X-RustyGate-Client: search"))
    await running.request(get())
    shown = await Scrape.of(running)
    who = {"client": "search", "model": "gpt-4o"}
    ended = {"status": "200", "outcome": "ok"}
    assert shown.sum("rustygate_exchanges_total", **who, **ended) == 3
    assert shown.sum("rustygate_exchanges_total", client="127.0.0.1", model=NONE, **ended) == 1
    assert shown.sum("rustygate_tokens_total", **who, kind="input") == 33
    assert shown.sum("rustygate_tokens_total", **who, kind="output") == 21
    assert shown.sum("rustygate_exchange_seconds_count") == 4
    assert shown.sum("rustygate_time_to_first_byte_seconds_count") == 4
    assert shown.sum("rustygate_queue_wait_seconds_bucket", le="0.001") == 4


async def test_refusals_are_counted_by_their_reasons(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(CONCURRENCY_LIMIT=1, QUEUE_LIMIT=0)
    holder = await running.send(chat())
    call = await upstream.call()
    assert (await running.request(chat())).reason == "queue_full"
    assert (await running.request(get("/nothing"))).reason == "not_found"
    await call.respond(response())
    await holder.response()
    shown = await Scrape.of(running)
    assert shown.labels("rustygate_refusals_total", "reason") == reasons()
    assert shown.sum("rustygate_refusals_total", reason="queue_full") == 1
    assert shown.sum("rustygate_refusals_total") == 2
    assert shown.sum("rustygate_exchanges_total", outcome="refused") == 2
    # Who was refused on arrival did not wait.
    assert shown.sum("rustygate_queue_wait_seconds_count") == 1


async def test_retries_are_counted_by_what_came_before(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate()
    client = await running.send(chat().replace(b"POST", b"PUT", 1))
    error = b'{"error": {"code": "rate_limit_exceeded"}}'
    slow = response(error, JSON, "retry-after-ms: 1", status="429 Too Many Requests")
    await (await upstream.call()).respond(slow)
    # The connection was used before, so that its reset alone is no failed attempt.
    for _ in range(2):
        call = await upstream.call()
        await call.read_rest()
        call.reset()
    await (await upstream.call()).respond(response())
    assert (await client.response()).head["x-rustygate-attempts"] == "3"
    shown = await Scrape.of(running)
    counted = {labels["reason"]: n for labels, n in shown.samples("rustygate_retries_total")}
    assert counted == {"upstream_429": 1, "upstream_disconnected": 1}
    assert shown.sum("rustygate_refusals_total") == 0


async def test_client_that_left_has_no_status(gate: StartGate, upstream: Upstream) -> None:
    running = await gate()
    client = await running.send(chat())
    await upstream.call()
    client.disconnect()
    await running.settled()
    shown = await Scrape.of(running)
    left = {"status": NONE, "outcome": "client_left", "model": UNKNOWN}
    assert shown.sum("rustygate_exchanges_total", **left) == 1


@pytest.mark.parametrize(
    ("queued", "edge"),
    [(0, "0.001"), (MS, "0.001"), (MS + 1, "0.0025"), (600_000 * MS, "600.0"), (10**15, "+Inf")],
)
async def test_duration_is_in_the_buckets_at_and_above_it(queued: int, edge: str) -> None:
    async with counting() as counts:
        counts.settle(exchange(queued=queued))
    shown = Scrape(counts.text())
    buckets = {
        labels["le"]: n for labels, n in shown.samples("rustygate_queue_wait_seconds_bucket")
    }
    assert next(le for le, n in buckets.items() if n) == edge
    assert buckets["+Inf"] == 1
    assert shown.sum("rustygate_queue_wait_seconds_sum") == pytest.approx(queued / 10**9)


# What the gate is like.


async def test_gauges_are_true_while_some_wait(gate: StartGate, upstream: Upstream) -> None:
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
    shown = await Scrape.of(running)
    assert {v["class"]: n for v, n in shown.samples("rustygate_waiters")} == classes
    assert shown.sum("rustygate_in_flight") == 1
    assert shown.sum("rustygate_budget_units", lane="", budget="slots") == 0
    assert shown.sum("rustygate_budget_units_limit", lane="", budget="slots") == 1
    for waiter in waiters:
        waiter.disconnect()
    await call.respond(response())
    await holder.response()
    await running.wait_until(waiters=0, in_flight=0)
    shown = await Scrape.of(running)
    assert shown.sum("rustygate_waiters") == shown.sum("rustygate_in_flight") == 0


async def test_budgets_are_shown_with_their_limits(gate: StartGate, upstream: Upstream) -> None:
    quota = ["x-ratelimit-limit-requests: 500", "x-ratelimit-remaining-requests: 400"]
    upstream.reply = response(USAGE, JSON, *quota)
    running = await gate(RATE_LIMIT="0.001", RATE_LIMIT_BURST=9, TOKENS_PER_MINUTE=600)
    await running.request(chat())
    shown = await Scrape.of(running)
    limits = {
        (labels["lane"], labels["budget"]): value
        for labels, value in shown.samples("rustygate_budget_units_limit")
    }
    assert limits == {("", "requests"): 9, ("", "tokens"): 600, ("gpt-4o", "requests"): 500}
    assert shown.sum("rustygate_budget_units", lane="", budget="requests") == 8
    assert 400 <= shown.sum("rustygate_budget_units", lane="gpt-4o") < 500


def flood(gate: Gate, counts: Metrics) -> None:
    """All the series that clients can bring about: each asks each model, with any outcome."""
    models = [f"model-number-{number}" for number in range(series.MODEL_LIMIT)]
    for model in models:
        lane = gate.lanes.queue(model).lane
        lane.known, lane.requests, lane.tokens = True, TokenBucket(1, 5), TokenBucket(1, 5)
    for client in range(series.CLIENT_LIMIT):
        for model in models:
            counts.settle(exchange(f"client-{client}", model=model, tokens_in=1, tokens_out=1))
    for model, status in product(models, range(400, 420)):
        counts.settle(exchange("client-0", model=model, status=status))


async def test_scrape_is_quick_while_ten_thousand_wait_and_after_a_flood_of_names() -> None:
    gate = Gate(Settings(openai_api_key="sk-test", concurrency_limit=1, rate_limit=1e9))
    gate.start()
    counts = Metrics(gate)
    deadline = gate.now() + 10**12

    async def wait(number: int) -> None:
        async with gate.admission(Exchange(str(number % 3), "POST", "/v1/x", deadline)):
            await asyncio.Event().wait()

    flood(gate, counts)
    waiters = [asyncio.create_task(wait(number)) for number in range(10_001)]
    await until(lambda: gate.snapshot()["waiters"] == 10_000)
    began = perf_counter()
    text = counts.text()
    assert perf_counter() - began < 0.1
    shown = Scrape(text)
    assert shown.sum("rustygate_waiters", **{"class": "default"}) == 10_000
    assert len(list(shown.samples("rustygate_exchanges_total"))) > series.SERIES_LIMIT
    for waiter in waiters:
        waiter.cancel()
    await asyncio.gather(*waiters, return_exceptions=True)
    gate.close()


# What labels may be.


async def test_names_that_clients_make_up_are_bounded(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = response(status="404 Not Found")
    running = await gate()
    client = await running.connect()
    for number in range(series.CLIENT_LIMIT + 20):
        await client.request(asked(f"made-up-{number}", f"X-RustyGate-Client: c{number}"))
    shown = await Scrape.of(running)
    clients = shown.labels("rustygate_exchanges_total", "client")
    assert clients == {f"c{number}" for number in range(series.CLIENT_LIMIT)} | {OTHER}
    assert shown.labels("rustygate_exchanges_total", "model") == {UNKNOWN}
    assert shown.sum("rustygate_exchanges_total", client=OTHER) == 20


async def test_names_of_who_is_turned_away_are_nobodys(gate: StartGate, tmp_path: Path) -> None:
    clients = tmp_path / "clients.toml"
    clients.write_text(f'[client.search]\nkey_sha256 = "{"0" * 64}"\n')
    running = await gate(CLIENTS_FILE=clients)
    for name in ("search", "made-up"):
        line = f"X-RustyGate-Client: {name}"
        for wrong in (chat(line), get("/nothing", line), get("/v1/../x", line)):
            await running.request(wrong)
    shown = await Scrape.of(running)
    assert shown.labels("rustygate_exchanges_total", "client") == {UNKNOWN}
    assert shown.sum("rustygate_refusals_total", reason="invalid_api_key") == 2


async def test_models_are_bounded() -> None:
    models = [f"m{number}" for number in range(series.MODEL_LIMIT + 20)]
    async with counting(*models) as counts:
        for line in counts._gate.lanes:
            line.lane.requests = TokenBucket(1, 5)
        for model in models:
            counts.settle(exchange(model=model))
        shown = Scrape(counts.text())
    named = set(models[: series.MODEL_LIMIT])
    assert shown.labels("rustygate_exchanges_total", "model") == named | {OTHER}
    assert shown.labels("rustygate_budget_units", "lane") == named | {""}


async def test_series_are_bounded() -> None:
    async with counting(
        *(f"model-number-{number}" for number in range(series.MODEL_LIMIT))
    ) as counts:
        flood(counts._gate, counts)
    shown = Scrape(counts.text())
    for name, rest in (("rustygate_exchanges_total", 21), ("rustygate_tokens_total", 2)):
        count = len(list(shown.samples(name)))
        assert series.SERIES_LIMIT < count <= series.SERIES_LIMIT + series.OVERFLOW_LIMIT + rest
    asked = series.CLIENT_LIMIT * series.MODEL_LIMIT
    assert shown.sum("rustygate_exchanges_total") == asked + 20 * series.MODEL_LIMIT
    assert shown.sum("rustygate_tokens_total") == 2 * asked


@given(names=st.lists(st.text(st.characters(exclude_categories=[])), max_size=8))
def test_any_name_can_be_shown_and_each_series_once(names: list[str]) -> None:
    async def show() -> None:
        async with counting(*names) as counts:
            for name in names:
                counts.settle(exchange(name, model=name or None))
            for line in counts._gate.lanes:
                line.lane.requests = TokenBucket(1, 5)
        shown = Scrape(counts.text())
        assert shown.families == Scrape(written_by_the_library(counts)).families
        for family in ("rustygate_exchanges_total", "rustygate_budget_units"):
            series = [tuple(labels.values()) for labels, _ in shown.samples(family)]
            assert len(series) == len(set(series))
        assert shown.sum("rustygate_exchanges_total") == len(names)

    asyncio.run(show())


@pytest.mark.parametrize(
    "name", ["\ud800", "?", OTHER, NONE, UNKNOWN, 'a"b\\c\nd', "\r\x85\u2028"]
)
async def test_model_with_an_odd_name_can_be_shown(
    gate: StartGate, upstream: Upstream, name: str
) -> None:
    upstream.reply = response(
        b"{}", "x-ratelimit-limit-requests: 500", "x-ratelimit-remaining-requests: 400"
    )
    running = await gate()
    for model in (name, "plain"):
        assert (await running.request(asked(model))).status == 200
    shown = await Scrape.of(running)
    assert "plain" in shown.labels("rustygate_budget_units", "lane")
    assert shown.sum("rustygate_exchanges_total", outcome="ok") == 2


async def test_no_key_is_shown(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = response(USAGE, JSON)
    running = await gate(ADMIN_KEY="admin-canary")
    await running.request(chat())
    await running.request(get("/nothing"))
    got = await running.request(scrape_request("Authorization: Bearer admin-canary"))
    for secret in (CLIENT_KEY, UPSTREAM_KEY, "admin-canary"):
        assert secret.encode() not in got.body
        assert secret not in running.log.text
