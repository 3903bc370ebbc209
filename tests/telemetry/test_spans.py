"""Spans: which ones an exchange creates, and what they contain."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tests.conftest import StartGate
from tests.support.gate import Gate, also_with_workers
from tests.support.http import (
    CHAT,
    CLIENT_KEY,
    EVENT_STREAM,
    LAST_CHUNK,
    UPSTREAM_KEY,
    chat,
    chunk,
    get,
    post,
    request,
    response,
)
from tests.support.upstream import Upstream
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT_ID = "00f067aa0ba902b7"
PARENT = f"traceparent: 00-{TRACE_ID}-{PARENT_ID}-01"
STATE = "tracestate: rojo=00f067aa0ba902b7"

JSON = "Content-Type: application/json"
USAGE = b'{"usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}}'
BUSY = response(
    b'{"error": {"code": "rate_limit_exceeded"}}',
    JSON,
    "retry-after-ms: 1",
    "Connection: close",
    status="429 Too Many Requests",
)


class Spans:
    """The ended spans, in order."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    async def ended(self, count: int) -> list[ReadableSpan]:
        """All ended spans, once there are this many."""
        await until(lambda: len(self._exporter.get_finished_spans()) >= count)
        ended = list(self._exporter.get_finished_spans())
        assert len(ended) == count
        return ended


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


def id_of(span: ReadableSpan) -> str:
    return f"{span.context.span_id:016x}"


def parent_of(span: ReadableSpan) -> str | None:
    return span.parent and f"{span.parent.span_id:016x}"


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


# Spans and traces.


async def test_exchange_and_its_attempt_have_a_span_each(
    gate: StartGate, upstream: Upstream, spans: Spans
) -> None:
    upstream.reply = response(USAGE, JSON)
    running = await gate(spans.provider)
    await running.request(chat("X-RustyGate-Client: search"))
    [line] = await running.settled()
    attempt, exchange = await spans.ended(2)
    assert (exchange.name, exchange.kind) == (f"POST {CHAT}", SpanKind.SERVER)
    assert attributes(exchange) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "url.path": CHAT,
        "url.scheme": "http",
        "server.address": "127.0.0.1",
        "gen_ai.request.model": "gpt-4o",
        "rustygate.exchange.id": line["id"],
        "rustygate.client": "search",
        "rustygate.queued_ms": 0,
        "rustygate.attempts": 1,
        "rustygate.outcome": "ok",
    }
    assert (attempt.name, attempt.kind) == ("chat gpt-4o", SpanKind.CLIENT)
    assert attributes(attempt) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "url.path": CHAT,
        "server.address": "127.0.0.1",
        "server.port": upstream.port,
        "gen_ai.operation.name": "chat",
        "gen_ai.system": "openai",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.usage.input_tokens": 9,
        "gen_ai.usage.output_tokens": 4,
    }
    assert parent_of(exchange) is None
    assert parent_of(attempt) == id_of(exchange)
    assert {exchange.status.status_code, attempt.status.status_code} == {StatusCode.UNSET}


async def test_trace_continues_from_the_client_to_upstream(
    gate: StartGate, upstream: Upstream, spans: Spans
) -> None:
    upstream.reply = response()
    running = await gate(spans.provider)
    await running.request(chat(PARENT, STATE))
    attempt, exchange = await spans.ended(2)
    assert parent_of(exchange) == PARENT_ID
    [call] = upstream.calls
    assert call.head.all("traceparent") == [f"00-{TRACE_ID}-{id_of(attempt)}-01"]
    assert call.head.all("tracestate") == ["rojo=00f067aa0ba902b7"]


@pytest.mark.parametrize(
    "lines",
    [(), ("traceparent: nonsense", STATE), (PARENT, PARENT, STATE)],
    ids=["none", "malformed", "twice"],
)
async def test_trace_starts_here_without_a_valid_parent(
    gate: StartGate, upstream: Upstream, spans: Spans, lines: tuple[str, ...]
) -> None:
    upstream.reply = response()
    running = await gate(spans.provider)
    await running.request(chat(*lines))
    attempt, exchange = await spans.ended(2)
    assert parent_of(exchange) is None
    assert exchange.context.trace_id != int(TRACE_ID, 16)
    [call] = upstream.calls
    [parent] = call.head.all("traceparent")
    assert parent.startswith(f"00-{exchange.context.trace_id:032x}-{id_of(attempt)}-")
    assert "tracestate" not in call.head


async def test_unsampled_trace_stays_unsampled(
    gate: StartGate, upstream: Upstream, spans: Spans
) -> None:
    upstream.reply = response()
    running = await gate(spans.provider)
    await running.request(chat(PARENT[:-1] + "0"))
    await running.settled()
    [call] = upstream.calls
    assert call.head["traceparent"].startswith(f"00-{TRACE_ID}-")
    assert call.head["traceparent"].endswith("-00")
    assert await spans.ended(0) == []


async def test_trace_headers_are_forwarded_unchanged_without_tracing(
    gate: StartGate, upstream: Upstream
) -> None:
    upstream.reply = response()
    running = await gate()
    await running.request(chat(PARENT, STATE, "tracestate: congo=1"))
    [call] = upstream.calls
    assert call.head.all("traceparent") == [PARENT.partition(" ")[2]]
    assert call.head.all("tracestate") == ["rojo=00f067aa0ba902b7", "congo=1"]


# Attempts, usage and errors.


