"""Moderations."""

from openai.types import ModerationMultiModalInputParam

from tests.support.simulator import Site


async def test_sdk_moderates_each_text(site: Site) -> None:
    async with site.sdk() as sdk:
        answer = await sdk.moderations.create(input=["a walk", "violence/graphic"])
    assert answer.model == "omni-moderation-latest"
    assert [result.flagged for result in answer.results] == [False, True]
    assert answer.results[1].categories.violence_graphic
    assert answer.results[1].category_scores.violence_graphic > 0.5
    assert answer.results[0].category_applied_input_types.violence == ["text"]


async def test_sdk_moderates_parts_together(site: Site) -> None:
    parts: list[ModerationMultiModalInputParam] = [
        {"type": "text", "text": "hate"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    async with site.sdk() as sdk:
        answer = await sdk.moderations.create(model="omni-moderation-latest", input=parts)
    [result] = answer.results
    assert result.categories.hate
    assert result.category_applied_input_types.violence == ["image", "text"]
    assert result.category_applied_input_types.hate == ["text"]
