"""Upstream's 429s and 503s over real sockets: which are retried, which pass, and how long."""

from time import monotonic
from typing import Any

import pytest

from rustygate.admission.admission import Admission
from tests.conftest import StartGate
from tests.support.http import chat, get, post, response
from tests.support.rate_limits import error, rate_limited, respond_once
from tests.support.upstream import Upstream
from tests.support.waiting import within


@pytest.mark.parametrize(
    "reply",
    [
        rate_limited(error("rate_limit_exceeded")),
        rate_limited(error("rate_limit_exceeded"), wait="Retry-After: 0"),
        rate_limited(error("slow_down")),
        rate_limited(error("server_is_overloaded"), status="503 Service Unavailable"),
        rate_limited(b"no JSON at all"),
    ],
    ids=["rate limit", "whole seconds", "slow down", "overloaded", "unreadable"],
)
async def test_temporary_refusal_by_upstream_is_retried(
    gate: StartGate, upstream: Upstream, reply: bytes
) -> None:
    upstream.reply = respond_once(reply)
    running = await gate()
    got = await running.request(chat())
    assert (got.status, got.json) == (200, {"ok": 1})
    assert got.head["x-rustygate-attempts"] == "2"
    assert int(got.head["x-rustygate-queued-ms"]) >= (1 if b"Retry-After" in reply else 25)
    assert (await running.settled())[0]["attempts"] == 2


@pytest.mark.parametrize(
    ("status", "body"),
    [
        ("429 Too Many Requests", error("insufficient_quota", kind="insufficient_quota")),
        ("429 Too Many Requests", error("organization_spend_limit_exceeded")),
        ("429 Too Many Requests", error("credit_balance_exhausted")),
        ("429 Too Many Requests", error("organization_usage_limit_exceeded")),
        (
            "429 Too Many Requests",
            error("rate_limit_exceeded", "Request too large: Limit 30000, Requested 40000."),
        ),
        ("503 Service Unavailable", error()),
        ("500 Internal Server Error", error("rate_limit_exceeded")),
        ("502 Bad Gateway", b"<html>"),
        ("504 Gateway Timeout", b""),
        ("400 Bad Request", error("slow_down")),
    ],
    ids=str,
)
async def test_final_error_passes_unchanged_after_one_attempt(
    gate: StartGate, upstream: Upstream, status: str, body: bytes
) -> None:
    upstream.reply = rate_limited(body, "x-own: 1", status=status)
    running = await gate()
    got = await running.request(chat())
    assert (got.head.start, got.body, got.reason) == (f"HTTP/1.1 {status}", body, None)
    assert (got.head["x-own"], got.head["retry-after-ms"]) == ("1", "30")
    assert len(upstream.calls) == 1
    assert (await running.settled())[0]["outcome"] == "upstream_error"


@pytest.mark.parametrize("retries", [0, 2])
async def test_429s_are_waited_out_however_often(
    gate: StartGate, upstream: Upstream, retries: int
) -> None:
    refusal = rate_limited(error("rate_limit_exceeded"), wait="retry-after-ms: 5")
    upstream.reply = lambda call: refusal if len(upstream.calls) <= 6 else response(b"served")
    got = await (await gate(UPSTREAM_RETRIES=retries)).request(chat())
    assert (got.status, got.body, got.head["x-rustygate-attempts"]) == (200, b"served", "7")


async def test_upstreams_own_error_passes_at_the_deadline(
    gate: StartGate, upstream: Upstream
) -> None:
    body = error("rate_limit_exceeded", "Rate limit reached")
    upstream.reply = rate_limited(body, "x-own: 1", wait="retry-after-ms: 300")
    got = await (await gate(RATE_LIMIT_TIMEOUT=2)).request(chat())
    assert (got.status, got.body, got.head["x-own"], got.reason) == (429, body, "1", None)
    # Fewer on a busy machine.
    assert 2 <= len(upstream.calls) <= 7
    assert got.head["x-rustygate-attempts"] == str(len(upstream.calls))


async def test_pauses_that_are_too_short_again_and_again_grow(
    gate: StartGate, upstream: Upstream
) -> None:
    upstream.reply = rate_limited(error("rate_limit_exceeded"), wait="retry-after-ms: 0.01")
    got = await (await gate(RATE_LIMIT_TIMEOUT=2)).request(chat())
    assert got.status == 429
    # Fewer on a busy machine.
    assert 4 <= len(upstream.calls) <= 12


