"""Counts the instructions that a side takes for a request, an event and a short stream.

A count is the difference of two runs, with and without the load, so that start-up and shutdown
cancel. Both runs start with the same warm-up. The kernel's instructions are not counted.

Unlike time, the count hardly depends on the machine or on what else runs on it. Runs differ by a
hundredth or two: by where the garbage collector and batches of log lines fall, and by how
dictionaries and allocations lie in memory. A run in which events arrived together fails, because
that is cheaper. `PYTHONHASHSEED` is fixed, and the event loop's clock is as slow as the tool makes
the side, so that timers fire after as much work as in production.
"""

import asyncio
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from signal import SIGINT
from tempfile import TemporaryDirectory

from scripts.benchmarks.contenders import FLOOR, FLOOR_MODULE, GATE, GATE_MODULE
from scripts.benchmarks.load import MeasurementFailed, send_in_turn
from scripts.benchmarks.processes import TEST_CORE, free_port, process
from scripts.benchmarks.report import INSTRUCTIONS_PER
from scripts.benchmarks.run import Figures, Run
from scripts.benchmarks.wire import BODY, SHORT_STREAM_EVENTS, request, stream_body

# Long enough for the side to forward one event before the next arrives.
PAUSE_US = 60_000
# Enough events per stream that neither opening it nor variation between runs matters per event.
EVENTS = 600
# The share of events that must arrive one by one.
SEPARATE = 0.95
START_TIMEOUT_S = 120

LOAD = "1 connection"

NO_COUNTER = (
    "neither `perf stat -e instructions` works here nor is valgrind installed "
    "(Debian, Ubuntu: apt install valgrind)"
)


@dataclass(frozen=True, slots=True)
class Counter:
    """A tool that counts the instructions of a command.

    Args:
        prefix: what to write before the command, given the file for the result.
        result: finds the count in that file's text; its first group has the digits.
        slowdown: how much slower the command runs.
    """

    name: str
    prefix: Callable[[Path], tuple[str, ...]]
    result: re.Pattern[str]
    slowdown: int

    def read(self, file: Path) -> int:
        """The count in the tool's result. Raises MeasurementFailed if there is none."""
        text = file.read_text() if file.exists() else "no result"
        if found := self.result.search(text):
            return int(found[1])
        raise MeasurementFailed(f"{self.name} counted nothing: {text.strip()[-200:]!r}")


PERF = Counter(
    "perf",
    lambda file: ("perf", "stat", "-x,", "-e", "instructions:u", "-o", str(file), "--"),
    re.compile(r"^(\d+),.*instructions:u", re.MULTILINE),
    slowdown=1,
)
VALGRIND = Counter(
    "valgrind",
    lambda file: (
        *("valgrind", "--quiet", "--tool=cachegrind", "--cache-sim=no"),
        f"--cachegrind-out-file={file}",
    ),
    re.compile(r"^summary: (\d+)", re.MULTILINE),
    slowdown=40,
)


def find_counter() -> Counter:
    """The first tool that works on this machine. Raises MeasurementFailed."""
    for counter in (PERF, VALGRIND):
        if shutil.which(counter.prefix(Path())[0]) and _works(counter):
            return counter
    raise MeasurementFailed(NO_COUNTER)


def _works(counter: Counter) -> bool:
    with TemporaryDirectory() as scratch:
        file = Path(scratch, "count")
        subprocess.run((*counter.prefix(file), "true"), capture_output=True)
        try:
            return counter.read(file) > 0
        except MeasurementFailed:
            return False


@dataclass(frozen=True, slots=True)
class Load:
    """Requests whose instructions are counted.

    Args:
        what: what is counted, as in "instructions per request".
        number: how many of them the counted run has.
        warm_up: how many of them each run starts with.
        send: sends a number of them to a port; returns in how many reads the responses arrived.
        events: how many events each has; as many reads should return them.
    """

    what: str
    number: int
    warm_up: int
    send: Callable[[int, int], int]
    events: int


def _send_requests(port: int, number: int) -> int:
    return asyncio.run(send_in_turn(port, request(BODY), number))


def _send_events(port: int, number: int) -> int:
    payload = request(stream_body(number, PAUSE_US), encoding="identity")
    return asyncio.run(send_in_turn(port, payload, 1))


def require_separate_events(reads: int, events: int) -> None:
    """Raise MeasurementFailed if many events arrived together."""
    if reads < SEPARATE * events:
        raise MeasurementFailed(
            f"{events} events arrived in {reads} reads: the machine is too busy to count them"
        )


def _send_short_streams(port: int, number: int) -> int:
    payload = request(stream_body(SHORT_STREAM_EVENTS, PAUSE_US), encoding="identity")
    return asyncio.run(send_in_turn(port, payload, number))


LOADS = (
    Load("request", 300, 50, _send_requests, events=0),
    Load("event", EVENTS, 50, _send_events, events=1),
    Load("short stream", 60, 10, _send_short_streams, SHORT_STREAM_EVENTS),
)


def instructions(run: Run) -> None:
    """The instructions of the floor and the gate, on one connection."""
    try:
        counter = find_counter()
    except MeasurementFailed as failure:
        run.report.skip("instructions", failure)
        return
    measures = {
        FLOOR: partial(count_all, counter, FLOOR_MODULE, {"UPSTREAM": run.upstream}),
        GATE: partial(count_all, counter, GATE_MODULE, run.gate),
    }
    run.alternate("instructions", LOAD, measures, warm_up=0, rounds=run.effort.count_rounds)


def count_all(counter: Counter, module: str, environ: Mapping[str, str]) -> Figures:
    """The instructions of a module of this repository for each load, by metric."""
    idle = _count(counter, module, environ)
    return {
        f"{INSTRUCTIONS_PER}{load.what}": (
            (_count(counter, module, environ, load) - idle) / load.number
        )
        for load in LOADS
    }


def _count(
    counter: Counter, module: str, environ: Mapping[str, str], counted: Load | None = None
) -> int:
    """The instructions of a run with the warm-up and perhaps a load, start-up included."""
    slow_clock = ("-m", "scripts.benchmarks.slow_clock", str(counter.slowdown))
    with TemporaryDirectory() as scratch:
        file, data = Path(scratch, "count"), Path(scratch, "data")
        data.mkdir()
        command = (*counter.prefix(file), sys.executable, *slow_clock, module)
        variables = {**environ, "PYTHONHASHSEED": "0", "DATA_DIR": str(data)}
        port = free_port()
        with process(TEST_CORE, command, variables, port, START_TIMEOUT_S, SIGINT):
            for load in LOADS:
                load.send(port, load.warm_up)
            if counted is not None:
                reads = counted.send(port, counted.number)
                require_separate_events(reads, counted.events * counted.number)
        return counter.read(file)
