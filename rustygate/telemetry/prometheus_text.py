"""Prometheus' text format, version 0.0.4."""

from functools import lru_cache

from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

_HELP_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n"})
_LABEL_ESCAPES = _HELP_ESCAPES | str.maketrans({'"': r"\""})


def render_family(family: Metric) -> str:
    """A metric family with its HELP and TYPE lines."""
    name = f"{family.name}_total" if family.type == "counter" else family.name
    text = family.documentation.translate(_HELP_ESCAPES)
    head = f"# HELP {name} {text}\n# TYPE {name} {family.type}\n"
    return head + "".join(map(_render_sample, family.samples))


def _render_sample(sample: Sample) -> str:
    if not sample.labels:
        return f"{sample.name} {sample.value}\n"
    labels = ",".join(
        [f'{key}="{_escape(label)}"' for key, label in sorted(sample.labels.items())]
    )
    return f"{sample.name}{{{labels}}} {sample.value}\n"


@lru_cache(maxsize=1024)
def _escape(label: str) -> str:
    return label.translate(_LABEL_ESCAPES)
