"""Learned limits, tokens, deadlines and priorities over real sockets."""

import json
from itertools import pairwise
from time import monotonic

import pytest

from tests.conftest import StartGate
from tests.support.http import chat, get, post, request, response
from tests.support.rate_limits import error, rate_limit_headers, rate_limited, respond_once
from tests.support.upstream import Upstream

AUTO = {"RATE_LIMIT": "auto"}


async def test_requests_wait_for_a_learned_limit(gate: StartGate, upstream: Upstream) -> None:
    times: list[float] = []

    def reply(call: object) -> bytes:
        times.append(monotonic())
        return response(b"{}", *rate_limit_headers(600, 1 if len(times) == 1 else 0))

    upstream.reply = reply
    running = await gate(**AUTO)
    waits = [int((await running.request(chat())).head["x-rustygate-queued-ms"]) for _ in range(4)]
    assert waits[:2] == [0, 0]
    assert max(waits) < 5000
    assert min(later - earlier for earlier, later in pairwise(times[1:])) >= 0.099


async def test_limits_of_one_model_do_not_apply_to_another(
    gate: StartGate, upstream: Upstream
) -> None:
    upstream.reply = response(b"{}", *rate_limit_headers(1, 0))
    running = await gate(**AUTO)
    for model in "abcd":
        got = await running.request(post(b'{"model": "%s"}' % model.encode()))
        assert got.head["x-rustygate-queued-ms"] == "0"


async def test_new_model_gets_a_burst_until_its_first_response(
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


def request_of(tokens: int, *lines: str) -> bytes:
    """A request that costs a number of tokens."""
    body = {"model": "m", "messages": [], "max_tokens": tokens}
    return post(json.dumps(body).encode(), *lines)


def response_with_usage(tokens: int) -> bytes:
    usage = {"prompt_tokens": 0, "completion_tokens": tokens, "total_tokens": tokens}
    return response(json.dumps({"usage": usage}).encode(), "Content-Type: application/json")


async def test_tokens_are_settled_to_the_usage(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = response_with_usage(100)
    running = await gate(TOKENS_PER_MINUTE=6000)
    for _ in range(6):
        got = await running.request(request_of(5000))
        assert got.head["x-rustygate-queued-ms"] == "0" or len(upstream.calls) > 5
    line = (await running.settled(6))[0]
    assert (line["tokens_in"], line["tokens_out"]) == (0, 100)


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/v1/responses/resp_1"),
        ("GET", "/v1/batches/batch_1"),
        ("DELETE", "/v1/responses/resp_1"),
        ("POST", "/v1/batches/batch_1/cancel"),
        ("POST", "/v1/chat/completions/chatcmpl-1?metadata"),
    ],
)
async def test_reads_and_changes_settle_and_count_no_tokens(
    gate: StartGate, upstream: Upstream, method: str, target: str
) -> None:
    """The usage that they return is that of work which was settled before."""
    upstream.reply = response_with_usage(2_000_000)
    running = await gate(TOKENS_PER_MINUTE=6000)
    assert (await running.request(request(method, target))).status == 200
    [line] = await running.settled()
    assert (line["tokens_in"], line["tokens_out"]) == (None, None)
    assert (await running.request(request_of(5000))).head["x-rustygate-queued-ms"] == "0"


