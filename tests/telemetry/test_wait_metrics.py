"""Metrics about waiting: who waits how long, upstream's 429s, and counters that start at 0."""

from pathlib import Path

import pytest

from rustygate.core.bucket import SECOND
from rustygate.core.fair_order import CLASS_WEIGHTS
from rustygate.core.verdict import Action
from rustygate.exchange import MS, Exchange
from rustygate.telemetry import metrics as module
from rustygate.telemetry.series import NONE, UNKNOWN
from tests.conftest import StartGate
from tests.support.http import chat, response
from tests.support.metrics import Scrape, settle
from tests.support.rate_limits import error
from tests.support.upstream import Upstream
from tests.telemetry.test_metrics import metrics_of_gate


def client_file(directory: Path, *names: str) -> Path:
    path = directory / "clients.toml"
    tables = (
        f'[client.{name}]\nkey_sha256 = "{number:064x}"\n' for number, name in enumerate(names)
    )
    path.write_text("".join(tables))
    return path


async def test_waits_are_counted_by_class_and_client() -> None:
    async with metrics_of_gate() as metrics:
        for client, priority, waited_s in (
            ("a", "batch", 3),
            ("a", "default", 1),
            ("b", "batch", 0),
        ):
            exchange = Exchange(client, "POST", "/v1/x", priority=priority, attempts=1)
            exchange.queued = waited_s * SECOND
            settle(metrics, exchange)
        scrape = Scrape(metrics.text())
    name = "rustygate_queue_wait_seconds"
    assert scrape.labels(f"{name}_count", "class") == set(CLASS_WEIGHTS)
    assert scrape.sum(f"{name}_count", **{"class": "batch"}) == 2
    assert scrape.sum(f"{name}_sum", **{"class": "batch"}) == 3
    assert scrape.sum(f"{name}_sum", **{"class": "default"}) == 1
    assert scrape.sum(f"{name}_count", **{"class": "interactive"}) == 0
    assert scrape.sum("rustygate_client_queue_seconds_total", client="a") == 4
    assert scrape.labels("rustygate_client_queue_seconds_total", "client") == {"a", "b"}


@pytest.mark.parametrize(
    ("attempts", "queued", "count"), [(0, 0, 0), (0, MS - 1, 0), (0, MS, 1), (1, 0, 1)]
)
async def test_exchanges_refused_on_arrival_did_not_wait(
    attempts: int, queued: int, count: int
) -> None:
    async with metrics_of_gate() as metrics:
        exchange = Exchange("a", "POST", "/v1/x", attempts=attempts)
        exchange.queued = queued
        settle(metrics, exchange)
        scrape = Scrape(metrics.text())
    assert scrape.sum("rustygate_queue_wait_seconds_count") == count


async def test_durations_count_from_the_arrival() -> None:
    async with metrics_of_gate() as metrics:
        arrived = 100 * SECOND
        for first_byte, settled in ((102 * SECOND, 105 * SECOND), (None, 103 * SECOND)):
            exchange = Exchange("a", "POST", "/v1/x", arrived=arrived)
            exchange.first_byte, exchange.settled = first_byte, settled
            settle(metrics, exchange)
        scrape = Scrape(metrics.text())
    for name, count, seconds in (("time_to_first_byte", 1, 2), ("exchange", 2, 8)):
        assert scrape.sum(f"rustygate_{name}_seconds_count") == count
        assert scrape.sum(f"rustygate_{name}_seconds_sum") == seconds


async def test_upstreams_429s_are_counted_by_lane_and_verdict(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate()
    upstream.reply = response()
    await running.request(chat())
    upstream.reply = None
    client = await running.send(chat())
    status = "429 Too Many Requests"
    for code, times in (("rate_limit_exceeded", 2), ("slow_down", 1), ("insufficient_quota", 1)):
        for _ in range(times):
            refusal = response(error(code), "retry-after-ms: 1", status=status)
            await (await upstream.call()).respond(refusal)
    assert (await client.response()).status == 429
    scrape = await Scrape.of(running)
    counted = {
        labels["verdict"]: value
        for labels, value in scrape.samples("rustygate_upstream_429_total")
        if labels["lane"] == "gpt-4o"
    }
    assert counted == {"pause": 2, "slow": 1, "pass": 1}


async def test_overload_is_not_counted_as_a_429(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = response(error(), status="503 Service Unavailable")
    running = await gate()
    await running.request(chat())
    assert (await Scrape.of(running)).sum("rustygate_upstream_429_total") == 0


async def test_429s_of_unconfirmed_models_share_a_label() -> None:
    async with metrics_of_gate() as metrics:
        for model in ("a", "b"):
            metrics.count_upstream_429(model, Action.PASS)
        scrape = Scrape(metrics.text())
    assert scrape.labels("rustygate_upstream_429_total", "lane") == {UNKNOWN}


async def test_counters_of_configured_clients_start_at_zero(
    gate: StartGate, tmp_path: Path
) -> None:
    path = client_file(tmp_path, "web", "search")
    running = await gate(CLIENTS_FILE=path)
    scrape = await Scrape.of(running)
    for client in ("web", "search"):
        results = [
            (labels["model"], labels["status"], labels["outcome"], value)
            for labels, value in scrape.samples("rustygate_exchanges_total")
            if labels["client"] == client
        ]
        assert results == [(NONE, "200", "ok", 0), (NONE, "429", "refused", 0)]
    assert list(scrape.samples("rustygate_client_queue_seconds_total")) == [
        ({"client": "web"}, 0),
        ({"client": "search"}, 0),
    ]
    client_file(tmp_path, "web", "search", "new")
    running.daemon.reload()
    labels = (await Scrape.of(running)).labels("rustygate_exchanges_total", "client")
    assert labels == {"web", "search", "new"}


async def test_series_start_at_zero_for_each_known_model_up_to_a_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with metrics_of_gate("m") as metrics:
        metrics.announce_clients(["a", "b"])
        settle(metrics, Exchange("c", "POST", "/v1/x", model="m", status=200, outcome="ok"))
        first = Scrape(metrics.text())
        for client in ("a", "b"):
            values = [
                value
                for labels, value in first.samples("rustygate_exchanges_total")
                if (labels["client"], labels["model"], labels["status"]) == (client, "m", "200")
            ]
            assert values == [0]
        settle(metrics, Exchange("a", "POST", "/v1/x", model="m", status=200, outcome="ok"))
        second = Scrape(metrics.text())
        assert second.sum("rustygate_exchanges_total", client="a", model="m", status="200") == 1
        before = len(list(second.samples("rustygate_exchanges_total")))
        monkeypatch.setattr(module, "ANNOUNCED_LIMIT", before)
        metrics.announce_clients(["a", "b", "d"])
        third = Scrape(metrics.text())
    assert len(list(third.samples("rustygate_exchanges_total"))) == before
