"""Tokens of responses through the gate: reported or estimated, settled, logged and counted."""

import asyncio
import gzip
import json
from typing import Any

import pytest

from rustygate.core.output_history import DEFAULT_ESTIMATE, MIN_SAMPLES
from tests.conftest import StartGate
from tests.support.gate import Gate, one_process
from tests.support.http import EVENT_STREAM, LAST_CHUNK, chunk, get, post, response
from tests.support.metrics import Scrape
from tests.support.streams import open_stream
from tests.support.texts import TEXTS
from tests.support.upstream import Upstream
from tests.support.waiting import within

JSON = "Content-Type: application/json"
DONE = b"data: [DONE]\n\n"
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":8}}\n\n'
RATE_LIMIT = (
    b'{"error":{"message":"try again in 0.3s","type":"requests","code":"rate_limit_exceeded"}}'
)


def delta(text: str) -> bytes:
    choices = [{"index": 0, "delta": {"content": text}, "finish_reason": None}]
    return b"data: %b\n\n" % json.dumps({"id": "c", "choices": choices}).encode()


def typed_delta(kind: str, text: str) -> bytes:
    data = {"type": kind, "sequence_number": 1, "item_id": "i", "delta": text}
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode()


def in_pieces(text: str, size: int = 7) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def request(target: str, text: str = "x" * 400, **fields: Any) -> bytes:
    """A request with an input of 100 tokens."""
    if target.endswith("chat/completions"):
        fields["messages"] = [{"role": "user", "content": text}]
    else:
        fields["prompt" if target.endswith("completions") else "input"] = text
    return post(json.dumps({"model": "gpt-5", **fields}).encode(), target=target)


def stream(*events: bytes) -> bytes:
    return EVENT_STREAM + b"".join(map(chunk, events)) + LAST_CHUNK


async def settle(gate: Gate, data: bytes) -> dict[str, Any]:
    """Send a request, read its response, and return its log line."""
    before = len(gate.log.exchanges)
    await gate.request(data)
    return (await gate.settled(before + 1))[-1]


CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"


@pytest.mark.parametrize("coding", ["", "gzip"])
async def test_usage_before_the_choices_is_settled_and_logged(
    gate: StartGate, upstream: Upstream, coding: str
) -> None:
    usage = {
        "prompt_tokens": 90,
        "completion_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 64},
    }
    choices = [{"message": {"content": "x" * 20_000}}]
    body = json.dumps({"usage": usage, "choices": choices, "metadata": {"a": "b" * 9000}}).encode()
    body, lines = (
        (gzip.compress(body), [JSON, "Content-Encoding: gzip"]) if coding else (body, [JSON])
    )
    upstream.reply = response(body, *lines)
    running = await gate(TOKENS_PER_MINUTE=6000)
    line = await settle(running, request(CHAT, max_tokens=5500))
    assert (line["tokens_in"], line["tokens_cached"], line["tokens_out"]) == (90, 64, 10)
    assert "tokens_estimated" not in line
    # The reservation was settled, or this would wait for most of a minute.
    got = await running.request(request(CHAT, max_tokens=5000))
    assert got.head["x-rustygate-queued-ms"] == "0"


