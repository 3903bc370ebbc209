"""Measures the gate beside its floor, a bare aiohttp pipe, and beside its peers, in the same run.

What is under test is pinned to the last core; upstream and the loads, raw asyncio protocols, to
the first. Rounds are short and alternate between the sides; medians are told, ratios to the floor
first, and a range instead where the rounds disagree. CPU time is that of the process under test
with all its children, which a busy machine disturbs least; latencies are told as what a side adds
to direct's.
"""

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory

from scripts.benchmarks.admission import LIMITERS, OURS
from scripts.benchmarks.contenders import (
    FLOOR,
    GATE,
    Contender,
    Side,
    direct,
    gate_environ,
    ours,
    peer,
)
from scripts.benchmarks.load import HOST, Failed, ask, download, listen, talk, upload
from scripts.benchmarks.peers import PEERS
from scripts.benchmarks.pictures import chart
from scripts.benchmarks.processes import cpu_s, free_port, pinned, process, rss_mb
from scripts.benchmarks.report import CPU_PER, Report
from scripts.benchmarks.run import QUICK, Effort, Figures, Measures, Run

LOAD_CORE, TEST_CORE = 0, (os.cpu_count() or 1) - 1
PAUSE_US = 20_000
SOCKETS = 50
CROWD = 1000
LARGE_MIB = 64

# A core that is idle for more than this was not what limited the requests per second.
FULL = 0.9


@contextmanager
def cpu_of(side: Side) -> Iterator[Callable[[], float]]:
    """CPU seconds that a side spends meanwhile; none for direct."""
    before = cpu_s(side.pid)
    yield lambda: cpu_s(side.pid) - before


def percentiles(name: str, times_ns: list[int]) -> Figures:
    """Median and 99th percentile, in milliseconds."""
    cuts = quantiles([*times_ns, times_ns[-1]], n=100, method="inclusive")
    return {f"{name}p50 ms": cuts[49] / 1e6, f"{name}p99 ms": cuts[98] / 1e6}


def each(sides: list[Side], measure: Callable[[Side], Figures]) -> Measures:
    return {side.name: partial(measure, side) for side in sides}


def requests(run: Run) -> None:
    """Requests with a short answer; each connection has one at a time."""

    def measure(side: Side) -> Figures:
        with cpu_of(side) as spent:
            answers = asyncio.run(ask(side.port, side.headers, connections, run.effort.seconds))
            cpu = spent()
        number, took = len(answers.latencies), answers.took_s
        figures = {"requests/s": number / took} | percentiles("", answers.latencies)
        if not side.pid:
            return figures
        # What a core could do is reckoned if the load did not keep it busy.
        per_core = number / (took if cpu > took * FULL else cpu)
        of_cpu = {f"{CPU_PER}request": cpu / number * 1e6, "requests/s of a core": per_core}
        return of_cpu | figures

    with run.sides() as sides:
        for connections in run.effort.connections:
            run.alternate("requests", f"{connections} connections", each(sides, measure))


def streams(run: Run) -> None:
    """Streams opened at once, fifty events a second each.

    To open them is so many requests, which are measured by themselves: CPU per event is that of
    the events that come once all are open.
    """
    events = int(1e6 * run.effort.stream_seconds / PAUSE_US)

    def measure(side: Side) -> Figures:
        opening: list[float] = []
        with cpu_of(side) as spent:

            def begun() -> None:
                opening.append(spent())

            seen = asyncio.run(listen(side.port, side.headers, number, events, PAUSE_US, begun))
            cpu = spent()
        if not seen.intact:
            raise Failed("not one stream came whole and in time")
        measured = side.pid and seen.late
        of_cpu = {f"{CPU_PER}event": (cpu - opening[0]) / seen.late * 1e6} if measured else {}
        first, later = percentiles("first byte ", seen.first), percentiles("event ", seen.delays)
        return of_cpu | first | later | {"intact %": 100 * seen.intact / number}

    with run.sides() as sides:
        for number in run.effort.streams:
            run.alternate("streams", f"{number:,} streams", each(sides, measure))


def frames(run: Run) -> None:
    """Frames of WebSockets, there and back."""

    def measure(side: Side) -> Figures:
        with cpu_of(side) as spent:
            seen = asyncio.run(talk(side.port, SOCKETS, run.effort.seconds))
            return {f"{CPU_PER}frame": spent() / seen * 1e6}

    with run.sides() as sides:
        able = [side for side in sides if side.any_path and side.pid]
        run.alternate("frames", f"{SOCKETS} sockets", each(able, measure))


def bodies(run: Run) -> None:
    """Large bodies, down and up; microseconds per MB are milliseconds per GB."""

    def measure(side: Side) -> Figures:
        with cpu_of(side) as spent:
            seen = asyncio.run(transfer(side.port, side.headers, LARGE_MIB))
            return {f"{CPU_PER}MB": spent() / seen * 1e6}

    with run.sides() as sides:
        able = [side for side in sides if side.any_path and side.pid]
        for transfer in (download, upload):
            load = f"{LARGE_MIB} MiB {transfer.__name__}"
            run.alternate("bodies", load, each(able, measure))


def admission(run: Run) -> None:
    """The gate's admission and that of other limiters, in a process of its own each time."""

    def measure(name: str) -> Figures:
        arguments = ("-m", "scripts.benchmarks.admission", name, str(waiters))
        us = float(printed(*arguments, str(run.effort.seconds), **run.limiters))
        return {f"{CPU_PER}admission": us, "admissions/s of a core": 1e6 / us}

    for waiters in run.effort.waiters:
        names = (*OURS, *LIMITERS) if run.limiters else OURS
        measures = {name: partial(measure, name) for name in names}
        run.alternate("admission", f"{waiters:,} waiters", measures, warm_up=0)


