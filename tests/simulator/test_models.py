"""Listing and retrieving models."""

import openai
import pytest

from tests.support.simulator import CHAT_BODY, Simulator


async def test_sdk_lists_and_retrieves_models(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        models = [model.id async for model in sdk.models.list()]
        assert "gpt-4o" in models
        assert (await sdk.models.retrieve("ft:any/thing")).id == "ft:any/thing"
        with pytest.raises(openai.NotFoundError) as error:
            await sdk.models.retrieve("no-such-model")
        assert error.value.code == "model_not_found"


async def test_only_models_with_the_unknown_prefix_return_404(simulator: Simulator) -> None:
    response = await simulator.post("/chat/completions", CHAT_BODY | {"model": "no-such-thing"})
    assert (response.status, response.error["code"]) == (404, "model_not_found")
    assert (await simulator.post("/chat/completions", CHAT_BODY | {"model": "mine"})).status == 200
