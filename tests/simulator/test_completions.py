"""Legacy completions."""

import json
from typing import Any

import pytest

from tests.support.simulator import Simulator


async def test_sdk_completes_each_prompt_n_times(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        response = await sdk.completions.create(
            model="gpt-3.5-turbo-instruct", prompt=["one", "two"], n=2, max_tokens=3
        )
    assert [choice.index for choice in response.choices] == [0, 1, 2, 3]
    assert len({choice.text for choice in response.choices}) == 4
    assert response.usage is not None
    assert (response.usage.prompt_tokens, response.usage.completion_tokens) == (2, 12)


async def test_sdk_completion_stream_has_the_same_text_as_the_plain_response(
    simulator: Simulator,
) -> None:
    async with simulator.sdk() as sdk:
        plain = await sdk.completions.create(model="m", prompt="Once upon", echo=True)
        chunks = [
            chunk
            async for chunk in await sdk.completions.create(
                model="m",
                prompt="Once upon",
                echo=True,
                stream=True,
                stream_options={"include_usage": True},
            )
        ]
    text = "".join(choice.text for chunk in chunks for choice in chunk.choices)
    assert text == plain.choices[0].text
    assert text.startswith("Once upon")
    assert chunks[-1].usage == plain.usage
    assert plain.usage is not None
    assert plain.usage.completion_tokens == 16


@pytest.mark.parametrize("prompt", [[1, 2, 3], [[1, 2], [3]]], ids=["tokens", "lists"])
async def test_prompt_may_be_tokens(simulator: Simulator, prompt: list[Any]) -> None:
    response = await simulator.post("/completions", {"model": "m", "prompt": prompt})
    assert json.loads(response.body)["usage"]["prompt_tokens"] == 3


@pytest.mark.parametrize("prompt", [["a", 1], [], ["a"] * 129, None, [[]]])
async def test_bad_prompt_returns_400(simulator: Simulator, prompt: object) -> None:
    response = await simulator.post("/completions", {"model": "m", "prompt": prompt})
    assert (response.status, response.error["param"]) == (400, "prompt")
