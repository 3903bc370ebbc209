"""Traces for OpenTelemetry: whether they are asked for, and by what they can be made.

They take the `otel` extra and OpenTelemetry's own variables (its specification, "Environment
Variable Specification"), which its SDK reads from the environment by itself. Without either,
nothing of it is imported. What a span holds, and the import, is in `spans`.
"""

import os
from typing import TYPE_CHECKING

from loguru import logger

from rustygate.config import Settings
from rustygate.telemetry.tracing.environment import fault_in, is_asked_for

if TYPE_CHECKING:
    from rustygate.telemetry.tracing.spans import Tracing


def configured(settings: Settings) -> "Tracing | None":
    """What makes the spans, if the environment asks for them. What is wrong is a warning: no
    gate stops for its traces."""
    if not is_asked_for(os.environ):
        return None
    tracing, fault = None, fault_in(os.environ)
    if fault is None:
        try:
            from rustygate.telemetry.tracing.spans import Tracing

            tracing = Tracing.of_environment(settings)
        except ImportError:
            fault = "the extra otel is not installed"
        except Exception as error:
            logger.opt(exception=error).warning("OpenTelemetry does not take its variables")
            fault = "its variables will not do"
    if fault is not None:
        logger.warning("no traces, though OTEL_* asks for them: {}", fault)
    return tracing