async def test_counting_tokens_takes_none(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = response(b'{"input_tokens": 5000}', "Content-Type: application/json")
    running = await gate(TOKENS_PER_MINUTE=6000)
    target = "/v1/responses/input_tokens"
    for _ in range(2):
        got = await running.request(post(b'{"input": "%b"}' % (b"x" * 20_000), target=target))
        assert got.head["x-rustygate-queued-ms"] == "0"
    assert [line["tokens_in"] for line in await running.settled(2)] == [None, None]


async def test_requests_wait_for_tokens_that_were_used(
    gate: StartGate, upstream: Upstream
) -> None:
    upstream.reply = response_with_usage(5950)
    running = await gate(TOKENS_PER_MINUTE=6000)
    began = monotonic()
    for tokens in (1, 70):
        assert (await running.request(request_of(tokens))).status == 200
    assert monotonic() - began >= 0.15


async def test_refused_attempt_gives_its_tokens_back(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = respond_once(
        rate_limited(error("rate_limit_exceeded")), response_with_usage(100)
    )
    got = await (await gate(TOKENS_PER_MINUTE=6000)).request(request_of(5000))
    # Without its 5000 tokens, it would wait for 40 s, and so be refused.
    assert (got.status, got.head["x-rustygate-attempts"]) == (200, "2")


async def test_failed_response_gives_its_tokens_back(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = respond_once(response(error(), status="400 Bad Request"))
    running = await gate(TOKENS_PER_MINUTE=6000)
    assert (await running.request(request_of(6000))).status == 400
    assert (await running.request(request_of(6000))).head["x-rustygate-queued-ms"] == "0"


async def test_request_above_the_token_limit_is_refused(
    gate: StartGate, upstream: Upstream
) -> None:
    got = await (await gate(TOKENS_PER_MINUTE=6000)).request(request_of(6001))
    assert (got.status, got.reason) == (429, "request_too_large")
    assert (got.error["type"], got.error["code"]) == ("tokens", "rate_limit_exceeded")
    assert got.head["x-should-retry"] == "false"
    assert upstream.calls == []


async def test_refusal_for_lack_of_tokens_has_the_type_tokens(
    gate: StartGate, upstream: Upstream
) -> None:
    upstream.reply = response_with_usage(6000)
    running = await gate(TOKENS_PER_MINUTE=6000, RATE_LIMIT_TIMEOUT=1)
    await running.request(request_of(6000))
    got = await running.request(request_of(6000))
    assert (got.reason, got.error["type"]) == ("queue_timeout", "tokens")
    assert 50 <= int(got.head["retry-after"]) <= 61


@pytest.mark.parametrize("header", ["x-stainless-read-timeout", "x-stainless-timeout"])
async def test_clients_own_timeout_is_its_deadline(
    gate: StartGate, upstream: Upstream, header: str
) -> None:
    upstream.reply = response()
    running = await gate(RATE_LIMIT="0.01", RATE_LIMIT_BURST=1, RATE_LIMIT_TIMEOUT=1000)
    await running.request(chat())
    got = await running.request(chat(f"{header}: 25"))
    assert (got.status, got.reason) == (429, "queue_timeout")
    assert 50_000 <= int(got.head["retry-after-ms"]) <= 100_000


@pytest.mark.parametrize("value", ["0", "-1", "nan", "soon", "\u0663", "1e999", ""])
async def test_invalid_client_timeout_is_ignored(
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
    # The first was at the head before the others arrived. Batch, which was idle like the other
    # classes, has its first turn early, but no second one before the interactive request.
    assert order[0] == "default"
    assert "interactive" in order[1:3]


async def test_unknown_priority_class_is_refused(gate: StartGate, upstream: Upstream) -> None:
    got = await (await gate()).request(get("/v1/models", "X-RustyGate-Priority: urgent"))
    assert (got.status, got.reason) == (400, "bad_request")
    assert "must be interactive, default or batch, not 'urgent'" in got.error["message"]


async def test_limits_of_one_endpoint_apply_to_no_other(
    gate: StartGate, upstream: Upstream
) -> None:
    upstream.reply = lambda call: response(
        b"{}", *(rate_limit_headers(5, 0) if call.target == "/v1/images/edits" else ())
    )
    running = await gate(**AUTO, RATE_LIMIT_TIMEOUT=5)
    edit = request(
        "POST", "/v1/images/edits", "Content-Type: multipart/form-data; boundary=x", body=b"--x"
    )
    await running.request(edit)
    others = [
        get("/v1/models"),
        get("/v1/batches/x"),
        request("POST", "/v1/audio/transcriptions", "Content-Type: text/plain", body=b"x"),
        request("POST", "/v1/threads/x/runs", body=b"{}"),
    ]
    for other in others:
        assert (await running.request(other)).head["x-rustygate-queued-ms"] == "0"
    got = await running.request(edit)
    assert (got.status, got.reason) == (429, "queue_timeout")
    assert 6 <= int(got.head["retry-after"]) <= 12
    assert "Limit 5 requests/min reached for POST /v1/images/edits" in got.error["message"]


async def test_429_to_a_read_delays_only_its_endpoint(gate: StartGate, upstream: Upstream) -> None:
    refusal = rate_limited(error("rate_limit_exceeded"), wait="Retry-After: 40")
    upstream.reply = respond_once(refusal)
    running = await gate()
    assert (await running.request(get("/v1/batches/a"))).status == 429
    assert (await running.request(get("/v1/batches/b"))).reason == "queue_timeout"
    for other in (get("/v1/models"), get("/v1/batches"), chat()):
        assert (await running.request(other)).head["x-rustygate-queued-ms"] == "0"


async def test_reads_do_not_wait_for_the_limits_of_a_model(
    gate: StartGate, upstream: Upstream
) -> None:
    upstream.reply = rate_limited(error("rate_limit_exceeded"), wait="Retry-After: 40")
    running = await gate()
    body = b'{"model": "m"}'
    assert (await running.request(post(body))).reason is None
    assert (await running.request(post(body))).reason == "queue_timeout"
    upstream.reply = response()
    read = request("GET", "/v1/responses/x", "Content-Type: application/json", body=body)
    assert (await running.request(read)).head["x-rustygate-queued-ms"] == "0"
