"""Legacy completions."""

import json
from typing import Any

import pytest

from tests.support.simulator import Site


async def test_sdk_completes_each_prompt_n_times(site: Site) -> None:
    async with site.sdk() as sdk:
        answer = await sdk.completions.create(
            model="gpt-3.5-turbo-instruct", prompt=["one", "two"], n=2, max_tokens=3
        )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert len({choice.text for choice in answer.choices}) == 4
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 12)


async def test_sdk_completion_streams_the_same_text_that_a_plain_one_has(site: Site) -> None:
    async with site.sdk() as sdk:
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
async def test_tokens_are_a_prompt_too(site: Site, prompt: list[Any]) -> None:
    answer = await site.post("/completions", {"model": "m", "prompt": prompt})
    assert json.loads(answer.body)["usage"]["prompt_tokens"] == 3


@pytest.mark.parametrize("prompt", [["a", 1], [], ["a"] * 129, None, [[]]])
async def test_bad_prompt_is_a_400(site: Site, prompt: object) -> None:
    answer = await site.post("/completions", {"model": "m", "prompt": prompt})
    assert (answer.status, answer.error["param"]) == (400, "prompt")
