"""Ranges over runs, from the files that `scripts/bench --json` wrote: `FILE...`.

Prints the machines, and what the gate costs as a ratio to the floor: the lowest and the highest
median of all runs that measured it. Run the benchmark with several interpreters, and on several
machines, and quote these.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from scripts.benchmarks.contenders import GATE
from scripts.benchmarks.report import Key
from scripts.benchmarks.summary import COSTS, HEADINGS

Run = dict[str, Any]


def ratios(runs: Sequence[Run], key: Key) -> Iterator[float]:
    """The gate's ratios to the floor for one load and metric."""
    for run in runs:
        for figure in run["figures"]:
            place = (figure["section"], figure["load"], figure["metric"])
            if place == key and figure["side"] == GATE:
                yield figure["ratio"]


def spread(values: Sequence[float]) -> str:
    """The lowest and the highest of some ratios."""
    if not values:
        return "not measured"
    low, high = (f"{value:.2f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def table(runs: Sequence[Run]) -> str:
    """The ranges, as Markdown."""
    cells = [[spread([*ratios(runs, key)]) for key in keys] for _, *keys in COSTS]
    rows = [f"| {cost[0]} | {' | '.join(row)} |" for cost, row in zip(COSTS, cells, strict=True)]
    return "\n".join([*HEADINGS, *rows])


def main(*files: str) -> None:
    runs = [json.loads(Path(file).read_text()) for file in files]
    for run in runs:
        print(f"- {run['machine']}")
    print(f"\n{table(runs)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
