"""The figures of a run, by section, load, metric and side, and how they are printed.

A figure is a median over rounds. Its ratio is to the first of `BASELINES` that was measured,
and is the median of the rounds' ratios: a machine that is slow for a while is slow for both sides.
If the middle half of the rounds, or of their ratios, spreads by more than a fifth of the median,
the machine was too noisy, and that range is printed instead.
"""

import os
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median, quantiles

from scripts.benchmarks.admission import SEMAPHORE
from scripts.benchmarks.contenders import DIRECT, FLOOR

# The baseline of the group's figures: as many gates, which share no quota.
ALONE = "gates alone"
NOISE_THRESHOLD = 0.2
BASELINES = (FLOOR, SEMAPHORE, ALONE)
CPU_PER = "CPU us per "
INSTRUCTIONS_PER = "instructions per "

# The ends of metrics whose ratio to a baseline says nothing.
NOT_COMPARED = (" %", " s")

Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Figure:
    """The values of all rounds; `ratios` are those to the baseline, empty without one."""

    values: tuple[float, ...]
    ratios: tuple[float, ...] = ()

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def ratio(self) -> float | None:
        return median(self.ratios) if self.ratios else None

    @property
    def middle(self) -> tuple[float, float]:
        """The lower and upper quartile of the ratios, or of the values without a baseline."""
        of = self.ratios or self.values
        low, _, high = quantiles((*of, of[-1]) if len(of) == 1 else of, n=4, method="inclusive")
        return low, high

    @property
    def spread(self) -> float:
        """The width of the middle half, as a share of the median."""
        low, high = self.middle
        middle = abs(median(self.ratios or self.values))
        return (high - low) / middle if middle else float(high > low)

    @property
    def noisy(self) -> bool:
        return self.spread > NOISE_THRESHOLD

    @property
    def ratio_text(self) -> str:
        """The ratio, or its range if it is noisy; empty without one."""
        if self.ratio is None:
            return ""
        if self.noisy:
            return "~" + " to ".join(f"{each:.2f}x" for each in self.middle)
        return f"{self.ratio:.2f}x"

    def __str__(self) -> str:
        if self.ratio is not None:
            return f"{self.ratio_text} ({number(self.median)})"
        if self.noisy:
            return f"~{' to '.join(map(number, self.middle))}"
        return number(self.median)


def processor() -> str:
    """The processor's name, or its architecture."""
    names = re.search(r"^model name\s*: (.+)", _cpu_info(), re.MULTILINE)
    return f"{names[1]}, {platform.machine()}" if names else platform.machine()


def _cpu_info() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def number(value: float) -> str:
    """About three digits; more would pretend precision."""
    if abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    decimals = 1 if abs(value) >= 10 else 2 if abs(value) >= 0.1 else 3
    return f"{value:.{decimals}f}"


