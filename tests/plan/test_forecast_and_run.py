"""What `plan` predicts, and what a run against the simulator over sockets comes to."""

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

LATENCY_S = 0.05
TPM = 120_000
PROMPT = "x" * 40

# What one machine takes to do what another does at once.
SLACK_S = 0.15

# The first takes a full minute's tokens and the second what refills until the others come, who
# wait for all they get.
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


async def ask(running: Gate, demand: Demand, outcome: Outcome) -> None:
    """One of a client's requests, which costs as many tokens as planned."""
    asked = {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": PROMPT}],
        "max_completion_tokens": demand.tokens - len(PROMPT) // 4,
    }
    got = await running.request(
        post(
            json.dumps(asked).encode(),
            f"X-RustyGate-Client: {demand.client}",
            f"X-RustyGate-Priority: {demand.priority}",
        )
    )
    assert got.status == 200
    outcome.waits_s.append(int(got.head["x-rustygate-queued-ms"]) / 1000)


async def come(running: Gate, demand: Demand, outcome: Outcome) -> None:
    await asyncio.sleep(demand.at_s or 0)
    await asyncio.gather(*(ask(running, demand, outcome) for _ in range(int(demand.count))))


async def run(running: Gate) -> Forecast:
    """What the plan's clients come to over sockets."""
    outcomes = {demand.client: Outcome() for demand in PLAN.demands}
    began = monotonic()
    await asyncio.gather(
        *(come(running, demand, outcomes[demand.client]) for demand in PLAN.demands)
    )
    return Forecast(outcomes, monotonic() - began, None, None)


async def test_plan_agrees_with_a_run_against_the_simulator(gate: StartGate) -> None:
    runner = web.AppRunner(
        make_app(Options(rpm=0, tpm=TPM, latency=LATENCY_S)), shutdown_timeout=0
    )
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        seen = await run(await gate(OPENAI_BASE_URL=url, RATE_LIMIT="auto", RATE_LIMIT_BURST=20))
    finally:
        await runner.cleanup()
    planned = await asyncio.to_thread(forecast, PLAN)
    assert seen.duration_s == pytest.approx(planned.duration_s, rel=0.1)
    for client in ("big", "web", "mid"):
        for share in (0.5, 0.95, 1.0):
            had = seen.outcomes[client].quantile(share)
            foreseen = planned.outcomes[client].quantile(share)
            assert had == pytest.approx(foreseen, rel=0.1, abs=SLACK_S), (client, share)
