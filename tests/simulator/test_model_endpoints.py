"""What all endpoints of a model have in common: headers, quotas, faults, errors."""

import asyncio
from typing import Any

import openai
import pytest

from rustygate.simulator import Options
from tests.support.simulator import (
    CHAT,
    KEY,
    PICTURE,
    SOON_S,
    SOUND,
    Site,
    deprecated,
    form,
    post,
    running,
)


async def test_every_answer_of_a_model_carries_the_headers(site: Site) -> None:
    for simulate in ("gzip", "500", "slow_down"):
        answer = await site.post("/chat/completions", CHAT, simulate=simulate)
        names = {"x-request-id", "openai-processing-ms", "openai-version"} | {
            f"x-ratelimit-{what}-{kind}"
            for what in ("limit", "remaining", "reset")
            for kind in ("requests", "tokens")
        }
        assert names <= set(answer.headers)
    assert answer.headers["x-ratelimit-limit-requests"] == "500"
    assert answer.headers["x-ratelimit-remaining-requests"] == "497"


JSON_ENDPOINTS = {
    "/completions": {"model": "m", "prompt": "x"},
    "/moderations": {"model": "m", "input": "x"},
    "/audio/speech": {"model": "m", "input": "x", "voice": "v"},
    "/images/generations": {"model": "m", "prompt": "x"},
}


FORMS: dict[str, dict[str, Any]] = {
    "/audio/transcriptions": {"model": "m", "file": SOUND},
    "/audio/translations": {"model": "m", "file": SOUND},
    "/images/edits": {"model": "m", "prompt": "x", "image": PICTURE},
    "/images/variations": {"model": "m", "image": PICTURE},
}


ENDPOINTS = [post(path, body) for path, body in JSON_ENDPOINTS.items()] + [
    form(f"/v1{path}", **fields) for path, fields in FORMS.items()
]


PATHS = [*JSON_ENDPOINTS, *FORMS]


@pytest.mark.parametrize("raw", ENDPOINTS, ids=PATHS)
async def test_model_answers_with_its_six_headers_and_beyond_its_limit_does_not(
    raw: bytes,
) -> None:
    async with running(Options(rpm=1)) as site:
        answers = [await site.ask(raw) for _ in range(2)]
    assert [answer.status for answer in answers] == [200, 429]
    for answer in answers:
        assert answer.headers["x-ratelimit-limit-requests"] == "1"
        assert answer.headers["x-ratelimit-remaining-requests"] == "0"
        assert answer.headers["x-ratelimit-limit-tokens"] == "200000"
        assert "x-ratelimit-reset-tokens" in answer.headers


@pytest.mark.parametrize("simulate", ["503", "cut", "stall=0"])
@pytest.mark.parametrize("raw", ENDPOINTS, ids=PATHS)
async def test_faults_strike_everywhere(site: Site, raw: bytes, simulate: str) -> None:
    raw = raw.replace(b"\r\n\r\n", f"\r\nX-Simulate: {simulate}\r\n\r\n".encode(), 1)
    reader, writer = await site.send(raw)
    line = await asyncio.wait_for(reader.readline(), SOON_S)
    assert line.startswith(b"HTTP/1.1 503 " if simulate == "503" else b"HTTP/1.1 200 ")
    writer.close()
    await site.stats_until(lambda stats: stats["requests_open"] == 0)


@pytest.mark.parametrize(("path", "body"), JSON_ENDPOINTS.items(), ids=JSON_ENDPOINTS)
async def test_no_value_in_any_field_breaks_it(
    site: Site, path: str, body: dict[str, object]
) -> None:
    fields = {*body, "n", "stream", "response_format", "size", "echo", "stream_format", "user"}
    strange: list[object] = [True, -1, 10**30, 1.5, [], [1], {}, "", "\x00", [[[]]], None]
    for field in fields:
        for value in strange:
            answer = await site.post(path, body | {field: value})
            assert answer.status in (200, 400, 429), (field, value)
            assert answer.whole


@deprecated
async def test_sdk_raises_what_a_form_lacks(site: Site) -> None:
    async with site.sdk() as sdk:
        with pytest.raises(openai.BadRequestError) as error:
            await sdk.images.create_variation(image=PICTURE, n=11)
    assert (error.value.param, error.value.type) == ("n", "invalid_request_error")


async def test_key_is_wanted_before_a_form_is_read(site: Site) -> None:
    raw = form("/v1/audio/transcriptions", model="m", file=SOUND)
    answer = await site.ask(raw.replace(KEY.encode(), b""))
    assert answer.status == 401
