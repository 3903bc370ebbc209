"""What the gate answers by itself: as bytes, and as the official SDK raises it."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import ceil
from typing import Any

import openai
import pytest

from tests.conftest import StartGate
from tests.support.client import Client
from tests.support.gate import Gate, Log
from tests.support.http import (
    CHAT,
    CLIENT_KEY,
    EVENT_STREAM,
    LAST_CHUNK,
    UPSTREAM_KEY,
    Response,
    chat,
    chunk,
    get,
    post,
    request,
    response,
    response_head,
)
from tests.support.upstream import Upstream
from tests.support.waiting import soon, until
from tests.support.wire import Cut

Prepare = Callable[[StartGate, Upstream], Awaitable[Gate]]
Happen = Callable[[Gate, Upstream], Awaitable[None]]

# Silence that is too long, and a wait too.
SHORT = 0.1

JSON = "Content-Type: application/json"
MULTIPART = "Content-Type: multipart/form-data; boundary=x"


# How refusals come about: a gate that will refuse the next request, and what happens then.


def started(**settings: object) -> Prepare:
    async def prepare(gate: StartGate, upstream: Upstream) -> Gate:
        return await gate(**settings)

    return prepare


async def spent(gate: StartGate, upstream: Upstream) -> Gate:
    """No unit is left, for longer than a request may wait."""
    upstream.reply = response()
    running = await gate(RATE_LIMIT=0.001, RATE_LIMIT_BURST=1)
    await running.request(get())
    return running


def busy(**settings: object) -> Prepare:
    """The only slot is taken."""

    async def prepare(gate: StartGate, upstream: Upstream) -> Gate:
        running = await gate(CONCURRENCY_LIMIT=1, **settings)
        await running.send(get())
        await upstream.call()
        return running

    return prepare


async def crowded(gate: StartGate, upstream: Upstream) -> Gate:
    """The only slot is taken, and the only place in the queue too."""
    running = await busy(QUEUE_LIMIT=1)(gate, upstream)
    await running.send(get())
    await running.wait_until(waiters=1)
    return running


async def deserted(gate: StartGate, upstream: Upstream) -> Gate:
    """Nobody listens upstream."""
    running = await gate(UPSTREAM_RETRIES=0)
    await upstream.stop()
    return running


async def nothing(running: Gate, upstream: Upstream) -> None:
    return


async def drains(running: Gate, upstream: Upstream) -> None:
    await running.wait_until(waiters=1)
    await running.daemon.drain()


async def breaks(running: Gate, upstream: Upstream) -> None:
    call = await upstream.call()
    await call.read_rest()
    call.reset()


@dataclass(frozen=True, slots=True)
class Case:
    """A refusal: how it comes about, what it says, and what the SDK raises."""

    reason: str
    prepare: Prepare
    status: int
    kind: str
    code: str
    message: str
    raises: type[openai.APIStatusError]
    retry: str | None = None
    happen: Happen = nothing
    outcome: str = "refused"


CASES = {
    "queue_timeout, early": Case(
        "queue_timeout",
        spent,
        429,
        "requests",
        "rate_limit_exceeded",
        r"^Limit 0\.06 requests/min reached; 0 requests are ahead, and this request may wait only "
        r"[13]0\.0 s; try again in (9\d\d|1000) s\.$",
        openai.RateLimitError,
        "true",
    ),
    "queue_timeout, late": Case(
        "queue_timeout",
        busy(RATE_LIMIT_TIMEOUT=SHORT),
        429,
        "requests",
        "rate_limit_exceeded",
        r"^Not admitted before its deadline\. Limit 1 request in flight reached; "
        r"0 other requests are waiting; try again in 1 s\.$",
        openai.RateLimitError,
        "true",
    ),
    "queue_full": Case(
        "queue_full",
        crowded,
        429,
        "requests",
        "rate_limit_exceeded",
        r"^The queue is full \(1 request is waiting\); try again in 1 s\.$",
        openai.RateLimitError,
        "true",
    ),
    "draining": Case(
        "draining",
        busy(DRAIN_TIMEOUT=0),
        503,
        "service_unavailable_error",
        "draining",
        r"^The gate is shutting down; try again in 1 s\.$",
        openai.InternalServerError,
        "true",
        drains,
    ),
    "upstream_unreachable": Case(
        "upstream_unreachable",
        deserted,
        502,
        "upstream_error",
        "upstream_unreachable",
        r"connection refused",
        openai.InternalServerError,
        "true",
        outcome="upstream_error",
    ),
    "upstream_disconnected": Case(
        "upstream_disconnected",
        started(UPSTREAM_RETRIES=0),
        502,
        "upstream_error",
        "upstream_disconnected",
        r"^Upstream closed the connection without responding\.$",
        openai.InternalServerError,
        "true",
        breaks,
        "upstream_error",
    ),
    "upstream_timeout": Case(
        "upstream_timeout",
        started(UPSTREAM_READ_TIMEOUT=SHORT),
        504,
        "upstream_error",
        "upstream_timeout",
        rf"^Upstream sent nothing for {SHORT} s; raise UPSTREAM_READ_TIMEOUT if it needs longer\.$",
        openai.InternalServerError,
        "false",
        outcome="upstream_error",
    ),
    "body_too_large": Case(
        "body_too_large",
        started(MAX_BODY_SIZE=10),
        413,
        "invalid_request_error",
        "body_too_large",
        r"has \d\d+ bytes .* at most 10 ",
        openai.APIStatusError,
    ),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
busy_cases = pytest.mark.parametrize(
    "case", [case for case in CASES.values() if case.status == 429], ids=lambda case: case.message
)


def check_refusal(got: Response, reason: str, status: int, kind: str, code: str) -> None:
    """It has the contract's form, and tells no key."""
    assert (got.status, got.reason) == (status, reason)
    assert got.head["content-type"] == "application/json"
    assert got.json.keys() == {"error"}
    assert got.error.keys() == {"message", "type", "param", "code"}
    assert (got.error["type"], got.error["code"], got.error["param"]) == (kind, code, None)
    everything = got.head.raw + got.body
    assert CLIENT_KEY.encode() not in everything
    assert UPSTREAM_KEY.encode() not in everything


