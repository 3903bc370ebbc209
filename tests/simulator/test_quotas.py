"""Quotas as a client sees them."""

import re
from math import ceil

import openai
import pytest

from rustygate.simulator import Options
from tests.support.simulator import CHAT_BODY, MESSAGES, running_simulator


async def test_exceeded_request_limit_returns_429_with_retry_headers() -> None:
    async with running_simulator(Options(rpm=2)) as simulator:
        responses = [await simulator.post("/chat/completions", CHAT_BODY) for _ in range(3)]
        other = await simulator.post("/chat/completions", CHAT_BODY | {"model": "other"})
    assert [response.status for response in responses] == [200, 200, 429]
    rejection = responses[2]
    error = rejection.error
    assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
    assert re.fullmatch(
        r"Rate limit reached for gpt-4o in organization org-simulator on requests per min "
        r"\(RPM\): Limit 2, Used 2, Requested 1\. Please try again in (30|2\d\.\d+)s\.",
        error["message"],
    )
    retry_after_ms = int(rejection.headers["retry-after-ms"])
    assert 20_000 < retry_after_ms <= 30_000
    assert rejection.headers["retry-after"] == str(ceil(retry_after_ms / 1000))
    assert rejection.headers["x-ratelimit-remaining-requests"] == "0"
    assert other.status == 200


async def test_sdk_raises_rate_limit_error_for_tokens() -> None:
    async with running_simulator(Options(tpm=100)) as simulator, simulator.sdk() as sdk:
        await sdk.chat.completions.create(model="m", messages=MESSAGES, max_tokens=90)
        with pytest.raises(openai.RateLimitError) as error:
            await sdk.chat.completions.create(model="m", messages=MESSAGES, max_tokens=90)
        assert error.value.type == "tokens"
        with pytest.raises(openai.RateLimitError) as error:
            await sdk.chat.completions.create(model="m", messages=MESSAGES, max_tokens=100)
    assert "retry-after" not in error.value.response.headers
    assert isinstance(error.value.body, dict)
    assert error.value.body["message"] == (
        "Request too large for m in organization org-simulator on tokens per min (TPM): "
        "Limit 100, Requested 105. The input or output tokens must be reduced in order to run "
        "successfully."
    )


async def test_failed_requests_are_charged() -> None:
    async with running_simulator(Options(rpm=2)) as simulator:
        for _ in range(2):
            await simulator.post("/chat/completions", CHAT_BODY, simulate="500")
        assert (await simulator.post("/chat/completions", CHAT_BODY)).status == 429
