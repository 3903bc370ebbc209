"""Metric families, as Prometheus defines them: samples of one name and type.

prometheus_client has such classes too, but importing them also imports an HTTP server: a megabyte
in each process.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Labels = tuple[str, ...]


@dataclass(slots=True)
class Sample:
    """One value, with the suffix of its name."""

    suffix: str
    labels: Mapping[str, str]
    value: float


@dataclass(slots=True)
class Family:
    """A family; the name of a counter is without `_total`."""

    type: Literal["counter", "gauge", "histogram"]
    name: str
    text: str
    samples: list[Sample] = field(default_factory=list)


def counter(name: str, text: str, names: Labels, counts: Iterable[tuple[Labels, float]]) -> Family:
    """A counter, by the values of its labels."""
    return Family("counter", name, text, [_sample("_total", names, *each) for each in counts])


def gauge(name: str, text: str, names: Labels, levels: Iterable[tuple[Labels, float]]) -> Family:
    """A gauge, by the values of its labels."""
    return Family("gauge", name, text, [_sample("", names, *each) for each in levels])


def histogram(
    name: str,
    text: str,
    names: Labels,
    histograms: Iterable[tuple[Labels, tuple[list[tuple[str, float]], float]]],
) -> Family:
    """A histogram, by the values of its labels: buckets by upper bound, and the sum."""
    family = Family("histogram", name, text)
    for values, (buckets, total) in histograms:
        for edge, count in buckets:
            family.samples.append(_sample("_bucket", (*names, "le"), (*values, edge), count))
        # The last bucket has no upper bound.
        family.samples.append(_sample("_count", names, values, buckets[-1][1]))
        family.samples.append(_sample("_sum", names, values, total))
    return family


def _sample(suffix: str, names: Labels, values: Labels, value: float) -> Sample:
    return Sample(suffix, dict(zip(names, values, strict=True)), value)
