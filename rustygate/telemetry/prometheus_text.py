"""Prometheus' text format, version 0.0.4."""

from functools import lru_cache

from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

_ESCAPED_IN_HELP = str.maketrans({"\\": r"\\", "\n": r"\n"})
_ESCAPED = _ESCAPED_IN_HELP | str.maketrans({'"': r"\""})


def written(family: Metric) -> str:
    name = f"{family.name}_total" if family.type == "counter" else family.name
    text = family.documentation.translate(_ESCAPED_IN_HELP)
    head = f"# HELP {name} {text}\n# TYPE {name} {family.type}\n"
    return head + "".join(map(_line, family.samples))


def _line(sample: Sample) -> str:
    if not sample.labels:
        return f"{sample.name} {sample.value}\n"
    labels = ",".join(
        [f'{key}="{_quoted(label)}"' for key, label in sorted(sample.labels.items())]
    )
    return f"{sample.name}{{{labels}}} {sample.value}\n"


@lru_cache(maxsize=1024)
def _quoted(label: str) -> str:
    return label.translate(_ESCAPED)
