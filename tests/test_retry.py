"""What errors from upstream do to their lane, on a virtual clock."""

import json

import pytest

from rustygate.core.bucket import SECOND
from rustygate.downstream.request_body import RequestBody
from rustygate.errors import UpstreamDisconnected
from rustygate.retry import RETRY_PAUSE_S, RetryPolicy
from tests.support.harness import Harness, run_scenario


@pytest.mark.parametrize(
    ("code", "pause_s", "slowed", "paced"),
    [
        ("rate_limit_exceeded", 1, False, True),
        ("slow_down", 1, True, False),
        ("insufficient_quota", 0, False, False),
        ("invalid_prompt", 0, False, False),
    ],
)
def test_error_in_a_stream_pauses_its_lane_if_it_is_temporary(
    code: str, pause_s: int, slowed: bool, paced: bool
) -> None:
    async def scenario(harness: Harness) -> None:
        policy = RetryPolicy(harness.settings, harness.gate)
        async with harness.gate.admission(harness.exchange("a", model="m")) as admission:
            policy.judge_event(admission, json.dumps({"error": {"code": code}}).encode())
            lane = admission.lane.budgets
            assert lane.wait(harness.gate.now()) == pause_s * SECOND
            assert (lane.throttle is not None, lane.pace is not None) == (slowed, paced)

    run_scenario(scenario, rate_limit=None)


@pytest.mark.parametrize(("spare_ns", "pause_s"), [(0, RETRY_PAUSE_S), (-1, None)])
def test_retry_must_be_possible_by_the_deadline(spare_ns: int, pause_s: float | None) -> None:
    class Body(RequestBody):
        is_held = True

    async def scenario(harness: Harness) -> None:
        policy = RetryPolicy(harness.settings, harness.gate)
        latest = harness.gate.now() + int(RETRY_PAUSE_S * SECOND)
        failure = UpstreamDisconnected("closed", idempotent=True)
        exchange = harness.exchange("a", deadline=latest + spare_ns)
        assert policy.pause_after(failure, exchange, object.__new__(Body)) == pause_s

    run_scenario(scenario)
