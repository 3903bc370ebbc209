"""Traces are made if the environment asks for them, and sent to its collector."""

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


# Whether it is on.


@pytest.mark.parametrize(
    ("environ", "asked"),
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
def test_environment_asks_for_traces(environ: dict[str, str], asked: bool) -> None:
    assert is_requested(environ) == asked


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin", "expected one of otlp, console, none"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "expected http/protobuf"),
    ],
)
def test_what_cannot_be_done_is_a_warning_and_stops_nothing(
    name: str, value: str, said: str, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv(name, value)
    assert configure_tracing(Settings(openai_api_key="sk-test")) is None
    assert said in log.text


def test_what_opentelemetry_does_not_take_stops_nothing(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_nothing_of_it_is_imported_unless_it_is_requested() -> None:
    code = (
        "import sys\n"
        "from rustygate import cli, config, daemon\nfrom rustygate.telemetry import tracing\n"
        "assert tracing.configure_tracing(config.Settings(openai_api_key='sk-test')) is None\n"
        "sys.exit([name for name in sys.modules if 'opentelemetry' in name] or None)"
    )
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=environ, check=True)


# To a collector.


class Collector:
    """Takes traces by OTLP/HTTP; one that is `deaf` never answers."""

    def __init__(self) -> None:
        self.got: list[ExportTraceServiceRequest] = []
        self.headers: list[dict[str, str]] = []
        self.deaf = False

    async def take(self, request: web.Request) -> web.Response:
        self.headers.append(dict(request.headers))
        self.got.append(ExportTraceServiceRequest.FromString(await request.read()))
        if self.deaf:
            await asyncio.Event().wait()
        return web.Response(content_type="application/x-protobuf")


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A collector that the environment names."""
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    # Only the end sends what there is.
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1000000")
    yield collector
    await runner.cleanup()


def daemon(upstream: Upstream) -> Daemon:
    settings = load({"OPENAI_API_KEY": UPSTREAM_KEY, "OPENAI_BASE_URL": upstream.url, "PORT": "0"})
    tracing = configure_tracing(settings)
    assert tracing is not None
    return Daemon(settings, tracing=tracing)


async def ask(running: Daemon) -> None:
    from aiohttp import ClientSession

    async with ClientSession() as session, session.get(f"{running.url}/v1/models") as got:
        assert got.status == 200


async def test_spans_reach_the_collector_before_the_gate_has_stopped(
    upstream: Upstream, collector: Collector, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    upstream.reply = response()
    async with soon(), daemon(upstream) as running:
        await ask(running)
        assert collector.got == []
    [got] = collector.got
    [of_resource] = got.resource_spans
    resource = {one.key: one.value.string_value for one in of_resource.resource.attributes}
    assert resource["service.name"] == "rustygate"
    assert resource["deployment.environment"] == "test"
    [of_scope] = of_resource.scope_spans
    assert of_scope.scope.name == "rustygate"
    attempt, exchange = of_scope.spans
    assert attempt.parent_span_id == exchange.span_id


async def test_service_may_be_named(
    upstream: Upstream, collector: Collector, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "gate-2")
    upstream.reply = response()
    async with soon(), daemon(upstream) as running:
        await ask(running)
    attributes = collector.got[0].resource_spans[0].resource.attributes
    assert "gate-2" in {one.value.string_value for one in attributes if one.key == "service.name"}


async def test_collector_that_never_answers_holds_up_the_end_for_a_moment_only(
    upstream: Upstream, collector: Collector, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spans, "FLUSH_TIMEOUT_S", 0.1)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    collector.deaf = True
    upstream.reply = response()
    async with soon(), daemon(upstream) as running:
        await ask(running)
    assert "the last spans could not be sent within 0.1 s" in log.text
    log.errors.clear()
