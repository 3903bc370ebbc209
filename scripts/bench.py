"""Measure the gate next to its floor, a minimal aiohttp proxy, and other proxies, in the same run.

The process under test is pinned to the last core; upstream and the load clients, raw asyncio
protocols, are pinned to the first. Rounds are short and alternate between the sides. The report
shows medians and their ratios to the floor, and a range where the rounds disagree. CPU time
includes all child processes and is the figure that a busy machine disturbs least. Latencies are
differences to those of a direct connection.
"""

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory

from scripts.benchmarks.admission import BUILT_IN, LIMITERS
from scripts.benchmarks.contenders import Side, direct, floor_and_gate, gate_environ, peer
from scripts.benchmarks.flood import flood
from scripts.benchmarks.group_cost import group
from scripts.benchmarks.instructions import instructions
from scripts.benchmarks.load import (
    HOST,
    MeasurementFailed,
    download,
    exchange_frames,
    read_streams,
    send_requests,
    upload,
)
from scripts.benchmarks.memory import memory
from scripts.benchmarks.peers import PEERS
from scripts.benchmarks.pictures import chart
from scripts.benchmarks.processes import (
    LOAD_CORE,
    TEST_CORE,
    cpu_s,
    free_port,
    pinned,
    process,
)
from scripts.benchmarks.report import CPU_PER, Report
from scripts.benchmarks.run import QUICK, Effort, Figures, Run, each
from scripts.benchmarks.summary import CHARTS, SUMMARY, costs
from scripts.benchmarks.wire import BODY, SHORT_STREAM_EVENTS, stream_body

PAUSE_US = 20_000
SOCKETS = 50
# Short streams, at the pace of a fast model.
SHORT_STREAM_CONNECTIONS = 32
SHORT_STREAMS = f"{SHORT_STREAM_CONNECTIONS} connections, streams of {SHORT_STREAM_EVENTS} events"
SHORT_STREAM = stream_body(SHORT_STREAM_EVENTS, pause_us=2000)
LARGE_MIB = 64

# If the core was busy for a smaller share of the time, it did not limit the requests per second.
SATURATED = 0.9


@contextmanager
def cpu_of(side: Side) -> Iterator[Callable[[], float]]:
    """Yields a function that returns the CPU seconds used since; 0 for direct."""
    before = cpu_s(side.pid)
    yield lambda: cpu_s(side.pid) - before


def percentiles(name: str, times_ns: list[int]) -> Figures:
    """Median and 99th percentile, in milliseconds."""
    cuts = quantiles([*times_ns, times_ns[-1]], n=100, method="inclusive")
    return {f"{name}p50 ms": cuts[49] / 1e6, f"{name}p99 ms": cuts[98] / 1e6}


def requests(run: Run) -> None:
    """Requests with short responses, or short streams, one at a time on each connection."""

    def measure(what: str, content: bytes, side: Side) -> Figures:
        with cpu_of(side) as cpu_used:
            sent = send_requests(side.port, side.headers, connections, run.effort.seconds, content)
            results = asyncio.run(sent)
            cpu = cpu_used()
        number, took = len(results.latencies), results.took_s
        figures = {f"{what}s/s": number / took} | percentiles("", results.latencies)
        if not side.pid:
            return figures
        # If the load did not keep the core busy, what it could do is calculated.
        per_core = number / (took if cpu > took * SATURATED else cpu)
        cpu_figures = {f"{CPU_PER}{what}": cpu / number * 1e6, f"{what}s/s of a core": per_core}
        return cpu_figures | figures

    with run.sides() as sides:
        for connections in run.effort.connections:
            of_requests = each(sides, partial(measure, "request", BODY))
            run.alternate("requests", f"{connections} connections", of_requests)
        connections = SHORT_STREAM_CONNECTIONS
        of_streams = each(sides, partial(measure, "short stream", SHORT_STREAM))
        run.alternate("requests", SHORT_STREAMS, of_streams)


def streams(run: Run) -> None:
    """Streams opened at once, with fifty events a second each.

    CPU per event counts the events after all streams are open, because opening them costs
    as much as other requests.
    """
    events = int(1e6 * run.effort.stream_seconds / PAUSE_US)

    def measure(side: Side) -> Figures:
        cpu_when_open: list[float] = []
        with cpu_of(side) as cpu_used:

            def on_all_open() -> None:
                cpu_when_open.append(cpu_used())

            results = asyncio.run(
                read_streams(side.port, side.headers, number, events, PAUSE_US, on_all_open)
            )
            cpu = cpu_used()
        if not results.intact:
            raise MeasurementFailed("no stream completed in time")
        cpu_figures: Figures = {}
        if side.pid and results.events_after_open:
            spent_s = cpu - cpu_when_open[0]
            cpu_figures[f"{CPU_PER}event"] = spent_s / results.events_after_open * 1e6
        first = percentiles("first byte ", results.first)
        later = percentiles("event ", results.delays)
        return cpu_figures | first | later | {"intact %": 100 * results.intact / number}

    with run.sides() as sides:
        for number in run.effort.streams:
            run.alternate("streams", f"{number:,} streams", each(sides, measure))