async def refused(gate: StartGate, upstream: Upstream, case: Case) -> tuple[Client, Response]:
    """A client whose chat was refused, and the refusal."""
    running = await case.prepare(gate, upstream)
    client = await running.send(chat())
    await case.happen(running, upstream)
    return client, await client.response()


# As bytes.


@every_case
async def test_refusal_is_told_in_openai_s_form(
    gate: StartGate, upstream: Upstream, case: Case
) -> None:
    _, got = await refused(gate, upstream, case)
    check_refusal(got, case.reason, case.status, case.kind, case.code)
    assert re.search(case.message, got.error["message"])
    assert got.head.all("x-should-retry") == ([case.retry] if case.retry else [])
    assert ("retry-after-ms" in got.head) == (case.status == 429)
    assert ("retry-after" in got.head) == (case.status in {429, 503})


@every_case
async def test_refusal_stands_in_the_log(
    gate: StartGate, upstream: Upstream, log: Log, case: Case
) -> None:
    _, got = await refused(gate, upstream, case)
    await until(lambda: case.status in [line["status"] for line in log.exchanges])
    [line] = [line for line in log.exchanges if line["status"] == case.status]
    assert (line["reason"], line["outcome"]) == (case.reason, case.outcome)
    assert got.head["x-rustygate-attempts"] == str(line["attempts"])


@busy_cases
async def test_busy_gate_says_when_to_come_back(
    gate: StartGate, upstream: Upstream, case: Case
) -> None:
    """In whole seconds rounded up, and in milliseconds; never at once."""
    _, got = await refused(gate, upstream, case)
    milliseconds = int(got.head["retry-after-ms"])
    assert milliseconds > 0
    assert int(got.head["retry-after"]) == ceil(milliseconds / 1000)


async def test_time_to_come_back_is_when_the_budget_has_room(
    gate: StartGate, upstream: Upstream
) -> None:
    _, got = await refused(gate, upstream, CASES["queue_timeout, early"])
    assert 990_000 < int(got.head["retry-after-ms"]) <= 1_000_000


@every_case
async def test_connection_serves_on_unless_it_is_closed(
    gate: StartGate, upstream: Upstream, case: Case
) -> None:
    client, got = await refused(gate, upstream, case)
    if case.reason in {"body_too_large", "draining"}:
        assert got.head["connection"] == "close"
        assert await client.ended() == "closed"
    else:
        assert "connection" not in got.head
        assert (await client.request(get("/health"))).status == 200


