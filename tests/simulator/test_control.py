"""The simulator's own pages: limits and reset."""

import pytest

from rustygate.simulator import Options
from rustygate.simulator.limits import Limits
from tests.support.simulator import CHAT, Site, request, running


@pytest.mark.parametrize("nothing", [0, None])
async def test_changed_limit_holds_at_once(nothing: int | None) -> None:
    async with running(Options(rpm=2)) as site:
        first = await site.post("/chat/completions", CHAT)
        assert (await site.limits(rpm=1))["rpm"] == 1
        second = await site.post("/chat/completions", CHAT)
        assert (await site.limits(rpm=nothing))["rpm"] == 0
        third = await site.post("/chat/completions", CHAT)
    assert [answer.status for answer in (first, second, third)] == [200, 429, 200]
    assert second.headers["x-ratelimit-limit-requests"] == "1"
    assert "x-ratelimit-limit-requests" not in third.headers
    assert third.headers["x-ratelimit-limit-tokens"] == "200000"


async def test_limits_of_one_model_leave_the_others_alone() -> None:
    options = Options(model_limits=(("gpt-4o", Limits(7, 70)),))
    async with running(options) as site:
        assert await site.limits(model="m", tpm=5) == {
            "rpm": 500,
            "tpm": 200_000,
            "models": {"gpt-4o": {"rpm": 7, "tpm": 70}, "m": {"rpm": 500, "tpm": 5}},
        }
        told = [
            (await site.post("/chat/completions", CHAT | {"model": model})).headers
            for model in ("gpt-4o", "m", "other")
        ]
        assert await site.limits(rpm=9) == {
            "rpm": 9,
            "tpm": 200_000,
            "models": {"gpt-4o": {"rpm": 9, "tpm": 70}, "m": {"rpm": 9, "tpm": 5}},
        }
    assert [headers["x-ratelimit-limit-requests"] for headers in told] == ["7", "500", "500"]
    assert [headers["x-ratelimit-limit-tokens"] for headers in told] == ["70", "5", "200000"]


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b'{"rpm": -1}', b'{"rpm": 1.5}', b'{"model": ""}', b'{"tpm": 1' + b"0" * 16],
)
async def test_bad_limits_are_a_400_and_change_nothing(site: Site, body: bytes) -> None:
    answer = await site.ask(request("POST", "/simulator/limits", body))
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
    assert (await site.limits())["rpm"] == Options().rpm


async def test_reset_fills_the_buckets_and_zeroes_the_counts() -> None:
    async with running(Options(rpm=1)) as site:
        await site.post("/chat/completions", CHAT)
        assert (await site.ask(request("POST", "/simulator/reset"))).status == 204
        assert (await site.stats())["requests"] == 0
        assert (await site.post("/chat/completions", CHAT)).status == 200
