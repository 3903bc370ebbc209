"""A forecast of `rustygate plan`, compared with a run against the simulator over sockets."""

import asyncio
import json
from time import monotonic

import pytest
from aiohttp import web

from rustygate.plan.demand import Demand
from rustygate.plan.forecast import Forecast, Outcome, Plan, forecast
from rustygate.simulator import Options, make_app
from tests.conftest import StartGate
from tests.support.gate import Gate
from tests.support.http import post
from tests.support.lateness import Lateness
from tests.support.waiting import in_background

LATENCY_S = 0.05
TPM = 120_000
PROMPT = "x" * 40

# Processing time, which the virtual clock does not count, and a request more or less that is
# admitted before the clients begin to wait.
SLACK_S = 0.25

# The first client takes a full minute's tokens, and the second takes what refills until the others
# arrive. Those wait for every token.
PLAN = Plan(
    (
        Demand("first", 1, 0, TPM),
        Demand("second", 24, 1.0, 100),
        Demand("big", 20, 1.2, 140),
        Demand("web", 20, 1.3, 70, "interactive"),
        Demand("mid", 30, 1.4, 70),
    ),
    rpm=None,
    tpm=TPM,
    latency_s=LATENCY_S,
)


async def send(running: Gate, demand: Demand, outcome: Outcome) -> None:
    """Send one of a client's requests, which costs as many tokens as planned."""
    body = {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": PROMPT}],
        "max_completion_tokens": demand.tokens - len(PROMPT) // 4,
    }
    got = await running.request(
        post(
            json.dumps(body).encode(),
            f"X-RustyGate-Client: {demand.client}",
            f"X-RustyGate-Priority: {demand.priority}",
        )
    )
    assert got.status == 200
    outcome.waits_s.append(int(got.head["x-rustygate-queued-ms"]) / 1000)


async def send_all(running: Gate, demand: Demand, outcome: Outcome) -> None:
    await asyncio.sleep(demand.at_s or 0)
    await asyncio.gather(*(send(running, demand, outcome) for _ in range(int(demand.count))))


async def run(running: Gate) -> Forecast:
    """Run the plan over sockets."""
    outcomes = {demand.client: Outcome() for demand in PLAN.demands}
    began = monotonic()
    await asyncio.gather(
        *(send_all(running, demand, outcomes[demand.client]) for demand in PLAN.demands)
    )
    return Forecast(outcomes, monotonic() - began, None, None)


@pytest.mark.alone
async def test_plan_agrees_with_a_run_against_the_simulator(gate: StartGate) -> None:
    runner = web.AppRunner(
        make_app(Options(rpm=0, tpm=TPM, latency=LATENCY_S)), shutdown_timeout=0
    )
    lateness = Lateness()
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        running = await gate(OPENAI_BASE_URL=url, RATE_LIMIT="auto", RATE_LIMIT_BURST=20)
        async with in_background(lateness.watch()):
            measured = await run(running)
    finally:
        await runner.cleanup()
    planned = await asyncio.to_thread(forecast, PLAN)
    slack_s = SLACK_S + 2 * lateness.worst_s
    assert measured.duration_s == pytest.approx(planned.duration_s, rel=0.1)
    for client in ("big", "web", "mid"):
        for share in (0.5, 0.95, 1.0):
            actual = measured.outcomes[client].quantile(share)
            expected = planned.outcomes[client].quantile(share)
            assert actual == pytest.approx(expected, rel=0.1, abs=slack_s), (client, share)
