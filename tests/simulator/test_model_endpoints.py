"""What all model endpoints have in common: headers, quotas, faults, errors."""

import asyncio
from typing import Any

import openai
import pytest

from rustygate.simulator import Options
from tests.support.simulator import (
    AUDIO,
    CHAT_BODY,
    IMAGE,
    KEY,
    Simulator,
    build_form,
    ignore_deprecation,
    post,
    running_simulator,
)
from tests.support.waiting import SOON_S


async def test_model_responses_have_openais_headers(simulator: Simulator) -> None:
    for simulate in ("gzip", "500", "slow_down"):
        response = await simulator.post("/chat/completions", CHAT_BODY, simulate=simulate)
        names = {"x-request-id", "openai-processing-ms", "openai-version"} | {
            f"x-ratelimit-{value}-{kind}"
            for value in ("limit", "remaining", "reset")
            for kind in ("requests", "tokens")
        }
        assert names <= set(response.headers)
    assert response.headers["x-ratelimit-limit-requests"] == "500"
    assert response.headers["x-ratelimit-remaining-requests"] == "497"


JSON_ENDPOINTS = {
    "/completions": {"model": "m", "prompt": "x"},
    "/moderations": {"model": "m", "input": "x"},
    "/audio/speech": {"model": "m", "input": "x", "voice": "v"},
    "/images/generations": {"model": "m", "prompt": "x"},
}
FORMS: dict[str, dict[str, Any]] = {
    "/audio/transcriptions": {"model": "m", "file": AUDIO},
    "/audio/translations": {"model": "m", "file": AUDIO},
    "/images/edits": {"model": "m", "prompt": "x", "image": IMAGE},
    "/images/variations": {"model": "m", "image": IMAGE},
}
ENDPOINTS = [post(path, body) for path, body in JSON_ENDPOINTS.items()] + [
    build_form(f"/v1{path}", **fields) for path, fields in FORMS.items()
]
PATHS = [*JSON_ENDPOINTS, *FORMS]


@pytest.mark.parametrize("raw", ENDPOINTS, ids=PATHS)
async def test_model_endpoints_enforce_limits_and_send_rate_limit_headers(raw: bytes) -> None:
    async with running_simulator(Options(rpm=1)) as simulator:
        responses = [await simulator.send(raw) for _ in range(2)]
    assert [response.status for response in responses] == [200, 429]
    for response in responses:
        assert response.headers["x-ratelimit-limit-requests"] == "1"
        assert response.headers["x-ratelimit-remaining-requests"] == "0"
        assert response.headers["x-ratelimit-limit-tokens"] == "200000"
        assert "x-ratelimit-reset-tokens" in response.headers


@pytest.mark.parametrize("simulate", ["503", "cut", "stall=0"])
@pytest.mark.parametrize("raw", ENDPOINTS, ids=PATHS)
async def test_faults_apply_to_every_endpoint(
    simulator: Simulator, raw: bytes, simulate: str
) -> None:
    raw = raw.replace(b"\r\n\r\n", f"\r\nX-Simulate: {simulate}\r\n\r\n".encode(), 1)
    reader, writer = await simulator.open(raw)
    line = await asyncio.wait_for(reader.readline(), SOON_S)
    assert line.startswith(b"HTTP/1.1 503 " if simulate == "503" else b"HTTP/1.1 200 ")
    writer.close()
    await simulator.wait_for_stats(lambda stats: stats["requests_open"] == 0)


@pytest.mark.parametrize(("path", "body"), JSON_ENDPOINTS.items(), ids=JSON_ENDPOINTS)
async def test_unexpected_field_values_never_cause_a_500(
    simulator: Simulator, path: str, body: dict[str, object]
) -> None:
    fields = {*body, "n", "stream", "response_format", "size", "echo", "stream_format", "user"}
    unexpected: list[object] = [True, -1, 10**30, 1.5, [], [1], {}, "", "\x00", [[[]]], None]
    for field in fields:
        for value in unexpected:
            response = await simulator.post(path, body | {field: value})
            assert response.status in (200, 400, 429), (field, value)
            assert response.complete


@ignore_deprecation
async def test_sdk_raises_bad_request_for_a_bad_form(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        with pytest.raises(openai.BadRequestError) as error:
            await sdk.images.create_variation(image=IMAGE, n=11)
    assert (error.value.param, error.value.type) == ("n", "invalid_request_error")


async def test_api_key_is_checked_before_a_form_is_read(simulator: Simulator) -> None:
    raw = build_form("/v1/audio/transcriptions", model="m", file=AUDIO)
    response = await simulator.send(raw.replace(KEY.encode(), b""))
    assert response.status == 401
