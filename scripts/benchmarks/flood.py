"""A flood of requests beside a light client, through a proxy and an upstream with a quota.

The light client sends a request a second, whether or not the one before was answered. The flood's
requests come all at once. Neither retries after an error.
"""

import asyncio
import sys
from dataclasses import dataclass, field
from functools import partial
from statistics import quantiles
from time import monotonic

from scripts.benchmarks.contenders import Contender, direct, floor_and_gate, peer
from scripts.benchmarks.load import HOST, MeasurementFailed, read_response
from scripts.benchmarks.processes import LOAD_CORE, free_port, process
from scripts.benchmarks.run import Figures, Run
from scripts.benchmarks.wire import BODY, request

# The quota of upstream and of each proxy that can have one, in requests a second.
QUOTA = 10
FLOOD, FLOOD_AT_S = 200, 2.5
DURATION_S = 25
TIMEOUT_S = 60
LOAD = f"{FLOOD} requests beside 1/s, quota {QUOTA}/s"

METRICS = LIGHT_P50, LIGHT_P95, LIGHT_ERRORS, FLOOD_LONGEST, FLOOD_ERRORS = (
    "light client p50 s",
    "light client p95 s",
    "light client errors %",
    "flood longest s",
    "flood errors %",
)

# The client's name, in the headers by which RustyGate and HiveMind tell clients apart.
NAME = "X-RustyGate-Client: {0}\r\nx-hivemind-agent-id: {0}\r\n"


@dataclass(slots=True)
class Answers:
    """What a client got: how long each of its successful requests took, and its errors."""

    waits_s: list[float] = field(default_factory=list)
    errors: int = 0

    @property
    def errors_percent(self) -> float:
        return 100 * self.errors / (self.errors + len(self.waits_s) or 1)


def flood(run: Run) -> None:
    """A flood beside a light client, through each side."""

    def measure(contender: Contender) -> Figures:
        with contender.start() as side:
            return flood_figures(*asyncio.run(send_flood(side.port, side.headers)))

    port = free_port()
    upstream = f"http://{HOST}:{port}"
    command = (sys.executable, "-m", "scripts.benchmarks.upstream")
    # Clients give their names. One with a key has the name in CLIENTS_FILE.
    gate = {
        **{name: value for name, value in run.gate.items() if name != "CLIENTS_FILE"},
        "OPENAI_BASE_URL": f"{upstream}/v1",
        "RATE_LIMIT": str(QUOTA),
        "RATE_LIMIT_BURST": str(QUOTA),
    }
    with process(LOAD_CORE, command, {"QUOTA": str(QUOTA)}, port):
        contenders = [
            direct(port),
            *floor_and_gate(upstream, gate),
            *(peer(each, upstream, QUOTA) for each in run.peers),
        ]
        measures = {each.name: partial(measure, each) for each in contenders}
        run.alternate("flood", LOAD, measures, warm_up=0, rounds=1)


async def send_flood(port: int, headers: str) -> tuple[Answers, Answers]:
    """Send both clients' requests; returns the light client's answers and the flood's."""
    light, flood = Answers(), Answers()
    light_payload, flood_payload = (
        request(BODY, headers + NAME.format(name)) for name in ("light", "flood")
    )
    sent = [_send(port, light_payload, second, light) for second in range(DURATION_S)]
    sent += [_send(port, flood_payload, FLOOD_AT_S, flood) for _ in range(FLOOD)]
    await asyncio.gather(*sent)
    return light, flood


async def _send(port: int, payload: bytes, at_s: float, answers: Answers) -> None:
    """Send a request on a connection of its own, at a time from now."""
    await asyncio.sleep(at_s)
    began = monotonic()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection(HOST, port)
            try:
                writer.write(payload)
                await read_response(reader)
            finally:
                writer.close()
    except (OSError, EOFError, TimeoutError, MeasurementFailed):
        answers.errors += 1
    else:
        answers.waits_s.append(monotonic() - began)


def flood_figures(light: Answers, flood: Answers) -> Figures:
    """The figures of a run. Waits are those of successful requests; without one there are none."""
    waits = {}
    if found := light.waits_s:
        cuts = quantiles(found if len(found) > 1 else found * 2, n=20, method="inclusive")
        waits = {LIGHT_P50: cuts[9], LIGHT_P95: cuts[18]}
    if flood.waits_s:
        waits[FLOOD_LONGEST] = max(flood.waits_s)
    errors = {LIGHT_ERRORS: light.errors_percent, FLOOD_ERRORS: flood.errors_percent}
    return waits | errors
