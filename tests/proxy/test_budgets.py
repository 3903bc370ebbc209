"""Budgets per day and month, over real sockets: requests, turns of WebSockets, and reloads."""

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rustygate.cli import main
from rustygate.cli.usage_budgets import read_budgets
from rustygate.config import Settings
from rustygate.core.clients import ClientsError, hash_key
from rustygate.daemon import Daemon
from rustygate.system.data_dir import DataDir
from rustygate.telemetry.usage.sqlite_report import FILE_NAME
from tests.conftest import StartGate, StartRedis
from tests.support.gate import Gate, also_with_workers
from tests.support.http import CLIENT_KEY, Response, get, post, response
from tests.support.upstream import Upstream
from tests.support.waiting import until
from tests.support.websocket_turns import (
    create_response,
    next_event,
    open_responses,
    serve_turn,
)

LEFT = "X-RustyGate-Budget-Remaining"


def answer(tokens_in: int, tokens_out: int) -> bytes:
    usage = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out}
    body = json.dumps({"model": "gpt-4o", "usage": usage}).encode()
    return response(body, "Content-Type: application/json")


def write_clients(directory: Path, *lines: str) -> Path:
    path = directory / "clients.toml"
    text = [f'[client.search]\nkey_sha256 = "{hash_key(CLIENT_KEY)}"', *lines, ""]
    path.write_text("\n".join(text))
    return path


async def start(gate: StartGate, directory: Path, *lines: str) -> Gate:
    """A gate with a client that has these budgets."""
    path = write_clients(directory, *lines)
    return await gate(CLIENTS_FILE=path, DATA_DIR=directory / "data")


async def ask(gate: Gate, cap: int = 50, model: str = "gpt-4o") -> Response:
    """A request that is estimated at its cap and 1 token of input."""
    messages = [{"role": "user", "content": "Hi"}]
    body = json.dumps({"model": model, "max_tokens": cap, "messages": messages}).encode()
    return await gate.request(post(body))


def error_of(refused: Response) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(refused.body)["error"]
    return error


@also_with_workers
async def test_budget_is_spent_and_then_refused(
    gate: StartGate, upstream: Upstream, tmp_path: Path
) -> None:
    upstream.reply = answer(10, 20)
    running = await start(gate, tmp_path, "tokens_per_day = 100")
    for left in ("49", "19"):
        # What is left is known once the request is reserved.
        accepted = await ask(running)
        assert (accepted.status, accepted.head[LEFT]) == (200, f"tokens_per_day={left}")
    refused = await ask(running)
    assert refused.status == 429
    assert error_of(refused)["type"] == "insufficient_quota"
    assert error_of(refused)["code"] == "budget_exceeded"
    assert "60 of 100 tokens are used; this request may cost 51" in refused.body.decode()
    assert refused.head["X-RustyGate-Error"] == "budget_exceeded"
    assert refused.head["x-should-retry"] == "false"
    assert 0 < int(refused.head["Retry-After"]) <= 86_400
    assert refused.head[LEFT] == "tokens_per_day=40"
    assert (await ask(running, cap=39)).status == 200
    assert len(upstream.calls) == 3


async def test_dollars_are_counted_by_the_price_list(
    gate: StartGate, upstream: Upstream, tmp_path: Path
) -> None:
    upstream.reply = answer(400_000, 50_000)
    running = await start(gate, tmp_path, "usd_per_month = 2")
    assert (await ask(running)).status == 200
    # 400,000 tokens for 2.50 and 50,000 for 10 dollars a million: 1.50 dollars.
    refused = await ask(running, cap=50_001)
    assert refused.status == 429
    assert "$1.5000 of $2.0000 are used; this request may cost $0.5000" in refused.body.decode()
    assert refused.head[LEFT] == "usd_per_month=0.5"
    unpriced = await ask(running, model="gpt-unknown")
    assert (unpriced.status, error_of(unpriced)["code"]) == (403, "model_not_allowed")
    assert unpriced.head[LEFT] == "usd_per_month=0.5"


async def test_reads_need_no_budget(gate: StartGate, upstream: Upstream, tmp_path: Path) -> None:
    running = await start(gate, tmp_path, "tokens_per_day = 1")
    assert (await ask(running)).status == 429
    upstream.reply = response()
    read = await running.request(get())
    assert read.status == 200
    assert read.head[LEFT] == "tokens_per_day=1"


