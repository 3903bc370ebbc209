"""Resident memory of new processes: idle, with many streams, waiters or queued bodies."""

import asyncio
from base64 import b64encode
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from scripts.benchmarks.contenders import GATE, GATE_MODULE, Contender, Side, ours
from scripts.benchmarks.load import hold_requests, read_streams, send_requests
from scripts.benchmarks.processes import rss_mb
from scripts.benchmarks.run import Figures, Run
from scripts.benchmarks.wire import body, request

CLIENTS = 1000
EVENT_PAUSE_US = 200_000
# How long clients may take to connect and to send their requests; and large ones, which the gate
# begins to compress after a second.
SETTLE_S, SETTLE_BODIES_S = 3, 8

BODIES, BODY_MB = 20, 5
BODIES_METRIC = f"MB for {BODIES} bodies"

STREAMS, WAITERS = f"{CLIENTS:,} streams", f"{CLIENTS:,} waiters"
QUEUED_BODIES = f"{BODIES} queued bodies of {BODY_MB} MB"


def memory(run: Run) -> None:
    """The floor and the peers hold streams only, because they have no queue."""
    contenders = run.contenders[1:]
    streams = {each.name: partial(_with_streams, run.effort.seconds, each) for each in contenders}
    run.alternate("memory", STREAMS, streams, warm_up=0)
    for load, measure, rate in (
        (WAITERS, _with_waiters, "10"),
        (QUEUED_BODIES, _with_bodies, "0.1"),
    ):
        slow = {"RATE_LIMIT": rate, "RATE_LIMIT_BURST": "1", "RATE_LIMIT_TIMEOUT": "600"}
        gate = ours(GATE, GATE_MODULE, run.gate | slow)
        run.alternate("memory", load, {GATE: partial(measure, gate)}, warm_up=0)


def _with_streams(seconds: float, contender: Contender) -> Figures:
    with contender.start() as side:
        idle, during = asyncio.run(_memory_with(side, _open_streams(side, 20)))
        asyncio.run(send_requests(side.port, side.headers, 32, seconds))
        return {
            "MB idle": idle,
            "KB per stream": (during - idle) / CLIENTS * 1000,
            "MB after load": rss_mb(side.pid),
        }


def _with_waiters(contender: Contender) -> Figures:
    with contender.start() as side:
        idle, during = asyncio.run(_memory_with(side, _open_streams(side, 0), cancel=True))
        return {"KB per waiter": (during - idle) / CLIENTS * 1000}


def _with_bodies(contender: Contender) -> Figures:
    """Chat requests with a picture in them, as base64, or with text."""
    picture = b64encode(Random(0).randbytes(BODY_MB * 750_000)).decode()
    return {
        BODIES_METRIC: _memory_of_bodies(contender, picture),
        f"{BODIES_METRIC} of text": _memory_of_bodies(contender, _text(BODY_MB * 1_000_000)),
    }


def _text(size: int) -> str:
    """Words of the documentation in random order."""
    words = Path("docs/settings.md").read_text().split()
    return " ".join(Random(0).choices(words, k=size // 4))[:size]


def _memory_of_bodies(contender: Contender, content: str) -> float:
    """Memory in MB for queued requests with this content."""
    payload = request(body(content))
    with contender.start() as side:
        # The first request leaves the others waiting.
        asyncio.run(send_requests(side.port, side.headers, 1, 0))
        held = hold_requests(side.port, payload, BODIES)
        loaded = _memory_with(side, held, cancel=True, settle_s=SETTLE_BODIES_S)
        idle, during = asyncio.run(loaded)
        return during - idle


def _open_streams(side: Side, events: int) -> Coroutine[Any, Any, object]:
    return read_streams(side.port, side.headers, CLIENTS, events, EVENT_PAUSE_US)


async def _memory_with(
    side: Side,
    load: Coroutine[Any, Any, object],
    *,
    cancel: bool = False,
    settle_s: float = SETTLE_S,
) -> tuple[float, float]:
    """Memory in MB, idle and once a load has begun, which is then cancelled or awaited."""
    idle = rss_mb(side.pid)
    task = asyncio.create_task(load)
    await asyncio.sleep(settle_s)
    during = rss_mb(side.pid)
    if cancel:
        task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return idle, during
