"""Spans and their attributes.

Each exchange has a server span, which continues the client's trace. Below it, each attempt has a
client span, which upstream's trace continues.

Names follow OpenTelemetry's semantic conventions (HTTP spans; generative AI, "Inference"). A few
of our own link a trace to the exchange's log line. Token usage is on the attempt's span only, so
that no sum over spans counts it twice. No span contains a key, a body, a query or an exception's
text. Values from clients and upstream are cut, and are valid UTF-8: the exporter drops a whole
batch of spans because of one invalid string.

This is the only module that imports OpenTelemetry. Spans are exported on a thread of its own.
"""

import asyncio
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Self
from urllib.parse import urlsplit

from aiohttp import hdrs
from loguru import logger
from multidict import CIMultiDictProxy
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from rustygate import __version__
from rustygate.config import Settings
from rustygate.core.headers import HeaderLines, header_lines, lines_without
from rustygate.errors import Refusal
from rustygate.exchange import MS, Exchange
from rustygate.telemetry.tracing.environment import EXPORTER

# How long the gate waits for the last spans to be sent when it stops.
FLUSH_TIMEOUT_S = 2.0

# How many characters of a client's value a span contains.
VALUE_LIMIT = 256

# The conventions' names for the operations of these paths.
OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}

Attributes = dict[str, str | int]

# Two names for one attribute: collectors older than the conventions of 2025 know the first.
_PROVIDER: Attributes = {"gen_ai.system": "openai", "gen_ai.provider.name": "openai"}

# Stands for an unknown method, since clients can invent any number of them.
_OTHER_METHOD = "_OTHER"

_W3C = TraceContextTextMapPropagator()


class Tracing:
    """Makes the spans of exchanges: `start_exchange`, `attempt` once or more, `end_exchange`."""

    def __init__(self, settings: Settings, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("rustygate", __version__)
        self._server_attributes: Attributes = {
            "server.address": settings.bind_address,
            "url.scheme": "https" if settings.tls_cert_file else "http",
        }
        self._client_attributes = _PROVIDER | _address(settings.openai_base_url)
        # Spans of exchanges that have not ended, by exchange id.
        self._spans: dict[str, Span] = {}

    @classmethod
    def from_environment(cls, settings: Settings) -> Self:
        """Tracing as the OTEL_* variables request it. Raises the SDK's errors for bad values."""
        console = os.environ.get(EXPORTER, "").strip().lower() == "console"
        exporter: SpanExporter = ConsoleSpanExporter() if console else OTLPSpanExporter()
        # `stop` sends the last spans within FLUSH_TIMEOUT_S; the SDK's exit handler has no limit.
        provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(exporter))
        return cls(settings, provider)

    def start_exchange(self, exchange: Exchange, headers: CIMultiDictProxy[str]) -> None:
        """Start an exchange's span, which continues the trace in its request's headers."""
        self._spans[exchange.id] = self._tracer.start_span(
            _server_span_name(exchange),
            _W3C.extract(_trace_context(headers), Context()),
            SpanKind.SERVER,
            self._server_attributes | _request(exchange) | {"rustygate.exchange.id": exchange.id},
        )

    @contextmanager
    def attempt(self, exchange: Exchange) -> Iterator["Attempt"]:
        """A span around one attempt, until its response's body has ended."""
        exchange.upstream_status = None
        span = self._tracer.start_span(
            _client_span_name(exchange),
            set_span_in_context(self._spans[exchange.id], Context()),
            SpanKind.CLIENT,
            self._client_attributes | _request(exchange) | _inference(exchange),
        )
        attempt = Attempt(exchange, span)
        try:
            yield attempt
        except BaseException as error:
            attempt.fail(error.reason if isinstance(error, Refusal) else type(error).__qualname__)
            raise
        finally:
            attempt.end()

    def end_exchange(self, exchange: Exchange) -> None:
        """End an exchange's span. Called once for each exchange that was started."""
        span = self._spans.pop(exchange.id)
        span.set_attributes(_response(exchange.status) | _gate_attributes(exchange))
        server_error = exchange.status is not None and exchange.status >= 500
        if exchange.reason is not None or server_error:
            span.set_attribute("error.type", exchange.reason or str(exchange.status))
        if server_error or exchange.outcome == "aborted":
            span.set_status(StatusCode.ERROR)
        span.end()

    async def stop(self) -> None:
        """Send the spans that are left, within FLUSH_TIMEOUT_S."""
        loop, sent = asyncio.get_running_loop(), asyncio.Event()

        def flush() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(sent.set)

        # Not in the loop's executor: the process would wait for it at exit.
        Thread(target=flush, daemon=True).start()
        try:
            async with asyncio.timeout(FLUSH_TIMEOUT_S):
                await sent.wait()
        except TimeoutError:
            logger.warning("the last spans could not be sent within {:g} s", FLUSH_TIMEOUT_S)

    def __repr__(self) -> str:
        return f"<Tracing {len(self._spans)} exchanges>"


