"""Traces for OpenTelemetry: whether they are asked for, and by what they can be made.

They take the `otel` extra and OpenTelemetry's own variables (its specification, "Environment
Variable Specification"), which its SDK reads from the environment by itself. Without either,
nothing of it is imported. What a span holds, and the import, is in `spans`.
"""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from loguru import logger

from rustygate.config import Settings

if TYPE_CHECKING:
    from rustygate.tracing.spans import Tracing

EXPORTER = "OTEL_TRACES_EXPORTER"
EXPORTERS = ("otlp", "console")
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")

# The one for traces counts first.
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL = "http/protobuf"


def configured(settings: Settings) -> "Tracing | None":
    """What makes the spans, if the environment asks for them. What is wrong is a warning: no
    gate stops for its traces."""
    if not is_asked_for(os.environ):
        return None
    tracing, fault = None, _fault(os.environ)
    if fault is None:
        try:
            from rustygate.tracing.spans import Tracing

            tracing = Tracing.of_environment(settings)
        except ImportError:
            fault = "the extra otel is not installed"
        except Exception as error:
            logger.opt(exception=error).warning("OpenTelemetry does not take its variables")
            fault = "its variables will not do"
    if fault is not None:
        logger.warning("no traces, though OTEL_* asks for them: {}", fault)
    return tracing


def is_asked_for(environ: Mapping[str, str]) -> bool:
    """Whether the environment names an exporter, or where to."""
    if _value(environ, "OTEL_SDK_DISABLED") == "true":
        return False
    exporter = _value(environ, EXPORTER)
    if exporter:
        return exporter != "none"
    return any(_value(environ, name) for name in ENDPOINTS)


def _fault(environ: Mapping[str, str]) -> str | None:
    """What of it the gate cannot do."""
    if _value(environ, EXPORTER) not in ("", *EXPORTERS):
        return f"{EXPORTER}: expected one of {', '.join(EXPORTERS)}, none"
    protocols = [value for name in PROTOCOLS if (value := _value(environ, name))]
    if protocols and protocols[0] != PROTOCOL:
        return f"{' or '.join(PROTOCOLS)}: expected {PROTOCOL}"
    return None


def _value(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name, "").strip().lower()
