"""What spans there are and what they hold: one of a server for each exchange, which continues
its client's trace, and below it one of a client for each attempt, which upstream's continues.

Names are those of OpenTelemetry's semantic conventions (HTTP spans; generative AI, "Inference"),
and a few of ours, which lead from a trace to the exchange's log line. Usage stands in the
attempt's span alone, so that no sum over spans counts it twice. No span holds a key, a body, a
query or an exception's text; what strangers say is cut, and is UTF-8, or the exporter would drop
all the spans that it was to send together.

This is the only module that imports OpenTelemetry. Requests are sent from a thread of its own.
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
from rustygate.core.headers import Headers
from rustygate.errors import Refusal
from rustygate.exchange import MS, Exchange
from rustygate.telemetry.tracing.environment import EXPORTER

# How long the last spans may take to be sent once the gate stops.
FLUSH_TIMEOUT_S = 2.0

# How much of what a stranger said a span repeats.
SHOWN = 256

# Of which kind of inference a path is, where the conventions have a name for it.
OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}

Attributes = dict[str, str | int]

# Two names for one thing: collectors older than the conventions of 2025 know the first.
_PROVIDER: Attributes = {"gen_ai.system": "openai", "gen_ai.provider.name": "openai"}

# What a method is called that is not one of these: anybody may invent some.
_OTHER_METHOD = "_OTHER"

_W3C = TraceContextTextMapPropagator()


class Tracing:
    """Makes the spans of exchanges: `begin`, an `attempt` or several, `end`."""

    def __init__(self, settings: Settings, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("rustygate", __version__)
        self._here: Attributes = {
            "server.address": settings.bind_address,
            "url.scheme": "https" if settings.tls_cert_file else "http",
        }
        self._there = _PROVIDER | _address(settings.openai_base_url)
        # Of the exchanges under way, by their ids.
        self._spans: dict[str, Span] = {}

    @classmethod
    def of_environment(cls, settings: Settings) -> Self:
        """As OTEL_* ask for. Raises what the SDK raises if it does not take them."""
        console = os.environ.get(EXPORTER, "").strip().lower() == "console"
        exporter: SpanExporter = ConsoleSpanExporter() if console else OTLPSpanExporter()
        # What is left is sent by `stop`, in bounded time; at exit it would not be.
        provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(exporter))
        return cls(settings, provider)

    def begin(self, exchange: Exchange, headers: CIMultiDictProxy[str]) -> None:
        """Begin an exchange's span, which continues the trace that its request tells of."""
        self._spans[exchange.id] = self._tracer.start_span(
            _server_name(exchange),
            _W3C.extract(_told(headers), Context()),
            SpanKind.SERVER,
            self._here | _request(exchange) | {"rustygate.exchange.id": exchange.id},
        )

    @contextmanager
    def attempt(self, exchange: Exchange) -> Iterator["Attempt"]:
        """A span around one attempt, until its answer's body has ended."""
        exchange.upstream_status = None
        span = self._tracer.start_span(
            _client_name(exchange),
            set_span_in_context(self._spans[exchange.id], Context()),
            SpanKind.CLIENT,
            self._there | _request(exchange) | _inference(exchange),
        )
        attempt = Attempt(exchange, span)
        try:
            yield attempt
        except BaseException as error:
            attempt.fail(error.reason if isinstance(error, Refusal) else type(error).__qualname__)
            raise
        finally:
            attempt.end()

    def end(self, exchange: Exchange) -> None:
        """End an exchange's span. Called once for each that began."""
        span = self._spans.pop(exchange.id)
        span.set_attributes(_response(exchange.status) | _passage(exchange))
        server_error = exchange.status is not None and exchange.status >= 500
        if exchange.reason is not None or server_error:
            span.set_attribute("error.type", exchange.reason or str(exchange.status))
        if server_error or exchange.outcome == "aborted":
            span.set_status(StatusCode.ERROR)
        span.end()

    async def stop(self) -> None:
        """Send what has not been sent yet, for as long as that may take."""
        loop, sent = asyncio.get_running_loop(), asyncio.Event()

        def flush() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(sent.set)

        # Not the loop's executor, which the process would wait for.
        Thread(target=flush, daemon=True).start()
        try:
            async with asyncio.timeout(FLUSH_TIMEOUT_S):
                await sent.wait()
        except TimeoutError:
            logger.warning("the last spans could not be sent in {:g} s", FLUSH_TIMEOUT_S)

    def __repr__(self) -> str:
        return f"<Tracing {len(self._spans)} exchanges>"


