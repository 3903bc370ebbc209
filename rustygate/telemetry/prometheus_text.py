"""Prometheus' text format, version 0.0.4."""

from functools import lru_cache

from rustygate.telemetry.families import Family, Sample

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_HELP_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n"})
_LABEL_ESCAPES = _HELP_ESCAPES | str.maketrans({'"': r"\""})


def render_family(family: Family) -> str:
    """A metric family with its HELP and TYPE lines."""
    name = f"{family.name}_total" if family.type == "counter" else family.name
    text = family.text.translate(_HELP_ESCAPES)
    head = f"# HELP {name} {text}\n# TYPE {name} {family.type}\n"
    return head + "".join([_render_sample(family.name, sample) for sample in family.samples])


def _render_sample(name: str, sample: Sample) -> str:
    if not sample.labels:
        return f"{name}{sample.suffix} {sample.value}\n"
    labels = ",".join(
        [f'{key}="{_escape(label)}"' for key, label in sorted(sample.labels.items())]
    )
    return f"{name}{sample.suffix}{{{labels}}} {sample.value}\n"


@lru_cache(maxsize=1024)
def _escape(label: str) -> str:
    return label.translate(_LABEL_ESCAPES)
