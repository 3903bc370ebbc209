"""Listing and retrieving models."""

import openai
import pytest

from rustygate.simulator import Options
from rustygate.simulator.limits import Limits
from tests.support.simulator import CHAT_BODY, Simulator, running_simulator
from tests.support.simulator_websocket import CREATE, connect, send_and_receive


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


async def test_strict_models_are_those_that_are_listed_and_their_versions() -> None:
    options = Options(strict_models=True, model_limits=(("mine", Limits(9, 0)),))
    async with running_simulator(options) as simulator, simulator.sdk() as sdk:
        known = [model.id async for model in sdk.models.list()]
        assert {"gpt-4", "gpt-4o", "o1-mini", "mine"} <= set(known)
        versions = ["gpt-4o-2024-08-06", "gpt-4-0613", "gpt-5-latest", "ft:gpt-4o-mini:org::id"]
        for model in (*known, *versions):
            assert (await sdk.models.retrieve(model)).id == model
        for model in ("gpt-9", "gpt-4o-20", "gpt-4o-x", "ft:gpt-9:o", "ft:", "no-such", "mine2"):
            with pytest.raises(openai.NotFoundError) as error:
                await sdk.chat.completions.create(
                    model=model, messages=[{"role": "user", "content": "Hi"}]
                )
            assert (error.value.code, error.value.param) == ("model_not_found", "model")
            expected = f"The model `{model}` does not exist or you do not have access to it."
            assert error.value.body["message"] == expected  # type: ignore[index]
        assert (await simulator.stats())["tokens_in"] == 0


async def test_strict_models_apply_to_websockets_and_forms() -> None:
    async with running_simulator(Options(strict_models=True)) as simulator:
        async with connect(simulator, "/responses") as websocket:
            error = await send_and_receive(websocket, CREATE | {"model": "gpt-9"})
        assert (error["status"], error["error"]["code"]) == (404, "model_not_found")
        async with simulator.sdk() as sdk:
            with pytest.raises(openai.NotFoundError):
                await sdk.audio.transcriptions.create(model="gpt-9", file=("a.mp3", b"x"))