async def test_draining_gate_refuses_who_is_still_connected(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate()
    client = await running.connect()
    await client.request(get("/health"))
    await running.daemon.drain()
    got = await client.request(chat())
    check_refusal(got, "draining", 503, "service_unavailable_error", "draining")
    assert (got.head["retry-after"], got.head["x-should-retry"]) == ("1", "true")
    assert await client.ended() == "closed"
    assert upstream.calls == []


TOO_LARGE = {
    "announced": (request("POST", CHAT, JSON, "Content-Length: 11"), b"x" * 11, 11),
    "announced, multipart": (
        request("POST", "/v1/files", MULTIPART, "Content-Length: 11"),
        b"x" * 11,
        11,
    ),
    "announced, and asked for": (
        request("POST", CHAT, JSON, "Content-Length: 11", "Expect: 100-continue"),
        b"x" * 11,
        11,
    ),
    "growing": (
        request("POST", CHAT, JSON, "Transfer-Encoding: chunked") + chunk(b"x" * 12),
        LAST_CHUNK,
        12,
    ),
}


@pytest.mark.parametrize(("sent", "rest", "size"), TOO_LARGE.values(), ids=TOO_LARGE)
async def test_body_that_is_too_large_is_refused_before_its_end(
    gate: StartGate, upstream: Upstream, sent: bytes, rest: bytes, size: int
) -> None:
    running = await gate(MAX_BODY_SIZE=10)
    client = await running.send(sent)
    got = await client.response()
    check_refusal(got, "body_too_large", 413, "invalid_request_error", "body_too_large")
    assert f"has {size} bytes" in got.error["message"]
    assert got.head["connection"] == "close"
    client.send(rest)
    assert await client.ended() == "closed"
    assert upstream.calls == []


@pytest.mark.parametrize(
    ("sent", "settings"),
    [
        (request("POST", "/v1/files", MULTIPART, "Transfer-Encoding: chunked"), {}),
        (request("POST", CHAT, JSON, "Transfer-Encoding: chunked"), {"MAX_BUFFERED_BODY": 2}),
    ],
    ids=["multipart", "large"],
)
async def test_upload_that_grows_too_large_is_refused_and_never_ended(
    gate: StartGate, upstream: Upstream, sent: bytes, settings: dict[str, int]
) -> None:
    running = await gate(MAX_BODY_SIZE=10, **settings)
    client = await running.send(sent, chunk(b"123456"))
    call = await upstream.call()
    await call.expect_body(b"123456")
    client.send(chunk(b"789012"))
    got = await client.response()
    check_refusal(got, "body_too_large", 413, "invalid_request_error", "body_too_large")
    with pytest.raises(Cut):
        await call.read_rest()
    client.send(LAST_CHUNK)
    assert await client.ended() == "closed"


async def test_body_of_just_the_size_passes(gate: StartGate, upstream: Upstream) -> None:
    upstream.reply = response()
    running = await gate(MAX_BODY_SIZE=10)
    assert (await running.request(post(b"x" * 10))).status == 200
    head = request("POST", CHAT, "Transfer-Encoding: chunked")
    assert (await running.request(head + chunk(b"x" * 10) + LAST_CHUNK)).status == 200


NOT_SERVED = {
    "dot segment": (get("/v1/../models"), 400, "bad_request", "dot segments"),
    "encoded dot segment": (get("/v1/%2e%2E/models"), 400, "bad_request", "dot segments"),
    "fragment": (get("/v1/models#x"), 400, "bad_request", "a URL must not contain"),
    "header": (
        get("/v1/models", "X-Odd: caf\xe9", f"X-Key: {CLIENT_KEY}"),
        400,
        "bad_request",
        "X-Odd",
    ),
    "path": (get(f"/v2/models?api_key={CLIENT_KEY}"), 404, "not_found", "/v2/models; .* /v1/"),
    "long path": (get("/v2/" + "x" * 9000), 404, "not_found", "at /v2/x{196}; "),
    "no path": (request("OPTIONS", "*"), 404, "not_found", r"at \*"),
    "other method of a page": (post(target="/health"), 404, "not_found", "/health"),
    "TRACE": (request("TRACE", "/v1/models"), 405, "method_not_allowed", "TRACE"),
    "CONNECT": (request("CONNECT", "/v1/models"), 405, "method_not_allowed", "CONNECT"),
}


@pytest.mark.parametrize(
    ("sent", "status", "reason", "message"), NOT_SERVED.values(), ids=NOT_SERVED
)
async def test_request_that_is_not_forwarded_is_told_why(
    gate: StartGate, upstream: Upstream, sent: bytes, status: int, reason: str, message: str
) -> None:
    running = await gate()
    client = await running.connect()
    got = await client.request(sent)
    check_refusal(got, reason, status, "invalid_request_error", reason)
    assert re.search(message, got.error["message"])
    assert (await client.request(get("/health"))).status == 200
    assert upstream.calls == []
    assert (await running.settled())[0]["outcome"] == "refused"


async def test_refusal_of_a_head_request_has_no_body(gate: StartGate) -> None:
    client = await (await gate()).connect()
    got = await client.request(request("HEAD", "/v2/models"))
    assert (got.status, got.reason, got.body) == (404, "not_found", b"")
    assert (await client.request(get("/health"))).body == b"OK"


NOT_HTTP = {
    "a word": b"nonsense\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n",
    "no colon": get("/v1/models", CLIENT_KEY),
    "two lengths": request("POST", CHAT, "Content-Length: 1", "Content-Length: 2"),
    "a long header": get("/v1/models", "X-Long: " + CLIENT_KEY * 2000),
    "a body without chunks": request("POST", CHAT, "Transfer-Encoding: gzip"),
}


@pytest.mark.parametrize("sent", NOT_HTTP.values(), ids=NOT_HTTP)
async def test_what_is_no_http_is_refused_repeats_nothing_and_is_closed(
    gate: StartGate, upstream: Upstream, sent: bytes
) -> None:
    client = await (await gate()).send(sent)
    got = await client.response()
    check_refusal(got, "bad_request", 400, "invalid_request_error", "bad_request")
    assert (got.head.start, got.head["connection"]) == ("HTTP/1.1 400 Bad Request", "close")
    assert await client.ended() == "closed"
    assert upstream.calls == []


@pytest.mark.parametrize("settings", [{}, {"MAX_BUFFERED_BODY": 2}], ids=["held", "streamed"])
async def test_body_whose_framing_breaks_is_refused_and_closed(
    gate: StartGate, upstream: Upstream, settings: dict[str, int]
) -> None:
    running = await gate(**settings)
    client = await running.send(request("POST", CHAT, "Transfer-Encoding: chunked"), chunk(b"123"))
    if settings:
        await (await upstream.call()).expect_body(b"123")
    else:
        await running.wait_until(held_bytes=3)
    client.send(f"{CLIENT_KEY}\r\n".encode())
    got = await client.response()
    check_refusal(got, "bad_request", 400, "invalid_request_error", "bad_request")
    assert await client.ended() == "closed"
    assert (await running.settled())[0]["outcome"] == "refused"


# Defects of the gate.


def fail(*arguments: object) -> None:
    raise RuntimeError("a defect")


async def test_defect_is_told_by_its_exchange_s_id_alone(
    gate: StartGate, upstream: Upstream, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await gate()
    client = await running.connect()
    with monkeypatch.context() as patch:
        patch.setattr("rustygate.proxy.read_request_facts", fail)
        got = await client.request(chat())
    check_refusal(got, "internal_error", 500, "server_error", "internal_error")
    assert "defect" not in got.error["message"]
    [line] = await running.settled()
    assert line["id"] in got.error["message"]
    assert (line["status"], line["outcome"]) == (500, "aborted")
    assert "Traceback" in log.errors[0]
    assert line["id"] in log.errors.pop()
    upstream.reply = response()
    assert (await client.request(chat())).status == 200


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_defect_in_the_middle_of_an_answer_cuts_it(
    gate: StartGate, upstream: Upstream, log: Log, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    def fail_at_the_second(_: object, passed: bytes) -> None:
        if b"2" in passed:
            fail()

    monkeypatch.setattr("rustygate.relay.stream.EventBoundary.feed", fail_at_the_second)
    running = await gate()
    client = await running.send(f"GET /v1/x HTTP/{version}\r\nHost: gate\r\n\r\n".encode())
    call = await upstream.call()
    call.send(EVENT_STREAM, chunk(b"data: 1\n\n"))
    await client.head()
    await client.expect_body(b"data: 1\n\n")
    call.send(chunk(b"data: 2\n\n"))
    assert await client.read_until_cut() == b""
    [line] = await running.settled()
    assert (line["outcome"], line["reason"]) == ("aborted", "internal_error")
    assert line["id"] in log.errors.pop()
    await call.ended()


# As the official SDK raises them.

Sdk = Callable[..., asyncio.Task[Any]]


@pytest.fixture
def sdk(
    request: pytest.FixtureRequest,
    async_client: Callable[..., openai.AsyncOpenAI],
    openai_client: Callable[..., openai.OpenAI],
) -> Sdk:
    """Asks for a chat in the background, through the asynchronous client or the blocking one."""
    blocking = getattr(request, "param", "async") == "blocking"

    async def ask(running: Gate, **options: Any) -> object:
        async with soon():
            if blocking:
                return await asyncio.to_thread(ask_for_chat, openai_client(running, **options))
            return await ask_for_chat(async_client(running, **options))

    return lambda running, **options: asyncio.create_task(ask(running, **options))


def ask_for_chat(client: Any) -> Any:
    """A chat completion of a blocking client; of an asynchronous one, the promise of it."""
    messages = [{"role": "user", "content": "Hello!"}]
    return client.chat.completions.create(model="gpt-4o", messages=messages)


COMPLETION = response(b'{"id": "c", "choices": []}', JSON)


@every_case
@pytest.mark.parametrize("sdk", ["async", "blocking"], indirect=True)
async def test_refusal_is_raised(
    gate: StartGate, upstream: Upstream, sdk: Sdk, case: Case
) -> None:
    running = await case.prepare(gate, upstream)
    asked = sdk(running)
    await case.happen(running, upstream)
    with pytest.raises(case.raises) as caught:
        await asked
    error = caught.value
    assert type(error) is case.raises
    assert (error.status_code, error.type, error.code) == (case.status, case.kind, case.code)
    assert re.search(case.message, str(error))


@pytest.mark.parametrize(
    ("path", "raised", "reason"),
    [
        ("/v2", openai.NotFoundError, "not_found"),
        ("", openai.NotFoundError, "not_found"),
        ("/v1/%2e%2e", openai.BadRequestError, "bad_request"),
    ],
    ids=["other version", "no version", "dot segments"],
)
async def test_base_url_that_is_not_served_is_raised(
    gate: StartGate, sdk: Sdk, path: str, raised: type[openai.APIStatusError], reason: str
) -> None:
    running = await gate()
    with pytest.raises(raised) as caught:
        await sdk(running, base_url=f"{running.url}{path}", max_retries=2)
    assert caught.value.code == reason
    assert len(await running.settled()) == 1


async def test_large_upload_is_refused_rather_than_reset(
    gate: StartGate, async_client: Callable[..., openai.AsyncOpenAI]
) -> None:
    """The SDK sends all of its body before it reads the answer."""
    running = await gate(MAX_BODY_SIZE=1000)
    files = async_client(running, max_retries=2).files
    with pytest.raises(openai.APIStatusError) as caught:
        async with soon():
            await files.create(file=bytes(8 << 20), purpose="assistants")
    assert (caught.value.status_code, caught.value.code) == (413, "body_too_large")
    assert len(await running.settled()) == 1


async def test_defect_is_raised(
    gate: StartGate, sdk: Sdk, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rustygate.proxy.read_request_facts", fail)
    with pytest.raises(openai.InternalServerError) as caught:
        await sdk(await gate())
    assert (caught.value.status_code, caught.value.code) == (500, "internal_error")
    assert len(log.errors) == 1
    log.errors.clear()


# What makes the SDK try again, and what does not.


async def test_sdk_comes_back_when_it_was_told_to(
    gate: StartGate, upstream: Upstream, async_client: Callable[..., openai.AsyncOpenAI]
) -> None:
    upstream.reply = COMPLETION
    running = await gate(RATE_LIMIT=2, RATE_LIMIT_BURST=1, RATE_LIMIT_TIMEOUT=0.05)
    client = async_client(running, max_retries=1)
    for _ in range(2):
        await ask_for_chat(client)
    lines = await running.settled(3)
    assert [line["outcome"] for line in lines] == ["ok", "refused", "ok"]


async def test_sdk_comes_back_to_a_full_queue(
    gate: StartGate, upstream: Upstream, sdk: Sdk
) -> None:
    running = await gate(CONCURRENCY_LIMIT=1, QUEUE_LIMIT=0)
    holder = await running.send(get())
    held = await upstream.call()
    asked = sdk(running, max_retries=1)
    [line] = await running.settled()
    assert line["reason"] == "queue_full"
    upstream.reply = COMPLETION
    await held.respond(response())
    await holder.response()
    await asked


async def test_sdk_comes_back_to_a_restarted_gate(
    gate: StartGate, upstream: Upstream, sdk: Sdk
) -> None:
    running = await busy(DRAIN_TIMEOUT=0)(gate, upstream)
    asked = sdk(running, max_retries=1)
    await drains(running, upstream)
    upstream.reply = COMPLETION
    await gate(PORT=running.url.rpartition(":")[2])
    await asked


async def test_sdk_comes_back_after_a_break(gate: StartGate, upstream: Upstream, sdk: Sdk) -> None:
    running = await gate(UPSTREAM_RETRIES=0)
    asked = sdk(running, max_retries=1)
    await breaks(running, upstream)
    call = await upstream.call()
    await call.respond(COMPLETION)
    await asked
    assert [line["status"] for line in await running.settled(2)] == [502, 200]


@pytest.mark.parametrize("reason", ["upstream_timeout", "body_too_large"])
async def test_sdk_does_not_come_back(
    gate: StartGate, upstream: Upstream, sdk: Sdk, reason: str
) -> None:
    running = await CASES[reason].prepare(gate, upstream)
    with pytest.raises(CASES[reason].raises):
        await sdk(running, max_retries=2)
    assert len(await running.settled()) == 1
    assert len(upstream.calls) == (reason == "upstream_timeout")


# Answers that break off.

CHAT_EVENT = (
    b'data: {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o", '
    b'"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": null}]}\n\n'
)
RESPONSE_EVENT = (
    b"event: response.output_text.delta\n"
    b'data: {"type": "response.output_text.delta", "delta": "Hi", "item_id": "m", '
    b'"output_index": 0, "content_index": 0, "sequence_number": 1, "logprobs": []}\n\n'
)


def stream_chat(client: openai.AsyncOpenAI) -> Awaitable[openai.AsyncStream[Any]]:
    return client.chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": "Hello!"}], stream=True
    )


def stream_response(client: openai.AsyncOpenAI) -> Awaitable[openai.AsyncStream[Any]]:
    return client.responses.create(model="gpt-4o", input="Hello!", stream=True)


Open = Callable[[openai.AsyncOpenAI], Awaitable[openai.AsyncStream[Any]]]
both_apis = pytest.mark.parametrize(
    ("ask", "event"),
    [(stream_chat, CHAT_EVENT), (stream_response, RESPONSE_EVENT)],
    ids=["chat", "responses"],
)


@both_apis
@pytest.mark.parametrize("reason", ["upstream_disconnected", "upstream_timeout"])
async def test_stream_that_breaks_between_events_raises_why(
    gate: StartGate,
    upstream: Upstream,
    async_client: Callable[..., openai.AsyncOpenAI],
    ask: Open,
    event: bytes,
    reason: str,
) -> None:
    running = await gate(UPSTREAM_READ_TIMEOUT=3 * SHORT if reason == "upstream_timeout" else 600)
    asked = asyncio.ensure_future(ask(async_client(running, max_retries=2)))
    call = await upstream.call()
    call.send(EVENT_STREAM, chunk(event))
    async with soon():
        stream = await asked
        assert "Hi" in str(await anext(stream))
        if reason == "upstream_disconnected":
            call.reset()
        with pytest.raises(openai.APIError) as caught:
            await anext(stream)
    assert (caught.value.code, caught.value.type) == (reason, "upstream_error")
    assert caught.value.message
    assert len(upstream.calls) == 1


@both_apis
async def test_stream_that_breaks_inside_an_event_raises(
    gate: StartGate,
    upstream: Upstream,
    async_client: Callable[..., openai.AsyncOpenAI],
    ask: Open,
    event: bytes,
) -> None:
    running = await gate()
    asked = asyncio.ensure_future(ask(async_client(running, max_retries=2)))
    call = await upstream.call()
    call.send(EVENT_STREAM, chunk(event), chunk(event[:-20]))
    async with soon():
        stream = await asked
        await anext(stream)
        call.reset()
        with pytest.raises(openai.APIConnectionError):
            await anext(stream)
    assert len(upstream.calls) == 1


async def test_plain_answer_that_breaks_off_raises(
    gate: StartGate, upstream: Upstream, sdk: Sdk
) -> None:
    running = await gate()
    asked = sdk(running)
    call = await upstream.call()
    call.send(response_head(JSON, "Content-Length: 100"), b'{"id": "c", "choices": []}')
    call.close()
    with pytest.raises(openai.APIConnectionError):
        await asked