class Attempt:
    """One attempt's span."""

    def __init__(self, exchange: Exchange, span: Span) -> None:
        self._exchange = exchange
        self._span = span
        self._failure: str | None = None

    def inject(self, headers: HeaderLines) -> HeaderLines:
        """The request's header lines, with this span as the parent instead of the client's."""
        context: dict[str, str] = {}
        _W3C.inject(context, set_span_in_context(self._span, Context()))
        return lines_without(headers, _W3C.fields) + header_lines(context.items())

    def fail(self, reason: str) -> None:
        """Note why there is no complete response."""
        self._failure = reason

    def end(self) -> None:
        """End the span with the result of the attempt."""
        exchange, span = self._exchange, self._span
        status = exchange.upstream_status
        span.set_attributes(_response(status) | _usage(exchange))
        error = self._failure or exchange.reason
        if error is None and status is not None and status >= 400:
            error = str(status)
        if error is not None:
            span.set_attribute("error.type", error)
            span.set_status(StatusCode.ERROR)
        span.end()


def _resource() -> Resource:
    """The service that spans belong to: the gate, unless OTEL_SERVICE_NAME or
    OTEL_RESOURCE_ATTRIBUTES names another."""
    given = OTELResourceDetector().detect().attributes
    return Resource.create({"service.name": "rustygate", "service.version": __version__, **given})


def _trace_context(headers: CIMultiDictProxy[str]) -> Mapping[str, str]:
    """The trace context of a request. A repeated `traceparent` is invalid (W3C Trace Context,
    3.2)."""
    parents = headers.getall("traceparent", [])
    if len(parents) != 1:
        return {}
    return {"traceparent": parents[0], "tracestate": ",".join(headers.getall("tracestate", []))}


def _server_span_name(exchange: Exchange) -> str:
    method = _method(exchange)
    name = "HTTP" if method == _OTHER_METHOD else method
    return f"{name} {exchange.path}" if exchange.path in OPERATIONS else name


def _client_span_name(exchange: Exchange) -> str:
    operation = OPERATIONS.get(exchange.path)
    if operation is None:
        return _server_span_name(exchange)
    return f"{operation} {_cut(exchange.model or '')}".rstrip()


def _method(exchange: Exchange) -> str:
    return exchange.method if exchange.method in hdrs.METH_ALL else _OTHER_METHOD


def _address(url: str) -> Attributes:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return {"server.address": parts.hostname or "", "server.port": port}


def _request(exchange: Exchange) -> Attributes:
    return {"http.request.method": _method(exchange), "url.path": _cut(exchange.path)}


def _inference(exchange: Exchange) -> Attributes:
    attributes: Attributes = {}
    if exchange.path in OPERATIONS:
        attributes["gen_ai.operation.name"] = OPERATIONS[exchange.path]
    if exchange.model is not None:
        attributes["gen_ai.request.model"] = _cut(exchange.model)
    if exchange.attempts:
        attributes["http.request.resend_count"] = exchange.attempts
    return attributes


def _response(status: int | None) -> Attributes:
    return {} if status is None else {"http.response.status_code": status}


def _usage(exchange: Exchange) -> Attributes:
    """The tokens that upstream reported."""
    attributes: Attributes = {}
    if exchange.tokens_estimated:
        return attributes
    if exchange.tokens_in is not None:
        attributes["gen_ai.usage.input_tokens"] = exchange.tokens_in
    if exchange.tokens_out is not None:
        attributes["gen_ai.usage.output_tokens"] = exchange.tokens_out
    return attributes


def _gate_attributes(exchange: Exchange) -> Attributes:
    """Attributes of an exchange that only the gate knows."""
    attributes: Attributes = {
        "rustygate.client": _cut(exchange.client),
        "rustygate.queued_ms": exchange.queued // MS,
        "rustygate.attempts": exchange.attempts,
        "rustygate.outcome": exchange.outcome or "",
    }
    if exchange.model is not None:
        attributes["gen_ai.request.model"] = _cut(exchange.model)
    return attributes


def _cut(text: str) -> str:
    return text[:VALUE_LIMIT].encode(errors="replace").decode()