def frames(run: Run) -> None:
    """WebSocket frames, in both directions."""

    def measure(side: Side) -> Figures:
        with cpu_of(side) as cpu_used:
            frames_seen = asyncio.run(exchange_frames(side.port, SOCKETS, run.effort.seconds))
            return {f"{CPU_PER}frame": cpu_used() / frames_seen * 1e6}

    with run.sides() as sides:
        measured_sides = [side for side in sides if side.any_path and side.pid]
        run.alternate("frames", f"{SOCKETS} sockets", each(measured_sides, measure))


def bodies(run: Run) -> None:
    """Large downloads and uploads; microseconds per MB are milliseconds per GB."""

    def measure(side: Side) -> Figures:
        with cpu_of(side) as cpu_used:
            megabytes = asyncio.run(transfer(side.port, side.headers, LARGE_MIB))
            return {f"{CPU_PER}MB": cpu_used() / megabytes * 1e6}

    with run.sides() as sides:
        measured_sides = [side for side in sides if side.any_path and side.pid]
        for transfer in (download, upload):
            load = f"{LARGE_MIB} MiB {transfer.__name__}"
            run.alternate("bodies", load, each(measured_sides, measure))


def admission(run: Run) -> None:
    """Admission by the gate and by other limiters, each in a new process."""

    def measure(name: str) -> Figures:
        arguments = ("-m", "scripts.benchmarks.admission", name, str(waiters))
        us = float(printed(*arguments, str(run.effort.seconds), **run.limiters))
        return {f"{CPU_PER}admission": us, "admissions/s of a core": 1e6 / us}

    for waiters in run.effort.waiters:
        names = (*BUILT_IN, *LIMITERS) if run.limiters else BUILT_IN
        measures = {name: partial(measure, name) for name in names}
        run.alternate("admission", f"{waiters:,} waiters", measures, warm_up=0)


def printed(*arguments: str, **environ: str) -> str:
    """The output of a Python process on the core under test. Raises MeasurementFailed."""
    command = (sys.executable, *arguments)
    try:
        with pinned(TEST_CORE):
            done = subprocess.run(
                command, env=os.environ | environ, capture_output=True, text=True, timeout=120
            )
    except subprocess.TimeoutExpired:
        raise MeasurementFailed("took more than two minutes") from None
    if done.returncode:
        raise MeasurementFailed(done.stderr.strip().rpartition("\n")[2])
    return done.stdout


SECTIONS: dict[str, Callable[[Run], None]] = {
    section.__name__: section
    for section in (
        *(instructions, requests, streams, frames, bodies),
        *(admission, memory, group, flood),
    )
}


def bench(effort: Effort, sections: list[str], peers: bool) -> Report:
    os.sched_setaffinity(0, {LOAD_CORE})
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    port = free_port()
    upstream = f"http://{HOST}:{port}"
    command = (sys.executable, "-m", "scripts.benchmarks.upstream")
    with TemporaryDirectory() as scratch, process(LOAD_CORE, command, {}, port):
        gate = gate_environ(upstream, Path(scratch))
        others = PEERS if peers else ()
        contenders = [
            direct(port),
            *floor_and_gate(upstream, gate),
            *(peer(each, upstream) for each in others),
        ]
        run = Run(effort, contenders, upstream, gate, others)
        if peers:
            run.install_limiters()
        for section in sections:
            SECTIONS[section](run)
    return run.report


def draw(report: Report, folder: Path) -> None:
    """Write the charts for which there are figures, and the table as Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(f"{report.markdown()}\n{costs(report)}\n")
    for name, title, section, metric in CHARTS:
        if lines := report.lines(section, metric):
            x_label = "waiters" if section == "admission" else section
            (folder / f"{name}.svg").write_text(chart(title, x_label, lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="take ten to fifteen minutes, with fewer rounds"
    )
    names = [*SECTIONS]
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, help="measure these sections only"
    )
    parser.add_argument(
        "--rounds", type=int, help="rounds per measurement (default: 15, quick: 5)"
    )
    parser.add_argument(
        "--seconds", type=float, help="seconds per load (default: 0.6, quick: 0.3)"
    )
    parser.add_argument(
        "--peers", action="store_true", help="install and measure other proxies and limiters too"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    parser.add_argument(
        "--pictures", type=Path, metavar="DIR", help="write charts and the table to DIR"
    )
    options = parser.parse_args()
    effort = QUICK if options.quick else Effort()
    effort = replace(
        effort,
        rounds=options.rounds or effort.rounds,
        seconds=options.seconds or effort.seconds,
    )
    report = bench(effort, options.only, options.peers)
    print(f"\n{report.markdown()}\n## Summary\n\n{report.markdown(SUMMARY)}\n{costs(report)}")
    if options.json:
        options.json.write_text(json.dumps(report.as_json(), indent=1))
    if options.pictures:
        draw(report, options.pictures)


if __name__ == "__main__":
    main()
