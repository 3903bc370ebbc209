"""OpenTelemetry's variables: whether they ask for traces, and what of it the gate cannot do."""

from collections.abc import Mapping

EXPORTER = "OTEL_TRACES_EXPORTER"
EXPORTERS = ("otlp", "console")
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")

# The one for traces counts first.
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL = "http/protobuf"


def is_asked_for(environ: Mapping[str, str]) -> bool:
    """Whether the environment names an exporter, or where to."""
    if _value(environ, "OTEL_SDK_DISABLED") == "true":
        return False
    exporter = _value(environ, EXPORTER)
    if exporter:
        return exporter != "none"
    return any(_value(environ, name) for name in ENDPOINTS)


def fault_in(environ: Mapping[str, str]) -> str | None:
    """What of it the gate cannot do."""
    if _value(environ, EXPORTER) not in ("", *EXPORTERS):
        return f"{EXPORTER}: expected one of {', '.join(EXPORTERS)}, none"
    protocols = [value for name in PROTOCOLS if (value := _value(environ, name))]
    if protocols and protocols[0] != PROTOCOL:
        return f"{' or '.join(PROTOCOLS)}: expected {PROTOCOL}"
    return None


def _value(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name, "").strip().lower()
