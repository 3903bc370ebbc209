"""Errors, from upstream or the gate, reach the official SDK's users as its exceptions."""

from collections.abc import Callable

import openai
import pytest

from tests.conftest import StartGate
from tests.support.sdk import (
    Ask,
    StartSdk,
    chat,
)
from tests.support.sdk import response as response_request


@pytest.mark.parametrize(
    ("fault", "kind", "code"),
    [
        ("400", openai.BadRequestError, None),
        ("409", openai.ConflictError, None),
        ("500", openai.InternalServerError, None),
        ("insufficient_quota", openai.RateLimitError, "insufficient_quota"),
    ],
)
async def test_upstream_s_error_is_raised_as_its_own(
    simulated: StartGate, sdk: StartSdk, fault: str, kind: type[openai.APIStatusError], code: str
) -> None:
    client = sdk(await simulated())
    with pytest.raises(kind) as raised:
        await client.call(chat(extra_headers={"X-Simulate": fault}))
    assert raised.value.code == code
    assert raised.value.request_id is not None
    assert "X-RustyGate-Error" not in raised.value.response.headers


async def test_unknown_model_is_not_found(simulated: StartGate, sdk: StartSdk) -> None:
    client = sdk(await simulated())
    with pytest.raises(openai.NotFoundError) as raised:
        await client.call(chat(model="no-such-model"))
    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")


async def test_base_url_without_v1_is_told_so(simulated: StartGate, sdk: StartSdk) -> None:
    gate = await simulated()
    client = sdk(gate, base_url=gate.url)
    with pytest.raises(openai.NotFoundError, match="API paths start with /v1/") as raised:
        await client.call(chat())
    assert raised.value.response.headers["X-RustyGate-Error"] == "not_found"


@pytest.mark.parametrize("ask", [chat, response_request], ids=["chat", "response"])
async def test_stream_that_breaks_off_raises(
    simulated: StartGate, sdk: StartSdk, ask: Callable[..., Ask]
) -> None:
    client = sdk(await simulated())
    with pytest.raises(openai.APIError) as raised:
        await client.events(ask(stream=True, extra_headers={"X-Simulate": "cut=3"}))
    assert raised.value.code == "upstream_disconnected"


@pytest.mark.parametrize("ask", [chat, response_request], ids=["chat", "response"])
async def test_stream_that_breaks_off_inside_an_event_raises(
    simulated: StartGate, sdk: StartSdk, ask: Callable[..., Ask]
) -> None:
    client = sdk(await simulated())
    with pytest.raises(openai.APIConnectionError):
        await client.events(ask(stream=True, extra_headers={"X-Simulate": "cut_inside=3"}))


async def test_answer_that_breaks_off_raises(simulated: StartGate, sdk: StartSdk) -> None:
    client = sdk(await simulated())
    with pytest.raises(openai.APIConnectionError):
        await client.call(chat(extra_headers={"X-Simulate": "cut"}))
