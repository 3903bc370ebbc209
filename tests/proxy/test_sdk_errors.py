"""Errors from upstream and from the gate raise the official SDK's exceptions."""

from collections.abc import Callable

import openai
import pytest

from tests.conftest import StartGate
from tests.support.sdk import (
    Operation,
    StartSdk,
    chat,
    create_response,
)


@pytest.mark.parametrize(
    ("fault", "kind", "code"),
    [
        ("400", openai.BadRequestError, None),
        ("409", openai.ConflictError, None),
        ("500", openai.InternalServerError, None),
        ("insufficient_quota", openai.RateLimitError, "insufficient_quota"),
    ],
)
async def test_upstream_error_raises_its_exception(
    simulated: StartGate, sdk: StartSdk, fault: str, kind: type[openai.APIStatusError], code: str
) -> None:
    client = sdk(await simulated())
    with pytest.raises(kind) as raised:
        await client.call(chat(extra_headers={"X-Simulate": fault}))
    assert raised.value.code == code
    assert raised.value.request_id is not None
    assert "X-RustyGate-Error" not in raised.value.response.headers


async def test_unknown_model_raises_not_found(simulated: StartGate, sdk: StartSdk) -> None:
    client = sdk(await simulated())
    with pytest.raises(openai.NotFoundError) as raised:
        await client.call(chat(model="no-such-model"))
    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")


async def test_base_url_without_v1_is_named_in_the_error(
    simulated: StartGate, sdk: StartSdk
) -> None:
    gate = await simulated()
    client = sdk(gate, base_url=gate.url)
    with pytest.raises(openai.NotFoundError, match="API paths start with /v1/") as raised:
        await client.call(chat())
    assert raised.value.response.headers["X-RustyGate-Error"] == "not_found"


@pytest.mark.parametrize("operation", [chat, create_response], ids=["chat", "response"])
async def test_cut_stream_raises(
    simulated: StartGate, sdk: StartSdk, operation: Callable[..., Operation]
) -> None:
    client = sdk(await simulated())
    with pytest.raises(openai.APIError) as raised:
        await client.events(operation(stream=True, extra_headers={"X-Simulate": "cut=3"}))
    assert raised.value.code == "upstream_disconnected"


@pytest.mark.parametrize("operation", [chat, create_response], ids=["chat", "response"])
async def test_stream_cut_inside_an_event_raises(
    simulated: StartGate, sdk: StartSdk, operation: Callable[..., Operation]
) -> None:
    client = sdk(await simulated())
    with pytest.raises(openai.APIConnectionError):
        await client.events(operation(stream=True, extra_headers={"X-Simulate": "cut_inside=3"}))


async def test_cut_response_raises(simulated: StartGate, sdk: StartSdk) -> None:
    client = sdk(await simulated())
    with pytest.raises(openai.APIConnectionError):
        await client.call(chat(extra_headers={"X-Simulate": "cut"}))
