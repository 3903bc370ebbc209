"""One quota kept over real sockets: what upstream's 429s and headers do, and who waits."""

import asyncio
import json
from typing import Any

import openai
import pytest

from tests.conftest import StartGate
from tests.support.gate import Gate
from tests.support.http import (
    EVENT_STREAM,
    LAST_CHUNK,
    chat,
    chunk,
    get,
    post,
    request,
    response,
    response_head,
)
from tests.support.upstream import Call, Upstream

KEEPALIVE = b": keep-alive\n"
AUTO = {"RATE_LIMIT": "auto"}

SOON = "retry-after-ms: 30"


def error(code: str | None = None, message: str = "x", kind: str = "requests") -> bytes:
    said = {"message": message, "type": kind, "param": None, "code": code}
    return json.dumps({"error": said}).encode()


def refused(
    body: bytes, *lines: str, status: str = "429 Too Many Requests", wait: str = SOON
) -> bytes:
    return response(body, "Content-Type: application/json", wait, *lines, status=status)


def told(limit: int, remaining: int, *, kind: str = "requests") -> list[str]:
    return [
        f"x-ratelimit-limit-{kind}: {limit}",
        f"x-ratelimit-remaining-{kind}: {remaining}",
        f"x-ratelimit-reset-{kind}: 1s",
    ]


def answered_once(reply: bytes, then: bytes | None = None) -> Any:
    """A reply to the first request, and another to all that follow."""
    replies = [reply]
    return lambda call: replies.pop() if replies else then or response(b'{"ok": 1}')


# The verdicts, row by row.


@pytest.mark.parametrize(
    "reply",
    [
        refused(error("rate_limit_exceeded")),
        refused(error("rate_limit_exceeded"), wait="Retry-After: 0"),
        refused(error("slow_down")),
        refused(error("server_is_overloaded"), status="503 Service Unavailable"),
        refused(b"no JSON at all"),
    ],
    ids=["rate limit", "whole seconds", "slow down", "overloaded", "unreadable"],
)
async def test_answer_that_has_room_later_is_tried_again_in_place(
    gate: StartGate, upstream: Upstream, reply: bytes
) -> None:
    upstream.reply = answered_once(reply)
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
async def test_final_answer_passes_byte_for_byte_at_the_first_attempt(
    gate: StartGate, upstream: Upstream, status: str, body: bytes
) -> None:
    upstream.reply = refused(body, "x-own: 1", status=status)
    got = await (await gate()).request(chat())
    assert (got.head.start, got.body, got.reason) == (f"HTTP/1.1 {status}", body, None)
    assert (got.head["x-own"], got.head["retry-after-ms"]) == ("1", "30")
    assert len(upstream.calls) == 1


async def test_after_the_last_try_upstream_s_own_answer_passes(
    gate: StartGate, upstream: Upstream
) -> None:
    body = error("rate_limit_exceeded", "Rate limit reached")
    upstream.reply = refused(body, "x-own: 1")
    got = await (await gate(UPSTREAM_RETRIES=2)).request(chat())
    assert (got.status, got.body, got.head["x-own"], got.reason) == (429, body, "1", None)
    assert (got.head["x-rustygate-attempts"], len(upstream.calls)) == ("3", 3)


@pytest.mark.parametrize("limit", [{"RATE_LIMIT_TIMEOUT": 5}, {"UPSTREAM_RETRIES": 0}], ids=str)
async def test_retry_that_would_come_too_late_is_not_waited_for(
    gate: StartGate, upstream: Upstream, limit: dict[str, int]
) -> None:
    upstream.reply = refused(error("rate_limit_exceeded"), wait="Retry-After: 20")
    got = await (await gate(**limit)).request(chat())
    assert (got.status, got.head["retry-after"], len(upstream.calls)) == (429, "20", 1)


async def test_body_that_is_not_held_is_not_sent_again(
    gate: StartGate, upstream: Upstream
) -> None:
    upstream.reply = refused(error("rate_limit_exceeded"))
    got = await (await gate()).request(
        request("POST", "/v1/files", "Content-Type: multipart/form-data; boundary=x", body=b"--x")
    )
    assert (got.status, len(upstream.calls)) == (429, 1)


