"""The simulator's own endpoints: limits and reset."""

import pytest

from rustygate.simulator import Options
from rustygate.simulator.limits import Limits
from tests.support.simulator import CHAT_BODY, Simulator, build_request, running_simulator


@pytest.mark.parametrize("no_limit", [0, None])
async def test_changed_limit_applies_at_once(no_limit: int | None) -> None:
    async with running_simulator(Options(rpm=2)) as simulator:
        first = await simulator.post("/chat/completions", CHAT_BODY)
        assert (await simulator.change_limits(rpm=1))["rpm"] == 1
        second = await simulator.post("/chat/completions", CHAT_BODY)
        assert (await simulator.change_limits(rpm=no_limit))["rpm"] == 0
        third = await simulator.post("/chat/completions", CHAT_BODY)
    assert [response.status for response in (first, second, third)] == [200, 429, 200]
    assert second.headers["x-ratelimit-limit-requests"] == "1"
    assert "x-ratelimit-limit-requests" not in third.headers
    assert third.headers["x-ratelimit-limit-tokens"] == "200000"


async def test_limits_of_one_model_do_not_affect_others() -> None:
    options = Options(model_limits=(("gpt-4o", Limits(7, 70)),))
    async with running_simulator(options) as simulator:
        assert await simulator.change_limits(model="m", tpm=5) == {
            "rpm": 500,
            "tpm": 200_000,
            "models": {"gpt-4o": {"rpm": 7, "tpm": 70}, "m": {"rpm": 500, "tpm": 5}},
        }
        responses = [
            await simulator.post("/chat/completions", CHAT_BODY | {"model": model})
            for model in ("gpt-4o", "m", "other")
        ]
        assert await simulator.change_limits(rpm=9) == {
            "rpm": 9,
            "tpm": 200_000,
            "models": {"gpt-4o": {"rpm": 9, "tpm": 70}, "m": {"rpm": 9, "tpm": 5}},
        }
    request_limits = [response.headers["x-ratelimit-limit-requests"] for response in responses]
    token_limits = [response.headers["x-ratelimit-limit-tokens"] for response in responses]
    assert request_limits == ["7", "500", "500"]
    assert token_limits == ["70", "5", "200000"]


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b'{"rpm": -1}', b'{"rpm": 1.5}', b'{"model": ""}', b'{"tpm": 1' + b"0" * 16],
)
async def test_bad_limits_return_400_and_change_nothing(simulator: Simulator, body: bytes) -> None:
    response = await simulator.send(build_request("POST", "/simulator/limits", body))
    assert (response.status, response.error["type"]) == (400, "invalid_request_error")
    assert (await simulator.change_limits())["rpm"] == Options().rpm


async def test_reset_fills_the_buckets_and_zeroes_the_counts() -> None:
    async with running_simulator(Options(rpm=1)) as simulator:
        await simulator.post("/chat/completions", CHAT_BODY)
        assert (await simulator.send(build_request("POST", "/simulator/reset"))).status == 204
        assert (await simulator.stats())["requests"] == 0
        assert (await simulator.post("/chat/completions", CHAT_BODY)).status == 200
