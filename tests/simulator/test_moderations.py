"""Moderations."""

from openai.types import ModerationMultiModalInputParam

from tests.support.simulator import Simulator


async def test_sdk_moderates_each_text(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        response = await sdk.moderations.create(input=["a walk", "violence/graphic"])
    assert response.model == "omni-moderation-latest"
    assert [result.flagged for result in response.results] == [False, True]
    assert response.results[1].categories.violence_graphic
    assert response.results[1].category_scores.violence_graphic > 0.5
    assert response.results[0].category_applied_input_types.violence == ["text"]


async def test_sdk_moderates_parts_together(simulator: Simulator) -> None:
    parts: list[ModerationMultiModalInputParam] = [
        {"type": "text", "text": "hate"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    async with simulator.sdk() as sdk:
        response = await sdk.moderations.create(model="omni-moderation-latest", input=parts)
    [result] = response.results
    assert result.categories.hate
    assert result.category_applied_input_types.violence == ["image", "text"]
    assert result.category_applied_input_types.hate == ["text"]