class Attempt:
    """One attempt's span."""

    def __init__(self, exchange: Exchange, span: Span) -> None:
        self._exchange = exchange
        self._span = span
        self._failure: str | None = None

    def carried(self, headers: Headers) -> Headers:
        """The headers, with this span in the place of the client's as what upstream continues."""
        told: dict[str, str] = {}
        _W3C.inject(told, set_span_in_context(self._span, Context()))
        kept = [header for header in headers if header[0].lower() not in _W3C.fields]
        return [*kept, *told.items()]

    def fail(self, reason: str) -> None:
        """Note why there is no answer, or no whole one."""
        self._failure = reason

    def end(self) -> None:
        """End it, with what has become of the attempt."""
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
    """Whose spans they are: ours, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES say."""
    said = OTELResourceDetector().detect().attributes
    return Resource.create({"service.name": "rustygate", "service.version": __version__, **said})


def _told(headers: CIMultiDictProxy[str]) -> Mapping[str, str]:
    """The trace a request tells of. Two parents are none (W3C Trace Context, 3.2)."""
    parents = headers.getall("traceparent", [])
    if len(parents) != 1:
        return {}
    return {"traceparent": parents[0], "tracestate": ",".join(headers.getall("tracestate", []))}


def _server_name(exchange: Exchange) -> str:
    method = _method(exchange)
    name = "HTTP" if method == _OTHER_METHOD else method
    return f"{name} {exchange.path}" if exchange.path in OPERATIONS else name


def _client_name(exchange: Exchange) -> str:
    operation = OPERATIONS.get(exchange.path)
    if operation is None:
        return _server_name(exchange)
    return f"{operation} {_shown(exchange.model or '')}".rstrip()


def _method(exchange: Exchange) -> str:
    return exchange.method if exchange.method in hdrs.METH_ALL else _OTHER_METHOD


def _address(url: str) -> Attributes:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return {"server.address": parts.hostname or "", "server.port": port}


def _request(exchange: Exchange) -> Attributes:
    return {"http.request.method": _method(exchange), "url.path": _shown(exchange.path)}


def _inference(exchange: Exchange) -> Attributes:
    attributes: Attributes = {}
    if exchange.path in OPERATIONS:
        attributes["gen_ai.operation.name"] = OPERATIONS[exchange.path]
    if exchange.model is not None:
        attributes["gen_ai.request.model"] = _shown(exchange.model)
    if exchange.attempts:
        attributes["http.request.resend_count"] = exchange.attempts
    return attributes


def _response(status: int | None) -> Attributes:
    return {} if status is None else {"http.response.status_code": status}


def _usage(exchange: Exchange) -> Attributes:
    attributes: Attributes = {}
    if exchange.tokens_in is not None:
        attributes["gen_ai.usage.input_tokens"] = exchange.tokens_in
    if exchange.tokens_out is not None:
        attributes["gen_ai.usage.output_tokens"] = exchange.tokens_out
    return attributes


def _passage(exchange: Exchange) -> Attributes:
    """What the gate alone knows of an exchange."""
    attributes: Attributes = {
        "rustygate.client": _shown(exchange.client),
        "rustygate.queued_ms": exchange.queued // MS,
        "rustygate.attempts": exchange.attempts,
        "rustygate.outcome": exchange.outcome or "",
    }
    if exchange.model is not None:
        attributes["gen_ai.request.model"] = _shown(exchange.model)
    return attributes


def _shown(text: str) -> str:
    return text[:SHOWN].encode(errors="replace").decode()