async def test_long_error_passes_whole(gate: StartGate, upstream: Upstream) -> None:
    body = error("insufficient_quota", "x" * 500_000)
    upstream.reply = refused(body)
    assert (await (await gate()).request(chat())).body == body


async def test_error_that_breaks_off_is_a_502(gate: StartGate, upstream: Upstream) -> None:
    client = await (await gate()).send(chat())
    call = await upstream.call()
    await call.read_rest()
    call.send(refused(error("rate_limit_exceeded"))[:-5])
    call.close()
    got = await client.response()
    assert (got.status, got.reason) == (502, "upstream_disconnected")


async def test_pause_holds_up_its_own_lane_alone(gate: StartGate, upstream: Upstream) -> None:
    running = await gate()
    client = await running.send(chat())
    first = await upstream.call()
    await first.respond(refused(error("rate_limit_exceeded"), wait="retry-after-ms: 400"))
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


# Learned limits.


async def test_learned_limit_is_waited_for(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = lambda call: response(b"{}", *told(600, 1 if len(upstream.calls) == 1 else 0))
    running = await gate(**AUTO)
    waits = [int((await running.request(chat())).head["x-rustygate-queued-ms"]) for _ in range(4)]
    assert waits[:2] == [0, 0]
    assert all(60 <= wait <= 400 for wait in waits[2:])


async def test_limits_of_one_model_do_not_bind_another(
    gate: StartGate, upstream: Upstream
) -> None:
    upstream.reply = response(b"{}", *told(1, 0))
    running = await gate(**AUTO)
    for model in "abcd":
        got = await running.request(post(b'{"model": "%s"}' % model.encode()))
        assert got.head["x-rustygate-queued-ms"] == "0"


async def test_model_is_tried_with_a_burst_until_it_has_answered(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(**AUTO, RATE_LIMIT_BURST=2)
    clients = [await running.send(chat()) for _ in range(4)]
    calls = [await upstream.call() for _ in range(2)]
    await running.wait_until(waiters=2, in_flight=2)
    await calls[0].respond(response())
    calls += [await upstream.call() for _ in range(2)]
    for call in calls[1:]:
        await call.respond(response())
    assert [(await client.response()).status for client in clients] == [200] * 4


# Tokens.


def asking(tokens: int, *lines: str) -> bytes:
    """A request that costs so many tokens."""
    body = {"model": "m", "messages": [], "max_tokens": tokens}
    return post(json.dumps(body).encode(), *lines)


def used(tokens: int) -> bytes:
    usage = {"prompt_tokens": 0, "completion_tokens": tokens, "total_tokens": tokens}
    return response(json.dumps({"usage": usage}).encode(), "Content-Type: application/json")


async def test_tokens_are_settled_to_the_usage(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = used(100)
    running = await gate(TOKENS_PER_MINUTE=6000)
    for _ in range(6):
        got = await running.request(asking(5000))
        assert got.head["x-rustygate-queued-ms"] == "0" or len(upstream.calls) > 5
    line = (await running.settled(6))[0]
    assert (line["tokens_in"], line["tokens_out"]) == (0, 100)


async def test_tokens_that_were_used_are_waited_for(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = used(5950)
    running = await gate(TOKENS_PER_MINUTE=6000)
    await running.request(asking(1))
    assert int((await running.request(asking(70))).head["x-rustygate-queued-ms"]) >= 100


async def test_refused_attempt_gives_its_tokens_back(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = answered_once(refused(error("rate_limit_exceeded")), used(100))
    got = await (await gate(TOKENS_PER_MINUTE=6000)).request(asking(5000))
    assert (got.status, got.head["x-rustygate-attempts"]) == (200, "2")
    assert int(got.head["x-rustygate-queued-ms"]) < 1000


async def test_failed_answer_gives_its_tokens_back(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = answered_once(response(error(), status="400 Bad Request"))
    running = await gate(TOKENS_PER_MINUTE=6000)
    assert (await running.request(asking(6000))).status == 400
    assert (await running.request(asking(6000))).head["x-rustygate-queued-ms"] == "0"


async def test_request_that_never_fits_is_refused(gate: StartGate, upstream: Upstream) -> None:
    got = await (await gate(TOKENS_PER_MINUTE=6000)).request(asking(6001))
    assert (got.status, got.reason) == (429, "request_too_large")
    assert (got.error["type"], got.error["code"]) == ("tokens", "rate_limit_exceeded")
    assert got.head["x-should-retry"] == "false"
    assert upstream.calls == []


async def test_want_of_tokens_is_told_as_such(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = used(6000)
    running = await gate(TOKENS_PER_MINUTE=6000, RATE_LIMIT_TIMEOUT=1)
    await running.request(asking(6000))
    got = await running.request(asking(6000))
    assert (got.reason, got.error["type"]) == ("queue_timeout", "tokens")
    assert 50 <= int(got.head["retry-after"]) <= 61


# Who waits, and for how long.


@pytest.mark.parametrize("header", ["x-stainless-read-timeout", "x-stainless-timeout"])
async def test_client_s_own_time_limit_is_its_deadline(
    gate: StartGate, upstream: Upstream, header: str
) -> None:
    upstream.reply = response()
    running = await gate(RATE_LIMIT="0.2", RATE_LIMIT_BURST=1)
    await running.request(chat())
    got = await running.request(chat(f"{header}: 2.5"))
    assert (got.status, got.reason) == (429, "queue_timeout")
    assert 4000 <= int(got.head["retry-after-ms"]) <= 5000


@pytest.mark.parametrize("value", ["0", "-1", "nan", "soon", "\u0663", "1e999", ""])
async def test_time_limit_that_is_none_is_ignored(
    gate: StartGate, upstream: Upstream, value: str
) -> None:
    upstream.reply = response()
    running = await gate(RATE_LIMIT="20", RATE_LIMIT_BURST=1)
    await running.request(chat())
    line = f"x-stainless-timeout: {value}".encode().decode("latin-1")
    assert (await running.request(chat(line))).status == 200


async def test_interactive_goes_before_batch(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(CONCURRENCY_LIMIT=1)
    clients = {"holder": await running.send(get("/v1/holder"))}
    call = await upstream.call()
    head = "X-RustyGate-Priority: {}"
    for number, priority in enumerate(["default", "batch", "batch", "batch", "interactive"]):
        name = f"{priority}-{number}"
        clients[name] = await running.send(get(f"/v1/{name}", head.format(priority)))
        await running.wait_until(waiters=number + 1)
    order: list[str] = []
    while len(order) < 5:
        await call.respond(response())
        call = await upstream.call()
        assert "x-rustygate-priority" not in call.head
        order.append(call.target.removeprefix("/v1/").partition("-")[0])
    await call.respond(response())
    # The first was at the head before the others came; then batch, an idle class as the others,
    # has its first turn early, and no other before the interactive one.
    assert order[0] == "default"
    assert "interactive" in order[1:3]


async def test_class_that_does_not_exist_is_refused(gate: StartGate, upstream: Upstream) -> None:
    got = await (await gate()).request(get("/v1/models", "X-RustyGate-Priority: urgent"))
    assert (got.status, got.reason) == (400, "bad_request")
    assert "interactive, default, batch" in got.error["message"]


# A head before its turn.

EARLY = {"RATE_LIMIT_TIMEOUT": 1, "CONCURRENCY_LIMIT": 1, "QUEUE_KEEPALIVE_AFTER": 0.05}


async def holding(gate: Gate, upstream: Upstream) -> Call:
    """Take the only slot; the call that holds it."""
    await gate.send(get())
    return await upstream.call()


async def test_waiting_stream_gets_its_head_and_keepalives(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(**{**EARLY, "RATE_LIMIT_TIMEOUT": 30}, SSE_KEEPALIVE_INTERVAL=0.05)
    holder = await holding(running, upstream)
    client = await running.send(chat(stream=True))
    head = await client.head()
    assert (head.status, head["content-type"]) == (200, "text/event-stream")
    await client.expect_body(KEEPALIVE)
    await client.expect_body(KEEPALIVE)
    await holder.respond(response())
    call = await upstream.call()
    call.send(EVENT_STREAM, chunk(b"data: 1\n\n"), chunk(b"data: [DONE]\n\n"), LAST_CHUNK)
    body = (await client.read_rest()).replace(KEEPALIVE, b"")
    assert body == b"data: 1\n\ndata: [DONE]\n\n"
    assert (await running.settled(2))[1]["outcome"] == "ok"


async def test_stream_that_did_not_queue_keeps_its_own_head(
    gate: StartGate, upstream: Upstream
) -> None:
    """Though upstream takes longer than QUEUE_KEEPALIVE_AFTER."""
    running = await gate(**EARLY)
    client = await running.send(chat(stream=True))
    call = await upstream.call()
    await call.read_rest()
    await asyncio.sleep(3 * EARLY["QUEUE_KEEPALIVE_AFTER"])
    call.send(response(b"{}", status="404 Not Found"))
    assert (await client.response()).status == 404


async def test_other_requests_wait_in_silence(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(**{**EARLY, "RATE_LIMIT_TIMEOUT": 30})
    holder = await holding(running, upstream)
    plain = await running.send(chat())
    stream = await running.send(chat(stream=True))
    await stream.head()
    await stream.expect_body(KEEPALIVE)
    assert plain.wire.received == b""
    await holder.respond(response())
    await (await upstream.call()).respond(response(b"plain"))
    assert (await plain.response()).body == b"plain"


async def test_head_of_a_stream_waits_in_silence(gate: StartGate, upstream: Upstream) -> None:
    """What answers it has no body; a keepalive would pass for the next answer."""
    running = await gate(**{**EARLY, "RATE_LIMIT_TIMEOUT": 30})
    holder = await holding(running, upstream)
    client = await running.send(chat(stream=True).replace(b"POST", b"HEAD", 1))
    stream = await running.send(chat(stream=True))
    await stream.head()
    await stream.expect_body(KEEPALIVE)
    assert client.wire.received == b""
    await holder.respond(response())
    await (await upstream.call()).respond(response_head("X-Own: 1"))
    assert (await client.response(bodiless=True)).head["x-own"] == "1"


@pytest.mark.parametrize("target", ["/v1/chat/completions", "/v1/responses"])
@pytest.mark.parametrize("what", ["refusal", "upstream's error", "no stream", "no connection"])
async def test_what_goes_wrong_after_an_early_head_is_told_in_the_stream(
    gate: StartGate, upstream: Upstream, what: str, target: str
) -> None:
    running = await gate(**EARLY, UPSTREAM_RETRIES=0)
    holder = await holding(running, upstream)
    client = await running.send(post(b'{"stream": true}', target=target))
    await client.head()
    await client.expect_body(KEEPALIVE)
    code = "queue_timeout"
    if what != "refusal":
        await holder.respond(response())
        call = await upstream.call()
        await call.read_rest()
        match what:
            case "upstream's error":
                code = "model_not_found"
                call.send(response(error(code), status="404 Not Found"))
            case "no stream":
                code = "null"
                call.send(response(b"{}", "Content-Type: application/json"))
            case _:
                code = "upstream_disconnected"
                call.reset()
                # The connection had carried the holder's request, so it is tried on a fresh one.
                again = await upstream.call()
                await again.read_rest()
                again.reset()
    told = (await client.read_until_cut()).replace(KEEPALIVE, b"").decode()
    expected = {"queue_timeout": "rate_limit_exceeded"}.get(code, code)
    said = json.loads(told.partition("data: ")[2])
    assert json.dumps(said["error"]["code"]).strip('"') == expected
    assert told.startswith("event: error" if target.endswith("responses") else "data: ")


async def test_sdk_raises_what_an_early_head_could_not_tell(
    gate: StartGate, upstream: Upstream, async_client: Any
) -> None:
    running = await gate(**EARLY)
    await holding(running, upstream)
    client = async_client(running)
    stream = await client.chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": "Hello"}], stream=True
    )
    with pytest.raises(openai.APIError, match="deadline"):
        _ = [event async for event in stream]


async def test_client_that_leaves_after_an_early_head_leaves_nothing(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(**EARLY)
    await holding(running, upstream)
    client = await running.send(chat(stream=True))
    await client.head()
    client.disconnect()
    await running.wait_until(waiters=0)
    assert (await running.settled())[0]["outcome"] == "client_left"
    assert len(asyncio.all_tasks()) < 20
