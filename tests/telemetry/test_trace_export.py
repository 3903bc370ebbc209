"""Traces are made if the environment requests them, and sent to its collector."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from rustygate.config import Settings, load
from rustygate.daemon import Daemon
from rustygate.telemetry.tracing import configure_tracing, spans
from rustygate.telemetry.tracing.environment import is_requested
from tests.support.gate import Log
from tests.support.http import (
    UPSTREAM_KEY,
    response,
)
from tests.support.upstream import Upstream
from tests.support.waiting import soon

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


# Configuration.


@pytest.mark.parametrize(
    ("environ", "requested"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_SERVICE_NAME": "gate"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "TRUE"}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "false"}, True),
    ],
)
def test_environment_requests_traces(environ: dict[str, str], requested: bool) -> None:
    assert is_requested(environ) == requested


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin", "expected one of otlp, console, none"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "expected http/protobuf"),
    ],
)
def test_unsupported_setting_is_a_warning(
    name: str, value: str, message: str, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv(name, value)
    assert configure_tracing(Settings(openai_api_key="sk-test")) is None
    assert message in log.text


def test_rejected_variables_are_a_warning(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ValueError("sk-canary")

    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setattr(spans, "OTLPSpanExporter", fail)
    assert configure_tracing(Settings(openai_api_key="sk-test")) is None
    assert "OpenTelemetry rejected the OTEL_* variables" in log.text


def test_missing_extra_is_a_warning(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setitem(sys.modules, "rustygate.telemetry.tracing.spans", None)
    assert configure_tracing(Settings(openai_api_key="sk-test")) is None
    assert "the otel extra is not installed" in log.text


def test_opentelemetry_is_imported_only_if_requested() -> None:
    code = (
        "import sys\n"
        "from rustygate import cli, config, daemon\nfrom rustygate.telemetry import tracing\n"
        "assert tracing.configure_tracing(config.Settings(openai_api_key='sk-test')) is None\n"
        "sys.exit([name for name in sys.modules if 'opentelemetry' in name] or None)"
    )
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=environ, check=True)


# Export.


class Collector:
    """Receives traces by OTLP/HTTP; a `silent` one never responds."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.headers: list[dict[str, str]] = []
        self.silent = False

    async def receive(self, request: web.Request) -> web.Response:
        self.headers.append(dict(request.headers))
        self.requests.append(ExportTraceServiceRequest.FromString(await request.read()))
        if self.silent:
            await asyncio.Event().wait()
        return web.Response(content_type="application/x-protobuf")


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A collector whose endpoint is in the environment."""
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector.receive)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    # Only stopping the gate sends the spans.
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1000000")
    yield collector
    await runner.cleanup()


def daemon(upstream: Upstream) -> Daemon:
    settings = load({"OPENAI_API_KEY": UPSTREAM_KEY, "OPENAI_BASE_URL": upstream.url, "PORT": "0"})
    tracing = configure_tracing(settings)
    assert tracing is not None
    return Daemon(settings, tracing=tracing)


async def send_request(running: Daemon) -> None:
    from aiohttp import ClientSession

    async with ClientSession() as session, session.get(f"{running.url}/v1/models") as received:
        assert received.status == 200


async def test_spans_reach_the_collector_before_the_gate_stops(
    upstream: Upstream, collector: Collector, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    upstream.reply = response()
    async with soon(), daemon(upstream) as running:
        await send_request(running)
        assert collector.requests == []
    [export] = collector.requests
    [of_resource] = export.resource_spans
    resource = {
        attribute.key: attribute.value.string_value
        for attribute in of_resource.resource.attributes
    }
    assert resource["service.name"] == "rustygate"
    assert resource["deployment.environment"] == "test"
    [of_scope] = of_resource.scope_spans
    assert of_scope.scope.name == "rustygate"
    attempt, exchange = of_scope.spans
    assert attempt.parent_span_id == exchange.span_id


async def test_service_name_can_be_set(
    upstream: Upstream, collector: Collector, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "gate-2")
    upstream.reply = response()
    async with soon(), daemon(upstream) as running:
        await send_request(running)
    attributes = collector.requests[0].resource_spans[0].resource.attributes
    assert "gate-2" in {
        attribute.value.string_value for attribute in attributes if attribute.key == "service.name"
    }


async def test_silent_collector_delays_the_stop_only_briefly(
    upstream: Upstream, collector: Collector, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spans, "FLUSH_TIMEOUT_S", 0.1)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    collector.silent = True
    upstream.reply = response()
    async with soon(), daemon(upstream) as running:
        await send_request(running)
    assert "the last spans could not be sent within 0.1 s" in log.text
    log.errors.clear()