@pytest.mark.parametrize(("text", "tokens"), TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize(
    "kind", ["output_text", "reasoning_summary_text", "function_call_arguments"]
)
async def test_streams_without_usage_are_estimated(
    gate: StartGate, upstream: Upstream, kind: str, text: str, tokens: int
) -> None:
    events = [typed_delta(f"response.{kind}.delta", piece) for piece in in_pieces(text)]
    upstream.reply = stream(*events)
    line = await settle(await gate(), request(RESPONSES, stream=True))
    assert line["tokens_estimated"] is True
    assert line["tokens_in"] == 100
    assert 0.85 * tokens <= line["tokens_out"] <= 1.15 * tokens


async def test_estimate_is_settled_and_counted(gate: StartGate, upstream: Upstream) -> None:
    """40,000 tokens do not pass a budget of 10,000."""
    upstream.reply = stream(*[delta(" word") for _ in range(4000)], DONE)
    running = await gate(TOKENS_PER_MINUTE=10_000, RATE_LIMIT_TIMEOUT=1)
    statuses = [(await running.request(request(CHAT, stream=True))).status for _ in range(3)]
    assert statuses == [200, 200, 429]
    scrape = await Scrape.of(running)
    assert scrape.sum("rustygate_tokens_total", kind="input_estimated") == 200
    output = scrape.sum("rustygate_tokens_total", kind="output_estimated")
    assert output == pytest.approx(8000, rel=0.02)
    assert scrape.labels("rustygate_tokens_total", "kind") == {
        "input_estimated",
        "output_estimated",
    }


async def test_cached_and_reasoning_tokens_are_counted(
    gate: StartGate, upstream: Upstream
) -> None:
    usage = {
        "input_tokens": 90,
        "output_tokens": 8,
        "input_tokens_details": {"cached_tokens": 64},
        "output_tokens_details": {"reasoning_tokens": 5},
    }
    upstream.reply = response(json.dumps({"usage": usage}).encode(), JSON)
    running = await gate()
    await settle(running, request(RESPONSES))
    scrape = await Scrape.of(running)
    counts = {
        kind: scrape.sum("rustygate_tokens_total", kind=kind)
        for kind in ("input", "cached", "output", "reasoning")
    }
    assert counts == {"input": 90, "cached": 64, "output": 8, "reasoning": 5}


@pytest.mark.parametrize(
    ("target", "body"),
    [
        (CHAT, {"choices": [{"message": {"content": TEXTS["English"][0]}}]}),
        (
            RESPONSES,
            {"output": [{"content": [{"type": "output_text", "text": TEXTS["English"][0]}]}]},
        ),
        ("/v1/completions", {"choices": [{"text": TEXTS["English"][0]}]}),
    ],
)
async def test_plain_response_without_usage_is_estimated(
    gate: StartGate, upstream: Upstream, target: str, body: Any
) -> None:
    upstream.reply = response(json.dumps(body).encode(), JSON)
    line = await settle(await gate(), request(target))
    assert (line["tokens_in"], line["tokens_estimated"]) == (100, True)
    assert line["tokens_out"] == pytest.approx(152, rel=0.1)


async def test_response_of_another_endpoint_is_charged_its_input(
    gate: StartGate, upstream: Upstream
) -> None:
    upstream.reply = response(b'{"data": [{"embedding": [0.5]}]}', JSON)
    line = await settle(await gate(), request("/v1/embeddings"))
    counts = line["tokens_in"], line["tokens_out"], line["tokens_estimated"]
    assert counts == (100, 0, True)


@pytest.mark.parametrize(
    "reply",
    [
        response(b'{"status": "queued", "output": [], "usage": null}', JSON),
        response(b'{"error": {}}', JSON, status="400 Bad Request"),
        response(b"", status="302 Found"),
        stream(b'data: {"error": {"code": "rate_limit_exceeded"}}\n\n'),
    ],
    ids=["in the background", "error", "redirect", "error event"],
)
async def test_nothing_is_estimated_where_no_output_can_be_known(
    gate: StartGate, upstream: Upstream, reply: bytes
) -> None:
    upstream.reply = reply
    line = await settle(await gate(), request(RESPONSES))
    assert (line["tokens_in"], line["tokens_out"]) == (None, None)
    assert "tokens_estimated" not in line


async def test_usage_replaces_the_estimate_of_a_stream(
    gate: StartGate, upstream: Upstream
) -> None:
    upstream.reply = stream(*[delta(" word")] * 50, USAGE, DONE)
    line = await settle(await gate(), request(CHAT, stream=True))
    assert (line["tokens_in"], line["tokens_out"], line["outcome"]) == (7, 8, "ok")
    assert "tokens_estimated" not in line


async def test_output_after_a_usage_without_one_is_estimated(
    gate: StartGate, upstream: Upstream
) -> None:
    first = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":0}}\n\n'
    upstream.reply = stream(first, *[delta(" word")] * 50, DONE)
    line = await settle(await gate(), request(CHAT, stream=True))
    assert (line["tokens_in"], line["tokens_out"]) == (7, 50)
    assert line["tokens_estimated"] is True


async def test_usage_after_one_without_output_counts(gate: StartGate, upstream: Upstream) -> None:
    first = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":0}}\n\n'
    upstream.reply = stream(first, *[delta(" word")] * 50, USAGE, DONE)
    line = await settle(await gate(), request(CHAT, stream=True))
    assert (line["tokens_in"], line["tokens_out"]) == (7, 8)
    assert "tokens_estimated" not in line


async def test_what_passed_of_a_cut_stream_is_counted(gate: StartGate, upstream: Upstream) -> None:
    running = await gate()
    client, call = await open_stream(
        running, upstream, delta(" word") * 30, request=request(CHAT, stream=True)
    )
    call.close()
    await client.read_until_cut()
    [line] = await running.settled()
    assert (line["outcome"], line["tokens_in"], line["tokens_out"]) == ("aborted", 100, 30)
    assert line["tokens_estimated"] is True


# Clients that leave.


async def test_what_passed_to_a_client_that_leaves_is_counted(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(TOKENS_PER_MINUTE=6000)
    client, call = await open_stream(
        running, upstream, delta(" word") * 30, request=request(CHAT, stream=True, max_tokens=5800)
    )
    client.disconnect()
    await running.wait_until(in_flight=0)
    await call.ended()
    [line] = await running.settled()
    assert (line["outcome"], line["tokens_in"], line["tokens_out"]) == ("client_left", 100, 30)
    upstream.reply = response()
    got = await running.request(request(CHAT, max_tokens=5000))
    assert got.head["x-rustygate-queued-ms"] == "0"


@one_process
async def test_partial_streams_are_no_samples_of_typical_output(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate()
    history = running.daemon._plane._proxy._history
    for number in range(MIN_SAMPLES):
        client, call = await open_stream(
            running, upstream, delta(" word"), request=request(CHAT, stream=True)
        )
        client.disconnect()
        await call.ended()
        await running.settled(number + 1)
    assert history.estimate("127.0.0.1", "gpt-5") == DEFAULT_ESTIMATE
    upstream.reply = stream(*[delta(" word")] * 5, DONE)
    for _ in range(MIN_SAMPLES):
        await running.request(request(CHAT, stream=True))
    assert history.estimate("127.0.0.1", "gpt-5") == 5


FINAL_EVENTS = {
    "DONE": (CHAT, DONE),
    "completed": (
        RESPONSES,
        b'event: response.completed\ndata: {"type":"response.completed"}\n\n',
    ),
    "incomplete": (RESPONSES, b'data: {"type":"response.incomplete","response":{}}\n\n'),
}


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize(("target", "final"), FINAL_EVENTS.values(), ids=FINAL_EVENTS)
async def test_client_that_leaves_after_the_final_event_had_it_all(
    gate: StartGate, upstream: Upstream, target: str, final: bytes, how: str
) -> None:
    """Although upstream has not ended its response."""
    running = await gate()
    first = typed_delta("response.output_text.delta", " word") + USAGE + final
    client, call = await open_stream(
        running, upstream, first, request=request(target, stream=True)
    )
    client.wire.close() if how == "close" else client.wire.reset()
    await call.ended()
    [line] = await running.settled()
    assert (line["outcome"], line["tokens_out"]) == ("ok", 8)


@pytest.mark.parametrize(
    "last", [DONE[:-1], b'data: {"choices":[]}\n\n', b": [DONE]\n\n"], ids=repr
)
async def test_client_that_leaves_before_the_final_event_has_left(
    gate: StartGate, upstream: Upstream, last: bytes
) -> None:
    running = await gate()
    client, call = await open_stream(
        running, upstream, delta(" word") + last, request=request(CHAT, stream=True)
    )
    client.disconnect()
    await call.ended()
    assert (await running.settled())[0]["outcome"] == "client_left"


# Errors in a successful stream.


@pytest.mark.parametrize(
    ("target", "events"),
    [
        (CHAT, [b"data: " + RATE_LIMIT + b"\n\n"]),
        (CHAT, [delta("word"), b"data: " + RATE_LIMIT + b"\n\n", DONE]),
        (RESPONSES, [b"event: error\ndata: " + RATE_LIMIT + b"\n\n"]),
        (
            RESPONSES,
            [b'data: {"type":"response.failed","response":' + RATE_LIMIT + b"}\n\n"],
        ),
    ],
    ids=["chat", "chat, after text", "error event", "failed response"],
)
@pytest.mark.parametrize("at_once", [True, False])
async def test_rate_limit_in_a_stream_pauses_its_lane(
    gate: StartGate, upstream: Upstream, target: str, events: list[bytes], at_once: bool
) -> None:
    running = await gate()
    client = await running.send(request(target, stream=True))
    call = await upstream.call()
    sent = asyncio.get_running_loop().time()
    if at_once:
        await call.respond(EVENT_STREAM, *map(chunk, events), LAST_CHUNK)
    else:
        call.send(EVENT_STREAM)
        await client.head()
        await call.respond(*map(chunk, events), LAST_CHUNK)
    if at_once:
        await client.response()
    else:
        await client.read_rest()
    [line] = await running.settled()
    assert (line["outcome"], line["status"]) == ("upstream_error", 200)
    upstream.reply = response()
    async with within(1):
        await running.request(request(target))
    assert asyncio.get_running_loop().time() - sent > 0.29


async def test_other_errors_in_a_stream_pause_nothing(gate: StartGate, upstream: Upstream) -> None:
    error = b'data: {"error":{"message":"broke","type":"server_error","code":null}}\n\n'
    upstream.reply = stream(delta("word"), error)
    running = await gate()
    line = await settle(running, request(CHAT, stream=True))
    assert (line["outcome"], line["tokens_out"]) == ("upstream_error", 1)
    got = await running.request(request(CHAT))
    assert got.head["x-rustygate-queued-ms"] == "0"


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        ("200 OK", "ok"),
        ("399 Odd", "ok"),
        ("400 Bad Request", "upstream_error"),
        ("500 Internal Server Error", "upstream_error"),
    ],
)
async def test_outcome_follows_from_upstreams_status(
    gate: StartGate, upstream: Upstream, status: str, outcome: str
) -> None:
    upstream.reply = response(b"{}", status=status)
    running = await gate()
    await running.request(get())
    assert (await running.settled())[0]["outcome"] == outcome


ERROR_EVENT = b'data: {"error": {"code": "server_error", "message": "failed"}}\n\n'


@pytest.mark.parametrize(
    "reply",
    [
        response(b'{"error": {}}', status="400 Bad Request"),
        EVENT_STREAM + chunk(ERROR_EVENT) + LAST_CHUNK,
    ],
    ids=["status", "event"],
)
async def test_error_costs_no_tokens(gate: StartGate, upstream: Upstream, reply: bytes) -> None:
    upstream.reply = reply
    running = await gate(TOKENS_PER_MINUTE=1000, RATE_LIMIT_TIMEOUT=1)
    for _ in range(3):
        got = await running.request(post(b'{"model": "m", "max_tokens": 900}'))
        assert (got.reason, got.head["x-rustygate-queued-ms"]) == (None, "0")
