"""Moderations: `POST /v1/moderations`.

A text is flagged for a category if it contains the full name of the category, such as "violence"
or "sexual/minors". Images are never flagged.
"""

from typing import Annotated, Any

from msgspec import Meta

from rustygate.simulator.response_bodies import ResponseBody, json_body, new_id
from rustygate.simulator.schemas import ContentPart, ModelRequest, Name, Usage, content_text
from rustygate.simulator.text import estimate_tokens

DEFAULT_MODEL = "omni-moderation-latest"

# The categories, and whether they apply to images.
_CATEGORIES = {
    "harassment": False,
    "harassment/threatening": False,
    "hate": False,
    "hate/threatening": False,
    "illicit": False,
    "illicit/violent": False,
    "self-harm": True,
    "self-harm/instructions": True,
    "self-harm/intent": True,
    "sexual": True,
    "sexual/minors": False,
    "violence": True,
    "violence/graphic": True,
}
_FLAGGED_SCORE, _UNFLAGGED_SCORE = 0.97, 0.0001


class ModerationRequest(ModelRequest, kw_only=True):
    """A request to moderate one text, several texts, or the parts of one input together."""

    input: str | Annotated[list[str | ContentPart], Meta(min_length=1, max_length=2048)]
    model: Name = DEFAULT_MODEL

    @property
    def _texts(self) -> list[str]:
        """The texts to moderate; a list that contains parts is one text."""
        if isinstance(self.input, str):
            return [self.input]
        texts = [item if isinstance(item, str) else content_text([item]) for item in self.input]
        return texts if all(isinstance(item, str) for item in self.input) else ["\n".join(texts)]

    @property
    def _kinds(self) -> set[str]:
        if isinstance(self.input, str):
            return {"text"}
        return {"image" if _is_image(item) else "text" for item in self.input}

    def usage(self, forced_tokens: int | None) -> Usage:
        return Usage(sum(map(estimate_tokens, self._texts)), 0)

    def cost(self, forced_tokens: int | None) -> int:
        return self.usage(forced_tokens).tokens_in

    def response_body(self, forced_tokens: int | None, base_url: str) -> ResponseBody:
        results = [_result(text, self._kinds) for text in self._texts]
        return json_body({"id": new_id("modr-"), "model": self.model, "results": results})


def _is_image(item: str | ContentPart) -> bool:
    return isinstance(item, ContentPart) and item.type == "image_url"


def _result(text: str, kinds: set[str]) -> dict[str, Any]:
    flags = {category: category in text for category in _CATEGORIES}
    return {
        "flagged": any(flags.values()),
        "categories": flags,
        "category_scores": {
            name: _FLAGGED_SCORE if flag else _UNFLAGGED_SCORE for name, flag in flags.items()
        },
        "category_applied_input_types": {
            name: sorted(kinds if images else kinds & {"text"})
            for name, images in _CATEGORIES.items()
        },
    }