@also_with_workers
async def test_each_attempt_has_its_own_span(
    gate: StartGate, upstream: Upstream, spans: Spans
) -> None:
    running = await gate(spans.provider)
    client = await running.send(chat().replace(b"POST", b"PUT", 1))
    await (await upstream.call()).respond(BUSY)
    (await upstream.call()).reset()
    await (await upstream.call()).respond(response(USAGE, JSON))
    await client.response()
    *attempts, exchange = await spans.ended(4)
    found = [attributes(attempt) for attempt in attempts]
    assert [each.get("http.response.status_code") for each in found] == [429, None, 200]
    assert [each.get("error.type") for each in found] == ["429", "upstream_disconnected", None]
    assert [each.get("http.request.resend_count") for each in found] == [None, 1, 2]
    assert {parent_of(attempt) for attempt in attempts} == {id_of(exchange)}
    parents = [call.head["traceparent"].split("-")[2] for call in upstream.calls]
    assert parents == [id_of(attempt) for attempt in attempts]
    assert attributes(exchange)["rustygate.attempts"] == 3


async def test_span_of_a_stream_lasts_until_its_end(
    gate: StartGate, upstream: Upstream, spans: Spans
) -> None:
    running = await gate(spans.provider)
    client = await running.send(chat(stream=True))
    call = await upstream.call()
    call.send(EVENT_STREAM, chunk(b"data: 1\n\n"))
    await client.head()
    await client.expect_body(b"data: 1\n\n")
    assert await spans.ended(0) == []
    call.send(chunk(b"data: %b\n\n" % USAGE), LAST_CHUNK)
    await client.read_rest()
    attempt, _ = await spans.ended(2)
    assert attributes(attempt)["gen_ai.usage.input_tokens"] == 9


async def refused(running: Gate, upstream: Upstream) -> None:
    await running.request(get("/v2/models"))


async def unreachable(running: Gate, upstream: Upstream) -> None:
    await upstream.stop()
    await running.request(get())


async def failing(running: Gate, upstream: Upstream) -> None:
    upstream.reply = response(status="500 Internal Server Error")
    await running.request(get())


async def not_found(running: Gate, upstream: Upstream) -> None:
    upstream.reply = response(status="404 Not Found")
    await running.request(get())


async def cut_stream(running: Gate, upstream: Upstream) -> None:
    client = await running.send(get())
    call = await upstream.call()
    call.send(EVENT_STREAM, chunk(b"data: 1\n\n"))
    await client.head()
    call.reset()
    await client.ended()


async def client_disconnects(running: Gate, upstream: Upstream) -> None:
    client = await running.send(get())
    await upstream.call()
    client.disconnect()


Failure = Callable[[Gate, Upstream], Any]

# Status, error type, and whether the span has status ERROR: of the attempt, if any, and of the
# exchange.
SpanResult = tuple[int | None, str | None, bool]
FAILURES: dict[str, tuple[Failure, SpanResult | None, SpanResult]] = {
    "refused": (refused, None, (404, "not_found", False)),
    "unreachable": (
        unreachable,
        (None, "upstream_unreachable", True),
        (502, "upstream_unreachable", True),
    ),
    "upstream fails": (failing, (500, "500", True), (500, "500", True)),
    "upstream refuses": (not_found, (404, "404", True), (404, None, False)),
    "cut stream": (
        cut_stream,
        (200, "upstream_disconnected", True),
        (200, "upstream_disconnected", True),
    ),
    "client disconnects": (
        client_disconnects,
        (None, "CancelledError", True),
        (None, None, False),
    ),
}


@pytest.mark.parametrize(("failure", "attempt", "exchange"), FAILURES.values(), ids=FAILURES)
async def test_spans_have_the_error(
    gate: StartGate,
    upstream: Upstream,
    spans: Spans,
    failure: Failure,
    attempt: SpanResult | None,
    exchange: SpanResult,
) -> None:
    running = await gate(spans.provider, UPSTREAM_RETRIES=0, UPSTREAM_CONNECT_TIMEOUT=0.1)
    await failure(running, upstream)
    expected = [found for found in (attempt, exchange) if found is not None]
    ended = await spans.ended(len(expected))
    for span, (status, error, is_error) in zip(ended, expected, strict=True):
        found = attributes(span)
        assert found.get("http.response.status_code") == status
        assert found.get("error.type") == error
        assert (span.status.status_code is StatusCode.ERROR) == is_error
        assert span.status.description is None
        assert span.events == ()


# Values from clients.


async def test_span_contains_no_key_query_or_body(
    gate: StartGate, upstream: Upstream, spans: Spans
) -> None:
    upstream.reply = response(b'{"error": "private"}', JSON)
    running = await gate(spans.provider)
    body = json.dumps({"model": "m", "user": CLIENT_KEY}).encode()
    await running.request(
        post(body, f"X-Key: {CLIENT_KEY}", target=f"/v1/x?key={CLIENT_KEY}&q=private")
    )
    ended = await spans.ended(2)
    found = "".join(span.to_json() for span in ended)
    assert not [secret for secret in (CLIENT_KEY, UPSTREAM_KEY, "private") if secret in found]


async def test_method_and_path_are_bounded(
    gate: StartGate, upstream: Upstream, spans: Spans
) -> None:
    upstream.reply = response()
    running = await gate(spans.provider)
    await running.request(request("PROPFIND", "/v2/" + "x" * 9000))
    [span] = await spans.ended(1)
    assert span.name == "HTTP"
    assert attributes(span)["http.request.method"] == "_OTHER"
    assert attributes(span)["url.path"] == "/v2/" + "x" * 252