async def test_request_that_fails_upstream_costs_nothing(
    gate: StartGate, upstream: Upstream, tmp_path: Path
) -> None:
    running = await start(gate, tmp_path, "tokens_per_day = 100")
    upstream.reply = response(b"{}", status="500 Internal Server Error")
    assert (await ask(running)).status == 500
    upstream.reply = answer(10, 20)
    assert (await ask(running, cap=99)).status == 200


@also_with_workers
async def test_each_turn_of_a_websocket_has_its_own_reservation(
    gate: StartGate, upstream: Upstream, tmp_path: Path
) -> None:
    running = await start(gate, tmp_path, "tokens_per_day = 100")
    client, server = await open_responses(running, upstream)
    client.send(create_response(max_output_tokens=60))
    await serve_turn(server, tokens=(30, 20))
    for kind in ("response.created", "response.done"):
        assert (await next_event(client))["type"] == kind
    client.send(create_response(max_output_tokens=60))
    event = await next_event(client)
    assert (event["type"], event["error"]["code"]) == ("error", "budget_exceeded")
    client.send(create_response(max_output_tokens=40))
    await serve_turn(server, "resp_2")


@also_with_workers
async def test_reload_changes_budgets_and_keeps_what_was_spent(
    gate: StartGate, upstream: Upstream, tmp_path: Path
) -> None:
    upstream.reply = answer(10, 20)
    running = await start(gate, tmp_path, "tokens_per_day = 100")
    assert (await ask(running)).status == 200
    write_clients(tmp_path, "tokens_per_day = 60")
    assert running.daemon.reload()
    assert (await ask(running)).status == 429
    write_clients(tmp_path, "usd_per_day = 1", 'models = ["gpt-unknown"]')
    with pytest.raises(ClientsError, match="no known price"):
        running.daemon.reload()
    assert (await ask(running)).status == 429
    write_clients(tmp_path)
    assert running.daemon.reload()
    assert (await ask(running)).status == 200
    write_clients(tmp_path, "tokens_per_day = 100")
    running.daemon.reload()
    refused = await ask(running)
    assert "60 of 100 tokens are used" in refused.body.decode()


@pytest.mark.parametrize("labels", [200, 0], ids=["own label", "beyond the label limit"])
async def test_restart_keeps_what_was_spent(
    gate: StartGate,
    upstream: Upstream,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    labels: int,
) -> None:
    monkeypatch.setattr("rustygate.telemetry.labels.CLIENT_LIMIT", labels)
    upstream.reply = answer(10, 20)
    first = await start(gate, tmp_path, "tokens_per_month = 100", "usd_per_day = 0.001")
    assert (await ask(first)).status == 200
    await first.daemon.stop()
    second = await start(gate, tmp_path, "tokens_per_month = 100", "usd_per_day = 0.001")
    refused = await ask(second, cap=70)
    assert (refused.status, refused.head[LEFT]) == (
        429,
        "tokens_per_month=70, usd_per_day=0.000775",
    )
    assert (await ask(second, cap=69)).status == 200


async def test_restart_keeps_what_a_request_without_a_response_cost(
    gate: StartGate, upstream: Upstream, tmp_path: Path
) -> None:
    first = await start(gate, tmp_path, "tokens_per_month = 100", "usd_per_day = 0.001")
    messages = [{"role": "user", "content": "Hi"}]
    body = json.dumps({"model": "gpt-4o", "max_tokens": 50, "messages": messages}).encode()
    client = await first.send(post(body))
    await upstream.call()
    client.disconnect()
    await first.settled()
    before = first.daemon._control.spending.left("search")
    assert before == {"tokens_per_month": 49, "usd_per_day": pytest.approx(0.0004975)}
    await first.daemon.stop()
    second = await start(gate, tmp_path, "tokens_per_month = 100", "usd_per_day = 0.001")
    assert second.daemon._control.spending.left("search") == before
    # Without a running gate.
    settings = Settings(
        openai_api_key="sk-any",
        clients_file=str(tmp_path / "clients.toml"),
        data_dir=str(tmp_path / "data"),
    )
    rows = read_budgets(settings, lambda settings, query: [])
    assert [row["left"] for row in rows] == list(before.values())


