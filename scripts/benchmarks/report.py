"""What a run has found: figures by section, load, metric and side, and how they are told.

A figure is a median over rounds, and so is its ratio to the first of `BASES` that is there, taken
round by round: a machine that is slow for a while is slow for both. Where the middle half of the
rounds, of their ratios if there are any, spreads by more than a fifth of the median, the machine
was too noisy for it, and that range is told instead.
"""

import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from statistics import median, quantiles

from scripts.benchmarks.admission import SEMAPHORE
from scripts.benchmarks.contenders import DIRECT, FLOOR

NOISY = 0.2
BASES = (FLOOR, SEMAPHORE)
CPU_PER = "CPU us per "

Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Figure:
    """What the rounds gave; `ratios` are to the base's, none without one."""

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
        """Between what the middle half of the rounds lies: of the ratios, or of the values."""
        of = self.ratios or self.values
        low, _, high = quantiles((*of, of[-1]) if len(of) == 1 else of, n=4, method="inclusive")
        return low, high

    @property
    def spread(self) -> float:
        """The middle half's width as a share of the median."""
        low, high = self.middle
        middle = abs(median(self.ratios or self.values))
        return (high - low) / middle if middle else float(high > low)

    @property
    def noisy(self) -> bool:
        return self.spread > NOISY

    def __str__(self) -> str:
        if self.ratio is None:
            return (
                f"~{' to '.join(map(number, self.middle))}" if self.noisy else number(self.median)
            )
        told = f"{self.ratio:.2f}x"
        if self.noisy:
            told = "~" + " to ".join(f"{each:.2f}x" for each in self.middle)
        return f"{told} ({number(self.median)})"


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
            side: Figure(tuple(v), () if side == DIRECT else _ratios(v, base))
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
        """A metric over its loads, which begin with a number, for a picture."""
        found: dict[str, list[tuple[float, float]]] = {}
        for (its_section, load, its_metric), row in self.rows().items():
            if (its_section, its_metric) == (section, metric):
                at = float(load.split()[0].replace(",", ""))
                for side, figure in row.items():
                    found.setdefault(side, []).append((at, figure.median))
        return found


def _ratios(values: list[float], base: list[float] | None) -> tuple[float, ...]:
    """The rounds' ratios to the base's; none where the base is not above 0."""
    if base is None or values is base or min(base) <= 0:
        return ()
    return tuple(value / other for value, other in zip(values, base, strict=False))


def added(figures: Mapping[str, float], direct: Mapping[str, float]) -> dict[str, float]:
    """A side's figures, with latencies as what they add to direct's."""
    result = {}
    for metric, value in figures.items():
        if metric.endswith(" ms") and metric in direct:
            result[f"added {metric}"] = value - direct[metric]
        else:
            result[metric] = value
    return result