@dataclass(slots=True)
class Report:
    """The figures of a run, and what was skipped."""

    values: dict[Key, dict[str, list[float]]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    load_before: float = field(default_factory=lambda: os.getloadavg()[0])

    def add(self, section: str, load: str, side: str, figures: Mapping[str, float]) -> None:
        """Add one round's figures of a side, by metric."""
        for metric, value in figures.items():
            row = self.values.setdefault((section, load, metric), {})
            row.setdefault(side, []).append(value)

    def forget(self, section: str, load: str, side: str) -> None:
        """Drop a side's figures of a load that it did not complete."""
        for key, row in list(self.values.items()):
            if key[:2] == (section, load):
                row.pop(side, None)
                if not row:
                    del self.values[key]

    def skip(self, what: str, why: object) -> None:
        """Report something as skipped, once."""
        line = f"{what}: {why}"
        if line not in self.skipped:
            self.skipped.append(line)
            print(f"  skipped {line}", flush=True)

    def row(self, key: Key) -> dict[str, Figure]:
        """The figures of all sides for one load and metric."""
        values = self.values[key]
        base = next((values[name] for name in BASELINES if name in values), None)
        if key[2].endswith(NOT_COMPARED):
            base = None
        return {
            side: Figure(tuple(v), () if side == DIRECT else _ratios(v, base))
            for side, v in values.items()
        }

    def rows(self) -> dict[Key, dict[str, Figure]]:
        return {key: self.row(key) for key in self.values}

    def machine(self) -> str:
        """The machine, in a sentence."""
        return (
            f"{os.cpu_count()} cores ({processor()}), {platform.system()} "
            f"{platform.release()}, Python {platform.python_version()}; "
            f"load average {self.load_before:.1f} before the run."
        )

    def noise(self) -> str:
        """How noisy the machine was, in a sentence."""
        figures = [figure for row in self.rows().values() for figure in row.values()]
        if all(len(figure.values) < 2 for figure in figures):
            return "One round only: the machine's noise is unknown."
        noisy = sum(figure.noisy for figure in figures)
        share = f"{noisy} of {len(figures)}"
        words = f"{share} figures spread by more than {NOISE_THRESHOLD:.0%} over the rounds"
        if 5 * noisy <= len(figures):
            return f"{words}."
        return f"Noisy machine: {words}; they are given as ranges, marked ~, and prove little."

    def markdown(self, keys: Iterable[Key] | None = None) -> str:
        """A table for each section, with all rows or with `keys` in their order."""
        chosen = [key for key in keys or self.values if key in self.values]
        sections = dict.fromkeys(section for section, _, _ in chosen)
        parts = [self.machine(), self.noise(), *(self._table(each, chosen) for each in sections)]
        if self.skipped:
            parts.append("\n".join(["Not measured:\n", *(f"- {each}" for each in self.skipped)]))
        return "\n\n".join(parts) + "\n"

    def _table(self, section: str, keys: list[Key]) -> str:
        rows = {key[1:]: self.row(key) for key in keys if key[0] == section}
        sides = list(dict.fromkeys(side for row in rows.values() for side in row))
        lines = [["load", "metric", *sides], ["---"] * (len(sides) + 2)]
        for names, row in rows.items():
            lines.append([*names, *(str(row[side]) if side in row else "" for side in sides)])
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"### {section}\n\n{table}"

    def as_json(self) -> dict[str, object]:
        """All figures, with medians and spreads."""
        figures = [
            {"section": section, "load": load, "metric": metric, "side": side}
            | asdict(figure)
            | {"median": figure.median, "ratio": figure.ratio, "spread": figure.spread}
            for (section, load, metric), row in self.rows().items()
            for side, figure in row.items()
        ]
        return {
            "machine": self.machine(),
            "noise": self.noise(),
            "skipped": self.skipped,
            "figures": figures,
        }

    def lines(self, section: str, metric: str) -> dict[str, list[tuple[float, float]]]:
        """A metric over its loads, which begin with a number, for a chart."""
        found: dict[str, list[tuple[float, float]]] = {}
        for (its_section, load, its_metric), row in self.rows().items():
            if (its_section, its_metric) == (section, metric):
                at = float(load.split()[0].replace(",", ""))
                for side, figure in row.items():
                    found.setdefault(side, []).append((at, figure.median))
        return found


def _ratios(values: list[float], base: list[float] | None) -> tuple[float, ...]:
    """The rounds' ratios to the baseline; none if a baseline value is not positive."""
    if base is None or values is base or min(base) <= 0:
        return ()
    return tuple(value / other for value, other in zip(values, base, strict=False))


def added(figures: Mapping[str, float], direct: Mapping[str, float]) -> dict[str, float]:
    """A side's figures, with latencies as the difference to direct's."""
    result = {}
    for metric, value in figures.items():
        if metric.endswith(" ms") and metric in direct:
            result[f"added {metric}"] = value - direct[metric]
        else:
            result[metric] = value
    return result