async def test_record_that_is_locked_at_the_start_is_counted_later(
    gate: StartGate, upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rustygate.telemetry.usage.sqlite_store.BUSY_S", 0.01)
    monkeypatch.setattr("rustygate.telemetry.usage.sqlite_report.BUSY_S", 0.01)
    monkeypatch.setattr("rustygate.telemetry.usage.spending.RETRY_S", 0.02)
    monkeypatch.setattr("rustygate.telemetry.usage.recorder.RETRY_AFTER_S", 0.02)
    upstream.reply = answer(10, 20)
    first = await start(gate, tmp_path, "tokens_per_month = 200", "usd_per_day = 0.01")
    await ask(first)
    await first.daemon.stop()
    with closing(sqlite3.connect(tmp_path / "data" / FILE_NAME, isolation_level=None)) as locked:
        locked.execute("PRAGMA locking_mode = EXCLUSIVE")
        locked.execute("BEGIN EXCLUSIVE")
        second = await start(gate, tmp_path, "tokens_per_month = 200", "usd_per_day = 0.01")
        assert "cannot read what clients have spent" in second.log.text
        assert (await ask(second)).head[LEFT].startswith("tokens_per_month=149")
        locked.execute("ROLLBACK")
    left = second.daemon._control.spending.left
    await until(lambda: left("search")["tokens_per_month"] == 200 - 2 * 30)
    await ask(second)
    assert left("search") == {"tokens_per_month": 110, "usd_per_day": pytest.approx(0.009325)}
    assert "what clients have spent was read" in second.log.text


async def test_gates_of_a_group_share_a_budget(
    gate: StartGate, upstream: Upstream, tmp_path: Path, start_redis: StartRedis
) -> None:
    upstream.reply = answer(10, 20)
    path = write_clients(tmp_path, "tokens_per_day = 100")
    url = start_redis().url
    one, other = [await gate(CLIENTS_FILE=path, REDIS_URL=url) for _ in range(2)]
    assert (await ask(one)).status == 200
    refused = await ask(other, cap=70)
    assert refused.status == 429
    assert "of 100 tokens are used" in refused.body.decode()
    assert (await ask(other, cap=30)).status == 200


async def test_gate_that_starts_without_redis_says_what_its_budgets_are(
    gate: StartGate, upstream: Upstream, tmp_path: Path, start_redis: StartRedis
) -> None:
    upstream.reply = answer(10, 20)
    path = write_clients(tmp_path, "tokens_per_day = 100")
    server = start_redis()
    server.stop()
    running = await gate(CLIENTS_FILE=path, REDIS_URL=server.url)
    expected = "spent (Redis: Connection refused): budgets count from 0 until Redis answers"
    assert expected in running.log.text
    assert (await ask(running, cap=100)).status == 429
    assert (await ask(running)).status == 200


async def test_gate_that_cannot_keep_a_budget_does_not_start(tmp_path: Path) -> None:
    path = write_clients(tmp_path, "usd_per_day = 1", 'models = ["gpt-unknown"]')
    data = tmp_path / "data"
    settings = Settings(openai_api_key="sk-test", clients_file=str(path), data_dir=str(data))
    with pytest.raises(ClientsError, match="no known price"):
        await Daemon(settings).start()
    # Another gate may have the directory.
    DataDir(data).close()


async def test_budget_is_not_kept_in_a_database_that_must_not_be_touched(tmp_path: Path) -> None:
    path = write_clients(tmp_path, "tokens_per_day = 100")
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as newer:
        newer.execute("PRAGMA user_version = 99")
    settings = Settings(openai_api_key="sk-test", clients_file=str(path), data_dir=str(tmp_path))
    with pytest.raises(ClientsError, match="keep track of spending"):
        await Daemon(settings).start()


async def test_used_part_is_a_metric(gate: StartGate, upstream: Upstream, tmp_path: Path) -> None:
    upstream.reply = answer(10, 15)
    running = await start(gate, tmp_path, "tokens_per_day = 100", "tokens_per_month = 1000")
    await ask(running)
    scrape = await running.request(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    lines = scrape.body.decode().splitlines()
    name = "rustygate_client_budget_used_ratio"
    assert f'{name}{{budget="tokens_per_day",client="search"}} 0.25' in lines
    assert f'{name}{{budget="tokens_per_month",client="search"}} 0.025' in lines


async def test_budgets_can_be_read_over_http(
    gate: StartGate, upstream: Upstream, tmp_path: Path
) -> None:
    upstream.reply = answer(10, 15)
    running = await start(gate, tmp_path, "tokens_per_day = 100", "usd_per_month = 1")
    await ask(running)
    page = b"GET /gate/budgets HTTP/1.1\r\nHost: localhost\r\n\r\n"
    rows = json.loads((await running.request(page)).body)
    assert [row["budget"] for row in rows] == ["tokens_per_day", "usd_per_month"]
    assert rows[0].items() >= {"client": "search", "spent": 25, "reserved": 0, "left": 75}.items()
    code = await asyncio.to_thread(main, ["usage", "--budgets", "--url", running.url])
    assert code == 0
