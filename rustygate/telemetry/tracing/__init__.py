"""Traces for OpenTelemetry: whether they are requested, and the object that makes them.

Tracing needs the `otel` extra and OpenTelemetry's own variables ("Environment Variable
Specification"), which its SDK reads from the environment. Without either, OpenTelemetry is not
imported. `spans` says what a span contains; it is the only module that imports OpenTelemetry.
"""

import os
from typing import TYPE_CHECKING

from loguru import logger

from rustygate.config import Settings
from rustygate.telemetry.tracing.environment import is_requested, unsupported_setting

if TYPE_CHECKING:
    from rustygate.telemetry.tracing.spans import Tracing


def configure_tracing(settings: Settings) -> "Tracing | None":
    """The tracing that the environment requests, if any.

    Whatever is wrong with it is logged as a warning: the gate also starts without tracing.
    """
    if not is_requested(os.environ):
        return None
    fault = unsupported_setting(os.environ)
    if fault is None:
        try:
            from rustygate.telemetry.tracing.spans import Tracing

            return Tracing.from_environment(settings)
        except ImportError:
            fault = "the otel extra is not installed"
        except Exception as error:
            fault = "OpenTelemetry rejected the OTEL_* variables"
            logger.opt(exception=error).warning("cannot set up OpenTelemetry")
    logger.warning("tracing is off: {}", fault)
    return None
