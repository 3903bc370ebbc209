"""What a run has found: figures by section, load, metric and side, and how they are told.

A figure is a median over rounds. Where the rounds spread by more than a fifth of it, the machine
was too noisy for it, and their range is told instead. Ratios compare with the first of `BASES`
that is there, round by round.
"""

import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from statistics import median

from scripts.benchmarks.admission import SEMAPHORE
from scripts.benchmarks.contenders import DIRECT, FLOOR

NOISY = 0.2
BASES = (FLOOR, SEMAPHORE)
CPU_PER = "CPU us per "

Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Figure:
    """What the rounds gave; `ratio` is to the base's, None without one."""

    values: tuple[float, ...]
    ratio: float | None = None

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def spread(self) -> float:
        """Between the least and the greatest, as a share of the median."""
        width = max(self.values) - min(self.values)
        return width / abs(self.median) if self.median else float(width > 0)

    @property
    def noisy(self) -> bool:
        return self.spread > NOISY

    def __str__(self) -> str:
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}x "
        if not self.noisy:
            return f"{ratio}({number(self.median)})" if ratio else number(self.median)
        low, high = number(min(self.values)), number(max(self.values))
        return f"~{ratio}({low} to {high})" if ratio else f"~{low} to {high}"


def number(value: float) -> str:
    """Three digits or so: more would pretend."""
    if abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.{1 if abs(value) >= 10 else 2}f}"


@dataclass(slots=True)
class Report:
    """The figures of a run, and what it had to leave out."""

    values: dict[Key, dict[str, list[float]]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    load_before: float = field(default_factory=lambda: os.getloadavg()[0])

    def add(self, section: str, load: str, side: str, figures: Mapping[str, float]) -> None:
        """One round's figures of a side, by metric."""
        for metric, value in figures.items():
            row = self.values.setdefault((section, load, metric), {})
            row.setdefault(side, []).append(value)

    def forget(self, section: str, load: str, side: str) -> None:
        """Drop a side's figures of a load that it did not go through to the end."""
        for key, row in list(self.values.items()):
            if key[:2] == (section, load):
                row.pop(side, None)
                if not row:
                    del self.values[key]

    def skip(self, what: str, why: object) -> None:
        """Leave something out, and say so, once."""
        line = f"{what}: {why}"
        if line not in self.skipped:
            self.skipped.append(line)
            print(f"  skipped {line}", flush=True)

    def row(self, key: Key) -> dict[str, Figure]:
        """The figures of all sides."""
        values = self.values[key]
        base = next((values[name] for name in BASES if name in values), None)
        if key[2].endswith("%"):
            base = None
        return {
            side: Figure(tuple(v), None if side == DIRECT else _ratio(v, base))
            for side, v in values.items()
        }

    def rows(self) -> dict[Key, dict[str, Figure]]:
        return {key: self.row(key) for key in self.values}

    def machine(self) -> str:
        """Where this was measured."""
        return (
            f"{os.cpu_count()} cores ({platform.machine()}), {platform.system()} "
            f"{platform.release()}, Python {platform.python_version()}; "
            f"load average {self.load_before:.1f} before the run."
        )

    def noise(self) -> str:
        """What is to be said of the machine."""
        figures = [figure for row in self.rows().values() for figure in row.values()]
        if all(len(figure.values) < 2 for figure in figures):
            return "One round only: nothing is known of the machine's noise."
        noisy = sum(figure.noisy for figure in figures)
        share = f"{noisy} of {len(figures)}"
        words = f"{share} figures spread by more than {NOISY:.0%} over the rounds"
        if 5 * noisy <= len(figures):
            return f"{words}."
        return f"A noisy machine: {words}; they are given as ranges, marked ~, and prove little."

    def markdown(self, keys: Iterable[Key] | None = None) -> str:
        """A table for each section, of all rows or of those named, in that order."""
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
        """All that was measured, with medians and spreads."""
        figures = [
            {"section": section, "load": load, "metric": metric, "side": side}
            | asdict(figure)
            | {"median": figure.median, "spread": figure.spread}
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
        """A metric over its loads, which begin with a number, for a picture."""
        found: dict[str, list[tuple[float, float]]] = {}
        for (its_section, load, its_metric), row in self.rows().items():
            if (its_section, its_metric) == (section, metric):
                at = float(load.split()[0].replace(",", ""))
                for side, figure in row.items():
                    found.setdefault(side, []).append((at, figure.median))
        return found


def _ratio(values: list[float], base: list[float] | None) -> float | None:
    """The median of the rounds' ratios."""
    if base is None or values is base or min(base) <= 0:
        return None
    return median(value / other for value, other in zip(values, base, strict=False))


def added(figures: Mapping[str, float], direct: Mapping[str, float]) -> dict[str, float]:
    """A side's figures, with latencies as what they add to direct's."""
    result = {}
    for metric, value in figures.items():
        if metric.endswith(" ms") and metric in direct:
            result[f"added {metric}"] = value - direct[metric]
        else:
            result[metric] = value
    return result