def printed(*arguments: str, **environ: str) -> str:
    """What a Python on the tested core prints. Raises Failed."""
    command = (sys.executable, *arguments)
    try:
        with pinned(TEST_CORE):
            done = subprocess.run(
                command, env=os.environ | environ, capture_output=True, text=True, timeout=120
            )
    except subprocess.TimeoutExpired:
        raise Failed("it took more than two minutes") from None
    if done.returncode:
        raise Failed(done.stderr.strip().rpartition("\n")[2])
    return done.stdout


def memory(run: Run) -> None:
    """Resident memory of fresh processes: idle, with many streams or waiters, after a load."""

    def with_streams(contender: Contender) -> Figures:
        with contender.start() as side:
            idle, during = asyncio.run(crowded(side, events=20))
            asyncio.run(ask(side.port, side.headers, 32, run.effort.seconds))
            return {
                "MB idle": idle,
                "KB per stream": (during - idle) / CROWD * 1000,
                "MB after load": rss_mb(side.pid),
            }

    def with_waiters(contender: Contender) -> Figures:
        with contender.start() as side:
            idle, during = asyncio.run(crowded(side, events=0))
            return {"KB per waiter": (during - idle) / CROWD * 1000}

    measures = {each.name: partial(with_streams, each) for each in run.contenders[1:]}
    run.alternate("memory", f"{CROWD:,} streams", measures, warm_up=0)
    slow = {"RATE_LIMIT": "10", "RATE_LIMIT_BURST": "1", "RATE_LIMIT_TIMEOUT": "600"}
    gate = ours(GATE, TEST_CORE, "rustygate", run.gate | slow)
    run.alternate("memory", f"{CROWD:,} waiters", {GATE: partial(with_waiters, gate)}, warm_up=0)


async def crowded(side: Side, events: int) -> tuple[float, float]:
    """Memory before a crowd listens, each to five events a second, and when all are there."""
    idle = rss_mb(side.pid)
    crowd = asyncio.create_task(listen(side.port, side.headers, CROWD, events, 200_000))
    await asyncio.sleep(3)
    during = rss_mb(side.pid)
    if not events:
        crowd.cancel()
    with suppress(asyncio.CancelledError):
        await crowd
    return idle, during


SECTIONS = {each.__name__: each for each in (requests, streams, frames, bodies, admission, memory)}

# What README tells.
IN_SHORT = (
    ("requests", "32 connections", f"{CPU_PER}request"),
    ("requests", "32 connections", "requests/s of a core"),
    ("requests", "1 connections", "added p50 ms"),
    ("streams", "200 streams", f"{CPU_PER}event"),
    ("streams", "200 streams", "added event p99 ms"),
    ("streams", "1,000 streams", "intact %"),
    ("frames", f"{SOCKETS} sockets", f"{CPU_PER}frame"),
    ("bodies", f"{LARGE_MIB} MiB download", f"{CPU_PER}MB"),
    ("bodies", f"{LARGE_MIB} MiB upload", f"{CPU_PER}MB"),
    ("admission", "0 waiters", f"{CPU_PER}admission"),
    ("admission", "1,000 waiters", f"{CPU_PER}admission"),
    ("admission", "100,000 waiters", f"{CPU_PER}admission"),
    ("memory", f"{CROWD:,} streams", "MB idle"),
    ("memory", f"{CROWD:,} streams", "KB per stream"),
    ("memory", f"{CROWD:,} waiters", "KB per waiter"),
)

PICTURES = (
    ("events", "CPU microseconds per event", "streams", f"{CPU_PER}event"),
    ("admission", "CPU microseconds per admission", "admission", f"{CPU_PER}admission"),
)


def bench(effort: Effort, sections: list[str], peers: bool) -> Report:
    os.sched_setaffinity(0, {LOAD_CORE})
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    port = free_port()
    upstream = f"http://{HOST}:{port}"
    command = (sys.executable, "-m", "scripts.benchmarks.upstream")
    with TemporaryDirectory() as scratch, process(LOAD_CORE, command, {}, port):
        gate = gate_environ(upstream, Path(scratch))
        contenders = [
            direct(port),
            ours(FLOOR, TEST_CORE, "scripts.benchmarks.floor", {"UPSTREAM": upstream}),
            ours(GATE, TEST_CORE, "rustygate", gate),
            *(peer(each, TEST_CORE, upstream) for each in PEERS if peers),
        ]
        run = Run(effort, contenders, gate)
        if peers:
            run.install_limiters()
        for section in sections:
            SECTIONS[section](run)
    return run.report


def draw(report: Report, folder: Path) -> None:
    """The pictures for which there are figures, and the table as Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(report.markdown())
    for name, title, section, metric in PICTURES:
        if lines := report.lines(section, metric):
            across = "waiters" if section == "admission" else section
            (folder / f"{name}.svg").write_text(chart(title, across, lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few minutes, less certain")
    names = [*SECTIONS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="some sections")
    parser.add_argument("--rounds", type=int, help="of each measurement; default: 15, quick 5")
    parser.add_argument("--seconds", type=float, help="of each load; default: 0.6, quick 0.3")
    parser.add_argument("--peers", action="store_true", help="install and measure others too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where all figures go")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="where charts and table go")
    options = parser.parse_args()
    effort = QUICK if options.quick else Effort()
    effort = replace(
        effort,
        rounds=options.rounds or effort.rounds,
        seconds=options.seconds or effort.seconds,
    )
    report = bench(effort, options.only, options.peers)
    print(f"\n{report.markdown()}\n## In short\n\n{report.markdown(IN_SHORT)}")
    if options.json:
        options.json.write_text(json.dumps(report.as_json(), indent=1))
    if options.pictures:
        draw(report, options.pictures)


if __name__ == "__main__":
    main()
