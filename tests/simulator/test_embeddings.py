"""Embeddings."""

import json

import pytest

from tests.support.simulator import Simulator


async def test_sdk_embeddings_are_equal_in_both_encodings(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        packed = await sdk.embeddings.create(model="e", input=["a", "b"], dimensions=16)
        floats = await sdk.embeddings.create(
            model="e", input=["a", "b"], dimensions=16, encoding_format="float"
        )
        tokens = await sdk.embeddings.create(model="e", input=[1, 2, 3])
    assert [item.embedding for item in packed.data] == [item.embedding for item in floats.data]
    assert packed.data[0].embedding != packed.data[1].embedding
    assert sum(x * x for x in packed.data[0].embedding) == pytest.approx(1)
    assert (len(tokens.data), len(tokens.data[0].embedding)) == (1, 1536)
    assert tokens.usage.prompt_tokens == 3


@pytest.mark.parametrize("bad_input", [[], [""], "", ["a", 1], [[]], [[1], "a"], ["a"] * 2049])
async def test_bad_embedding_input_returns_400(simulator: Simulator, bad_input: object) -> None:
    response = await simulator.post("/embeddings", {"model": "m", "input": bad_input})
    assert (response.status, response.error["param"]) == (400, "input")


@pytest.mark.parametrize(
    ("model", "dimensions", "length"),
    [
        ("text-embedding-3-large", None, 3072),
        ("text-embedding-3-large", 256, 256),
        ("text-embedding-3-small", None, 1536),
        ("text-embedding-ada-002", None, 1536),
    ],
)
async def test_vector_has_the_length_of_its_model(
    simulator: Simulator, model: str, dimensions: int | None, length: int
) -> None:
    request = {"model": model, "input": "a"} | ({"dimensions": dimensions} if dimensions else {})
    response = await simulator.post("/embeddings", request)
    assert len(json.loads(response.body)["data"][0]["embedding"]) == length
