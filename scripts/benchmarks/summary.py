"""Which figures of a report are summarised, drawn, and compared by instructions and CPU time."""

from scripts.benchmarks.contenders import GATE
from scripts.benchmarks.flood import LOAD as FLOOD_LOAD
from scripts.benchmarks.flood import METRICS as FLOOD_METRICS
from scripts.benchmarks.group_cost import LOADS as GROUP_LOADS
from scripts.benchmarks.group_cost import METRICS as GROUP_METRICS
from scripts.benchmarks.instructions import LOAD, LOADS
from scripts.benchmarks.memory import BODIES_METRIC, QUEUED_BODIES, STREAMS, WAITERS
from scripts.benchmarks.report import CPU_PER, INSTRUCTIONS_PER, Key, Report
from scripts.benchmarks.wire import SHORT_STREAM_EVENTS

BUSY, MANY_STREAMS = "32 connections", "200 streams"
BUSY_SHORT = f"{BUSY}, streams of {SHORT_STREAM_EVENTS} events"
REQUEST, EVENT, SHORT_STREAM = (load.what for load in LOADS)

# The rows of the summary.
SUMMARY: tuple[Key, ...] = (
    *(("instructions", LOAD, f"{INSTRUCTIONS_PER}{load.what}") for load in LOADS),
    ("requests", BUSY, f"{CPU_PER}{REQUEST}"),
    ("requests", BUSY_SHORT, f"{CPU_PER}{SHORT_STREAM}"),
    ("requests", BUSY, "requests/s of a core"),
    ("requests", "1 connections", "added p50 ms"),
    ("requests", "1 connections", "added p99 ms"),
    ("streams", MANY_STREAMS, f"{CPU_PER}{EVENT}"),
    ("streams", MANY_STREAMS, "added first byte p99 ms"),
    ("streams", MANY_STREAMS, "added event p99 ms"),
    ("streams", "512 streams", "added event p99 ms"),
    ("streams", "1,000 streams", "intact %"),
    ("frames", "50 sockets", f"{CPU_PER}frame"),
    ("bodies", "64 MiB download", f"{CPU_PER}MB"),
    ("bodies", "64 MiB upload", f"{CPU_PER}MB"),
    ("admission", "0 waiters", f"{CPU_PER}admission"),
    ("admission", "1,000 waiters", f"{CPU_PER}admission"),
    ("admission", "100,000 waiters", f"{CPU_PER}admission"),
    ("memory", STREAMS, "MB idle"),
    ("memory", STREAMS, "KB per stream"),
    ("memory", WAITERS, "KB per waiter"),
    ("memory", QUEUED_BODIES, BODIES_METRIC),
    *(("group", load, metric) for load in GROUP_LOADS for metric in GROUP_METRICS),
    *(("flood", FLOOD_LOAD, metric) for metric in FLOOD_METRICS),
)

CHARTS = (
    ("events", "CPU microseconds per event", "streams", f"{CPU_PER}event"),
    ("admission", "CPU microseconds per admission", "admission", f"{CPU_PER}admission"),
)

# What is counted in instructions, and measured as CPU time under another load.
COSTS: tuple[tuple[str, Key, Key], ...] = tuple(
    (
        what,
        ("instructions", LOAD, f"{INSTRUCTIONS_PER}{what}"),
        (section, load, f"{CPU_PER}{what}"),
    )
    for what, section, load in (
        (REQUEST, "requests", BUSY),
        (EVENT, "streams", MANY_STREAMS),
        (SHORT_STREAM, "requests", BUSY_SHORT),
    )
)


HEADINGS = ("| ratio to the floor | instructions | CPU time |", "|---|---|---|")


def costs(report: Report) -> str:
    """What the gate costs, as a ratio to the floor, by instructions and by CPU time."""
    lines = [*HEADINGS]
    for what, *keys in COSTS:
        ratios = (_ratio(report, key) for key in keys)
        lines.append(f"| {what} | {' | '.join(ratios)} |")
    return "\n".join(lines)


def _ratio(report: Report, key: Key) -> str:
    figure = report.row(key).get(GATE) if key in report.values else None
    return "not measured" if figure is None else figure.ratio_text
