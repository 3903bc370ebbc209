"""Quotas over the wire: what a client sees of them."""

import re

import openai
import pytest

from rustygate.simulator import Options
from tests.support.simulator import CHAT, HELLO, running


async def test_beyond_the_requests_a_429_tells_when_to_come_back() -> None:
    async with running(Options(rpm=2)) as site:
        answers = [await site.post("/chat/completions", CHAT) for _ in range(3)]
        other = await site.post("/chat/completions", CHAT | {"model": "other"})
    assert [answer.status for answer in answers] == [200, 200, 429]
    refusal = answers[2]
    assert (refusal.error["type"], refusal.error["code"]) == ("requests", "rate_limit_exceeded")
    assert re.fullmatch(
        r"Rate limit reached for gpt-4o in organization org-simulator on requests per min "
        r"\(RPM\): Limit 2, Used 2, Requested 1\. Please try again in (30|29\.\d+)s\.",
        refusal.error["message"],
    )
    assert 29_000 < int(refusal.headers["retry-after-ms"]) <= 30_000
    assert refusal.headers["retry-after"] == "30"
    assert refusal.headers["x-ratelimit-remaining-requests"] == "0"
    assert other.status == 200


async def test_sdk_raises_rate_limit_error_for_tokens() -> None:
    async with running(Options(tpm=100)) as site, site.sdk() as sdk:
        await sdk.chat.completions.create(model="m", messages=HELLO, max_tokens=90)
        with pytest.raises(openai.RateLimitError) as error:
            await sdk.chat.completions.create(model="m", messages=HELLO, max_tokens=90)
        assert error.value.type == "tokens"
        with pytest.raises(openai.RateLimitError) as error:
            await sdk.chat.completions.create(model="m", messages=HELLO, max_tokens=100)
    assert "retry-after" not in error.value.response.headers
    assert isinstance(error.value.body, dict)
    assert error.value.body["message"] == (
        "Request too large for m in organization org-simulator on tokens per min (TPM): "
        "Limit 100, Requested 105. The input or output tokens must be reduced in order to run "
        "successfully."
    )


async def test_failed_requests_count_too() -> None:
    async with running(Options(rpm=2)) as site:
        for _ in range(2):
            await site.post("/chat/completions", CHAT, simulate="500")
        assert (await site.post("/chat/completions", CHAT)).status == 429
