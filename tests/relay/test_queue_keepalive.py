"""The early head and the keepalives of a stream that waits in the queue, over real sockets."""

import asyncio
import gzip
import json
from typing import Any

import openai
import pytest

from rustygate.config import load
from rustygate.exchange import Exchange
from rustygate.relay.queue_keepalive import QueueKeepalive
from rustygate.system.lockstep import Lockstep
from tests.conftest import StartGate
from tests.support.gate import Gate
from tests.support.http import (
    EVENT_STREAM,
    LAST_CHUNK,
    chat,
    chunk,
    get,
    post,
    response,
    response_head,
)
from tests.support.rate_limits import error
from tests.support.upstream import Call, Upstream
from tests.support.waiting import within

KEEPALIVE = b": keep-alive\n"
STREAM_TYPE = "Content-Type: text/event-stream"


EARLY = {"RATE_LIMIT_TIMEOUT": 30, "CONCURRENCY_LIMIT": 1, "QUEUE_KEEPALIVE_AFTER": 0.05}


async def take_slot(gate: Gate, upstream: Upstream) -> Call:
    """Take the only slot. Returns the call that holds it."""
    await gate.send(get())
    return await upstream.call()


async def test_waiting_stream_gets_its_head_and_keepalives(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(**EARLY, SSE_KEEPALIVE_INTERVAL=0.05)
    holder = await take_slot(running, upstream)
    client = await running.send(chat(stream=True))
    head = await client.head()
    assert (head.status, head["content-type"]) == (200, "text/event-stream")
    assert 40 <= int(head["x-rustygate-queued-ms"]) < 60_000
    await client.expect_body(KEEPALIVE)
    await client.expect_body(KEEPALIVE)
    await holder.respond(response())
    call = await upstream.call()
    call.send(EVENT_STREAM, chunk(b"data: 1\n\n"), chunk(b"data: [DONE]\n\n"), LAST_CHUNK)
    body = (await client.read_rest()).replace(KEEPALIVE, b"")
    assert body == b"data: 1\n\ndata: [DONE]\n\n"
    _, line = await running.settled(2)
    assert (line["outcome"], line["id"]) == ("ok", head["x-rustygate-id"])


@pytest.mark.parametrize("coding", ["identity", "none"])
async def test_stream_without_compression_continues_after_an_early_head(
    gate: StartGate, upstream: Upstream, coding: str
) -> None:
    running = await gate(**EARLY)
    holder = await take_slot(running, upstream)
    client = await running.send(chat(stream=True))
    await client.head()
    await client.expect_body(KEEPALIVE)
    await holder.respond(response())
    call = await upstream.call()
    coding_line = f"\r\nContent-Encoding: {coding}\r\n\r\n".encode()
    call.send(EVENT_STREAM.replace(b"\r\n\r\n", coding_line), chunk(b"data: 1\n\n"), LAST_CHUNK)
    assert (await client.read_rest()).replace(KEEPALIVE, b"") == b"data: 1\n\n"


async def test_prompt_response_keeps_upstreams_head(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(QUEUE_KEEPALIVE_AFTER=5)
    client = await running.send(chat(stream=True))
    call = await upstream.call()
    await call.respond(response(b"{}", status="404 Not Found"))
    assert (await client.response()).status == 404


async def test_stream_gets_its_head_and_keepalives_while_upstream_is_silent(
    gate: StartGate, upstream: Upstream
) -> None:
    # On a busy machine, the request is sent to upstream before that, too.
    running = await gate(QUEUE_KEEPALIVE_AFTER=0.5, SSE_KEEPALIVE_INTERVAL=0.05)
    client = await running.send(chat(stream=True))
    call = await upstream.call()
    await call.read_rest()
    head = await client.head()
    assert (head.status, head["content-type"]) == (200, "text/event-stream")
    assert head["x-rustygate-attempts"] == "1"
    assert head["x-rustygate-queued-ms"] == "0"
    for _ in range(3):
        await client.expect_body(KEEPALIVE)
    call.send(EVENT_STREAM, chunk(b"data: 1\n\n"), chunk(b"data: [DONE]\n\n"), LAST_CHUNK)
    body = (await client.read_rest()).replace(KEEPALIVE, b"")
    assert body == b"data: 1\n\ndata: [DONE]\n\n"
    [line] = await running.settled()
    assert (line["outcome"], line["status"]) == ("ok", 200)


async def test_head_waits_for_the_time_in_the_queue_and_at_upstream_together(
    gate: StartGate, upstream: Upstream
) -> None:
    after_s = 1.0
    running = await gate(**{**EARLY, "QUEUE_KEEPALIVE_AFTER": after_s})
    holder = await take_slot(running, upstream)
    began = asyncio.get_running_loop().time()
    async with within(after_s + 0.5):
        client = await running.send(chat(stream=True))
        await running.wait_until(waiters=1)
        await asyncio.sleep(0.7 * after_s)
        await holder.respond(response())
        await upstream.call()
        await client.head()
    assert asyncio.get_running_loop().time() - began >= after_s


async def test_429_is_waited_out_after_an_early_head(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(QUEUE_KEEPALIVE_AFTER=0.05)
    client = await running.send(chat(stream=True))
    call = await upstream.call()
    await call.read_rest()
    await client.head()
    busy = response(
        error("rate_limit_exceeded"), "retry-after-ms: 30", status="429 Too Many Requests"
    )
    await call.respond(busy)
    again = await upstream.call()
    again.send(EVENT_STREAM, chunk(b"data: 1\n\n"), LAST_CHUNK)
    assert (await client.read_rest()).replace(KEEPALIVE, b"") == b"data: 1\n\n"
    [line] = await running.settled()
    assert (line["outcome"], line["attempts"]) == ("ok", 2)


@pytest.mark.parametrize(
    ("how", "code", "timeout_s"),
    [("close", "upstream_disconnected", 60), ("silence", "upstream_timeout", 1)],
)
async def test_failure_of_a_silent_upstream_is_an_error_event(
    gate: StartGate, upstream: Upstream, how: str, code: str, timeout_s: float
) -> None:
    running = await gate(QUEUE_KEEPALIVE_AFTER=0.05, UPSTREAM_READ_TIMEOUT=timeout_s)
    client = await running.send(chat(stream=True))
    call = await upstream.call()
    await call.read_rest()
    await client.head()
    if how == "close":
        call.close()
    text = (await client.read_until_cut()).replace(KEEPALIVE, b"")
    assert json.loads(text.removeprefix(b"data: "))["error"]["code"] == code
    [line] = await running.settled()
    assert (line["outcome"], line["status"], line["reason"]) == ("upstream_error", 200, code)
    assert len(upstream.calls) == 1


async def test_client_disconnect_while_upstream_is_silent_releases_everything(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(QUEUE_KEEPALIVE_AFTER=0.05)
    client = await running.send(chat(stream=True))
    call = await upstream.call()
    await client.head()
    client.disconnect()
    await call.ended()
    await running.wait_until(in_flight=0, held_bytes=0)
    assert (await running.settled())[0]["outcome"] == "client_left"


async def test_other_requests_get_no_keepalive(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(**EARLY)
    holder = await take_slot(running, upstream)
    plain = await running.send(chat())
    stream = await running.send(chat(stream=True))
    await stream.head()
    await stream.expect_body(KEEPALIVE)
    assert plain.wire.received == b""
    await holder.respond(response())
    await (await upstream.call()).respond(response(b"plain"))
    assert (await plain.response()).body == b"plain"


async def test_head_request_for_a_stream_gets_no_keepalive(
    gate: StartGate, upstream: Upstream
) -> None:
    """A response to HEAD has no body: the client would read a keepalive as the next response."""
    running = await gate(**EARLY)
    holder = await take_slot(running, upstream)
    client = await running.send(chat(stream=True).replace(b"POST", b"HEAD", 1))
    stream = await running.send(chat(stream=True))
    await stream.head()
    await stream.expect_body(KEEPALIVE)
    assert client.wire.received == b""
    await holder.respond(response())
    await (await upstream.call()).respond(response_head("X-Own: 1"))
    assert (await client.response(bodiless=True)).head["x-own"] == "1"


@pytest.mark.parametrize("target", ["/v1/chat/completions", "/v1/responses"])
@pytest.mark.parametrize(
    "failure",
    ["refusal", "error", "error as a stream", "compressed stream", "no stream", "no connection"],
)
async def test_error_after_an_early_head_is_sent_in_the_stream(
    gate: StartGate, upstream: Upstream, failure: str, target: str
) -> None:
    limit_s = 1 if failure == "refusal" else 30
    running = await gate(**{**EARLY, "RATE_LIMIT_TIMEOUT": limit_s}, UPSTREAM_RETRIES=0)
    holder = await take_slot(running, upstream)
    client = await running.send(post(b'{"stream": true}', target=target))
    await client.head()
    await client.expect_body(KEEPALIVE)
    code = "queue_timeout"
    if failure != "refusal":
        # On a new connection, so that its loss is final.
        await holder.respond(response(b"{}", "Connection: close"))
        call = await upstream.call()
        await call.read_rest()
        match failure:
            case "error":
                code = "model_not_found"
                call.send(response(error(code), status="404 Not Found"))
            case "error as a stream":
                code = "model_not_found"
                call.send(response(error(code), STREAM_TYPE, status="404 Not Found"))
            case "compressed stream":
                code = "null"
                event = gzip.compress(b"data: {}\n\n")
                call.send(response(event, STREAM_TYPE, "Content-Encoding: gzip"))
            case "no stream":
                code = "null"
                call.send(response(b"{}", "Content-Type: application/json"))
            case _:
                code = "upstream_disconnected"
                call.reset()
    text = (await client.read_until_cut()).replace(KEEPALIVE, b"").decode()
    expected = {"queue_timeout": "rate_limit_exceeded"}.get(code, code)
    payload = json.loads(text.partition("data: ")[2])
    assert json.dumps(payload["error"]["code"]).strip('"') == expected
    assert text.startswith("event: error" if target.endswith("responses") else "data: ")


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gzip"])
async def test_response_that_does_not_fit_an_early_head_is_charged_and_explained(
    gate: StartGate, upstream: Upstream, compressed: bool
) -> None:
    body = b'{"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}'
    running = await gate(QUEUE_KEEPALIVE_AFTER=0.05)
    client = await running.send(chat(stream=True))
    call = await upstream.call()
    await client.head()
    lines = ["Content-Type: application/json"]
    if compressed:
        body, lines = gzip.compress(body), [*lines, "Content-Encoding: gzip"]
    await call.respond(response(body, *lines))
    text = (await client.read_until_cut()).replace(KEEPALIVE, b"")
    error = json.loads(text.removeprefix(b"data: "))["error"]
    message = error.pop("message")
    assert error == {"type": "upstream_error", "param": None, "code": None}
    assert "status 200" in message
    assert "QUEUE_KEEPALIVE_AFTER" in message
    [line] = await running.settled()
    assert (line["outcome"], line["tokens_in"], line["tokens_out"]) == ("upstream_error", 3, 4)


async def test_late_early_response_ends_with_an_error_event_on_drain(
    gate: StartGate, upstream: Upstream
) -> None:
    """Upstream has not responded when DRAIN_TIMEOUT is over."""
    running = await gate(QUEUE_KEEPALIVE_AFTER=0.05, DRAIN_TIMEOUT=0.2)
    client = await running.send(chat(stream=True))
    await client.head()
    await client.expect_body(KEEPALIVE)
    call = await upstream.call()
    await running.daemon.drain()
    text = (await client.read_until_cut()).replace(KEEPALIVE, b"")
    assert json.loads(text.removeprefix(b"data: "))["error"]["code"] == "draining"
    await call.ended()
    [line] = await running.settled()
    assert (line["outcome"], line["reason"]) == ("aborted", "draining")


async def test_sdk_raises_an_error_sent_after_an_early_head(
    gate: StartGate, upstream: Upstream, async_client: Any
) -> None:
    running = await gate(**{**EARLY, "RATE_LIMIT_TIMEOUT": 1})
    await take_slot(running, upstream)
    client = async_client(running)
    stream = await client.chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": "Hello"}], stream=True
    )
    with pytest.raises(openai.APIError, match="deadline"):
        _ = [event async for event in stream]


async def test_client_disconnect_after_an_early_head_leaves_no_task(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(**EARLY)
    await take_slot(running, upstream)
    client = await running.send(chat(stream=True))
    await client.head()
    client.disconnect()
    await running.wait_until(waiters=0)
    assert (await running.settled())[0]["outcome"] == "client_left"
    assert len(asyncio.all_tasks()) < 20


@pytest.mark.parametrize("responds", [True, False], ids=["response", "no response"])
async def test_no_task_is_left_when_the_wait_ends_before_the_head_was_due(responds: bool) -> None:
    """Without a response, the client has left or the request was refused."""
    before = asyncio.all_tasks()
    settings = load({"OPENAI_API_KEY": "sk-x", "QUEUE_KEEPALIVE_AFTER": "30"})
    no_request: Any = None
    exchange = Exchange("a", "POST", "/v1/x")
    async with QueueKeepalive(no_request, exchange, settings, Lockstep()) as keepalive:
        keepalive.start()
        assert len(asyncio.all_tasks()) == len(before) + 1
        if responds:
            await keepalive.stop()
            assert asyncio.all_tasks() == before
    assert asyncio.all_tasks() == before
