"""Draws how the gate shares a quota between a flood and two light clients.

`python -m scripts.benchmarks.fairness FILE.svg` runs the gate's own admission on a virtual clock,
twice with the same arrivals: with one client name for all requests, which is one first-in,
first-out queue, and with a name per client. Each dot is one request: when it arrived, and how long
it waited. The run is deterministic.
"""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from statistics import median
from typing import NamedTuple

from rustygate.admission.gate import Gate
from rustygate.config import Settings
from rustygate.core.bucket import SECOND
from rustygate.exchange import Exchange
from rustygate.plan import virtual_clock

RATE = 5
FLOOD, FLOOD_AT_S = 150, 5.0
LIGHT = ("web", "search")
DURATION_S = 60
COLOURS = {"flood": "#b8b8b8", "web": "#1f77b4", "search": "#d62728"}

FIFO, FAIR = "One queue for all", "RustyGate: a turn for each client"

PANEL_WIDTH, PANEL_HEIGHT = 330, 240
LEFT, TOP, GAP, BOTTOM = 50, 56, 50, 46
WAIT_TICKS_S = (0, 10, 20, 30, 40, 50)
TIME_TICKS_S = (0, 15, 30, 45, 60)


class Arrival(NamedTuple):
    at_s: float
    client: str


class Wait(NamedTuple):
    """A request that was admitted: whose it was, when it arrived, how long it waited."""

    client: str
    at_s: float
    wait_s: float


def arrivals() -> list[Arrival]:
    """150 requests at once from the flood, one a second from each light client."""
    flood = [Arrival(FLOOD_AT_S, "flood")] * FLOOD
    light = [
        Arrival(second + 0.25 + number / 2, client)
        for second in range(DURATION_S)
        for number, client in enumerate(LIGHT)
    ]
    return sorted(flood + light)


async def run_gate(by_client: bool) -> list[Wait]:
    """Send all arrivals through a gate, each under its client's name or all under one."""
    gate = Gate(Settings(openai_api_key="none", rate_limit=RATE, rate_limit_burst=1))
    began_s = asyncio.get_running_loop().time()
    far = gate.now() + 10 * DURATION_S * SECOND

    async def request(arrival: Arrival) -> Wait:
        await asyncio.sleep(began_s + arrival.at_s - asyncio.get_running_loop().time())
        client = arrival.client if by_client else "all"
        exchange = Exchange(client, "POST", "/v1/responses", deadline=far)
        async with gate.admission(exchange) as admission:
            admission.record_response(ok=True)
        return Wait(arrival.client, arrival.at_s, exchange.queued / SECOND)

    waits = await asyncio.gather(*map(request, arrivals()))
    gate.close()
    return waits


def measure() -> dict[str, list[Wait]]:
    """The waits of both runs, by the title of their panel."""
    return {
        FIFO: virtual_clock.run(lambda: run_gate(by_client=False)),
        FAIR: virtual_clock.run(lambda: run_gate(by_client=True)),
    }


def table(runs: dict[str, list[Wait]]) -> Iterator[str]:
    """Median and longest wait of each client, as Markdown."""
    yield "| order | client | requests | median wait | longest wait |"
    yield "|---|---|---|---|---|"
    for title, waits in runs.items():
        for client in COLOURS:
            own = [wait.wait_s for wait in waits if wait.client == client]
            yield f"| {title} | {client} | {len(own)} | {median(own):.1f} s | {max(own):.1f} s |"


def picture(runs: dict[str, list[Wait]]) -> str:
    """Both runs side by side, as SVG."""
    width = LEFT + len(runs) * (PANEL_WIDTH + GAP)
    height = TOP + PANEL_HEIGHT + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        *_legend(),
    ]
    for number, (title, waits) in enumerate(runs.items()):
        parts += _panel(LEFT + number * (PANEL_WIDTH + GAP), title, waits)
    return "\n".join([*parts, "</svg>", ""])


def _legend() -> Iterator[str]:
    texts = {
        "flood": f"flood: {FLOOD} requests at {FLOOD_AT_S:g} s",
        "web": "web: 1 request/s",
        "search": "search: 1 request/s",
    }
    x = LEFT
    for client, text in texts.items():
        yield f'<circle cx="{x + 4}" cy="16" r="4" fill="{COLOURS[client]}"/>'
        yield _text(x + 14, 20, text)
        x += 8 * len(text) + 10
    yield _text(x, 20, f"quota: {RATE} requests/s")


def _panel(left: int, title: str, waits: Sequence[Wait]) -> Iterator[str]:
    bottom = TOP + PANEL_HEIGHT
    yield _text(left, TOP - 12, title, weight="bold")
    for tick in WAIT_TICKS_S:
        y = _y(tick)
        yield f'<path d="M{left} {y}H{left + PANEL_WIDTH}" stroke="#e4e4e4"/>'
        yield _text(left - 6, y + 4, str(tick), "end")
    for tick in TIME_TICKS_S:
        yield _text(_x(left, tick), bottom + 18, str(tick), "middle")
    yield _text(left + PANEL_WIDTH, bottom + 36, "arrival, s", "end")
    yield _text(left - 6, TOP - 12, "wait, s", "end")
    for client, colour in COLOURS.items():
        for wait in waits:
            if wait.client == client:
                x, y = _x(left, wait.at_s), _y(wait.wait_s)
                yield f'<circle cx="{x}" cy="{y}" r="2.5" fill="{colour}"/>'


def _x(left: int, at_s: float) -> float:
    return round(left + at_s / TIME_TICKS_S[-1] * PANEL_WIDTH, 1)


def _y(wait_s: float) -> float:
    return round(TOP + PANEL_HEIGHT * (1 - wait_s / WAIT_TICKS_S[-1]), 1)


def _text(x: float, y: float, text: str, anchor: str = "start", weight: str = "normal") -> str:
    return (
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-weight="{weight}" fill="#222222">'
        f"{escape(text)}</text>"
    )


def main(path: str) -> None:
    runs = measure()
    Path(path).write_text(picture(runs))
    print("\n".join(table(runs)))


if __name__ == "__main__":
    main(*sys.argv[1:])
