"""The table of `rustygate demo --traffic`: a row per client, at most 80 columns wide.

On a terminal it is redrawn in place each second; elsewhere each second's rows follow the last.
"""

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field

from rustygate.cli.output import print_lines
from rustygate.system.terminal import (
    CLEAR_TO_END,
    DIM,
    RED,
    RESET,
    has_color,
    is_terminal,
    start_of_line,
)

MS = 1000

HEADER = "client  class        served  waited s  longest s  failed    total  share"


@dataclass(slots=True)
class Statistics:
    """The responses to one client, in the last second and in all."""

    client: str
    priority: str
    total: int = 0
    _waits_ms: list[int] = field(default_factory=list)
    _failed: int = 0

    def record(self, status: int, queued_ms: int) -> None:
        if status < 400:
            self._waits_ms.append(queued_ms)
            self.total += 1
        else:
            self._failed += 1

    def row(self, total: int, *, colored: bool = False) -> str:
        """The client's row; the counts of the last second start again at zero.

        Args:
            total: the responses to all clients.
        """
        waits, failed = sorted(self._waits_ms), self._failed
        self._waits_ms, self._failed = [], 0
        waited = f"{waits[len(waits) // 2] / MS:.1f}" if waits else "-"
        longest = f"{waits[-1] / MS:.1f}" if waits else "-"
        shown = f"{failed:>6}"
        if failed and colored:
            shown = f"{RED}{shown}{RESET}"
        return (
            f"{self.client:<6}  {self.priority:<11}  {len(waits):>6}  {waited:>8}  {longest:>9}  "
            f"{shown}  {self.total:>7}  {self.total / max(1, total):>5.0%}"
        )


class Table:
    """Prints the rows of all clients, over the last ones where the output can do that."""

    def __init__(self, statistics: Iterable[Statistics]) -> None:
        self._statistics = list(statistics)
        descriptor = sys.stdout.fileno()
        self._colored = has_color(descriptor)
        self._is_redrawn = is_terminal(descriptor) and _width(descriptor) > len(HEADER)
        self._height = 0

    def print(self, second: int) -> None:
        """Print the table, `second` seconds after the start."""
        total = sum(each.total for each in self._statistics)
        rows = [each.row(total, colored=self._colored) for each in self._statistics]
        if self._is_redrawn:
            self._redraw([self._header(), *rows, f"after {second} s; Ctrl-C stops"])
            return
        if not self._height:
            self._height = len(rows)
            print_lines(f"second {self._header()}")
        print_lines(*(f"{second:>6} {row}" for row in rows))

    def _header(self) -> str:
        return f"{DIM}{HEADER}{RESET}" if self._colored else HEADER

    def _redraw(self, lines: list[str]) -> None:
        up = start_of_line(self._height) + CLEAR_TO_END if self._height else ""
        self._height = len(lines)
        print_lines(up + "\n".join(lines))


def _width(descriptor: int) -> int:
    return os.get_terminal_size(descriptor).columns
