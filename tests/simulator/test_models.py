"""Listing and retrieving models."""

import openai
import pytest

from tests.support.simulator import CHAT, Site


async def test_sdk_lists_and_retrieves_models(site: Site) -> None:
    async with site.sdk() as sdk:
        models = [model.id async for model in sdk.models.list()]
        assert "gpt-4o" in models
        assert (await sdk.models.retrieve("ft:any/thing")).id == "ft:any/thing"
        with pytest.raises(openai.NotFoundError) as error:
            await sdk.models.retrieve("no-such-model")
        assert error.value.code == "model_not_found"


async def test_unknown_model_is_a_404_only_by_its_prefix(site: Site) -> None:
    answer = await site.post("/chat/completions", CHAT | {"model": "no-such-thing"})
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    assert (await site.post("/chat/completions", CHAT | {"model": "mine"})).status == 200
