"""OpenTelemetry's variables: whether they request traces, and which values are not supported."""

from collections.abc import Mapping

EXPORTER = "OTEL_TRACES_EXPORTER"
EXPORTERS = ("otlp", "console")
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")

# The one for traces takes precedence.
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL = "http/protobuf"


def is_requested(environ: Mapping[str, str]) -> bool:
    """Whether the environment names an exporter or an endpoint."""
    if _value(environ, "OTEL_SDK_DISABLED") == "true":
        return False
    exporter = _value(environ, EXPORTER)
    if exporter:
        return exporter != "none"
    return any(_value(environ, name) for name in ENDPOINTS)


def unsupported_setting(environ: Mapping[str, str]) -> str | None:
    """The variable whose value the gate does not support, and what it expects."""
    if _value(environ, EXPORTER) not in ("", *EXPORTERS):
        return f"{EXPORTER}: expected one of {', '.join(EXPORTERS)}, none"
    protocols = [value for name in PROTOCOLS if (value := _value(environ, name))]
    if protocols and protocols[0] != PROTOCOL:
        return f"{' or '.join(PROTOCOLS)}: expected {PROTOCOL}"
    return None


def _value(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name, "").strip().lower()