async def test_429s_do_not_use_up_the_retries_of_failures(
    gate: StartGate, upstream: Upstream
) -> None:
    client = await (await gate(UPSTREAM_RETRIES=1)).send(get("/v1/models"))
    for _ in range(3):
        await (await upstream.call()).respond(rate_limited(error("rate_limit_exceeded")))
    call = await upstream.call()
    await call.read_rest()
    call.reset()
    await (await upstream.call()).respond(response(b"served"))
    assert (await client.response()).body == b"served"


async def test_retry_beyond_the_deadline_is_not_made(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = rate_limited(error("rate_limit_exceeded"), wait="Retry-After: 20")
    got = await (await gate(RATE_LIMIT_TIMEOUT=5)).request(chat())
    assert (got.status, got.head["retry-after"], len(upstream.calls)) == (429, "20", 1)


async def test_request_whose_body_is_not_buffered_is_not_retried(
    gate: StartGate, upstream: Upstream
) -> None:
    upstream.reply = rate_limited(error("rate_limit_exceeded"))
    got = await (await gate(MAX_BUFFERED_BODY=1)).request(post(b"{}"))
    assert (got.status, len(upstream.calls)) == (429, 1)


async def test_long_error_passes_unchanged(gate: StartGate, upstream: Upstream) -> None:
    body = error("insufficient_quota", "x" * 500_000)
    upstream.reply = rate_limited(body)
    assert (await (await gate()).request(chat())).body == body


async def test_truncated_error_returns_502(gate: StartGate, upstream: Upstream) -> None:
    client = await (await gate()).send(chat())
    call = await upstream.call()
    await call.read_rest()
    call.send(rate_limited(error("rate_limit_exceeded"))[:-5])
    call.close()
    got = await client.response()
    assert (got.status, got.reason) == (502, "upstream_disconnected")


async def test_pause_blocks_only_its_own_lane(gate: StartGate, upstream: Upstream) -> None:
    running = await gate()
    client = await running.send(chat())
    first = await upstream.call()
    await first.respond(rate_limited(error("rate_limit_exceeded"), wait="retry-after-ms: 2000"))
    await running.wait_until(waiters=1)
    behind = await running.send(chat())
    await running.wait_until(waiters=2)
    other = await running.send(post(b'{"model": "gpt-5"}'))
    await (await upstream.call()).respond(response(b"other"))
    assert (await other.response()).body == b"other"
    assert running.snapshot()["waiters"] == 2
    for waiting, body in ((client, b"retried"), (behind, b"behind")):
        await (await upstream.call()).respond(response(body))
        assert (await waiting.response()).body == body


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (error("rate_limit_exceeded", "requests per day (RPD): Limit 9"), "Retry-After: 1"),
        (error("billing_not_active"), "Retry-After: 1"),
        (error("rate_limit_exceeded"), "x-should-retry: false"),
    ],
    ids=["per day", "billing", "should not retry"],
)
async def test_final_429_delays_no_other_request(
    gate: StartGate, upstream: Upstream, body: bytes, line: str
) -> None:
    upstream.reply = respond_once(rate_limited(body, wait=line))
    running = await gate()
    assert (await running.request(chat())).status == 429
    got = await running.request(chat())
    assert (got.status, got.head["x-rustygate-queued-ms"]) == (200, "0")


async def test_wait_beyond_the_deadline_pauses_the_lane_as_long_as_it_says(
    gate: StartGate, upstream: Upstream
) -> None:
    body = error("rate_limit_exceeded", "Please try again in 700ms.")
    upstream.reply = respond_once(response(body, status="429 Too Many Requests"))
    running = await gate()
    began = monotonic()
    got = await running.request(chat("x-stainless-timeout: 0.5"))
    assert (got.status, got.body, got.head["x-rustygate-attempts"]) == (429, body, "1")
    async with within(5):
        assert (await running.request(chat())).status == 200
    assert monotonic() - began >= 0.7


@pytest.mark.parametrize(
    ("status", "ok", "refused"),
    [("200 OK", True, False), ("429 Too Many Requests", False, True), ("503 Busy", False, False)],
)
async def test_only_a_429_is_known_not_to_be_taken_from_the_quota(
    gate: StartGate,
    upstream: Upstream,
    monkeypatch: pytest.MonkeyPatch,
    status: str,
    ok: bool,
    refused: bool,
) -> None:
    recorded: list[tuple[bool, bool]] = []
    record_response = Admission.record_response

    def record(admission: Admission, ok: bool, *update: Any, refused: bool) -> None:
        recorded.append((ok, refused))
        record_response(admission, ok, *update, refused=refused)

    monkeypatch.setattr(Admission, "record_response", record)
    upstream.reply = response(error("insufficient_quota"), status=status)
    await (await gate()).request(chat())
    assert recorded == [(ok, refused)]
