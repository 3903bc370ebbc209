"""Moderations: `POST /v1/moderations`.

A text is flagged for a category if it names it, in full: "violence", "sexual/minors". Images
never are.
"""

from typing import Annotated, Any

from msgspec import Meta

from rustygate.simulator.response_bodies import Answer, json_answer, new_id
from rustygate.simulator.schemas import Asked, Name, Part, Usage, text_of
from rustygate.simulator.text import input_tokens

USUAL_MODEL = "omni-moderation-latest"

# The categories, and whether images are looked at for them.
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
_SURE, _UNLIKELY = 0.97, 0.0001


class ModerationAsked(Asked, kw_only=True):
    """A request to judge a text, texts one by one, or the parts of one thing together."""

    input: str | Annotated[list[str | Part], Meta(min_length=1, max_length=2048)]
    model: Name = USUAL_MODEL

    @property
    def _texts(self) -> list[str]:
        """What is judged, one by one; with a part among it, it is all one thing."""
        if isinstance(self.input, str):
            return [self.input]
        texts = [one if isinstance(one, str) else text_of([one]) for one in self.input]
        return texts if all(isinstance(one, str) for one in self.input) else ["\n".join(texts)]

    @property
    def _kinds(self) -> set[str]:
        if isinstance(self.input, str):
            return {"text"}
        return {"image" if _is_image(one) else "text" for one in self.input}

    def usage(self, wanted: int | None) -> Usage:
        return Usage(sum(map(input_tokens, self._texts)), 0)

    def cost(self, wanted: int | None) -> int:
        return self.usage(wanted).tokens_in

    def answer(self, wanted: int | None, origin: str) -> Answer:
        results = [_result(text, self._kinds) for text in self._texts]
        return json_answer({"id": new_id("modr-"), "model": self.model, "results": results})


def _is_image(one: str | Part) -> bool:
    return isinstance(one, Part) and one.type == "image_url"


def _result(text: str, kinds: set[str]) -> dict[str, Any]:
    flags = {category: category in text for category in _CATEGORIES}
    return {
        "flagged": any(flags.values()),
        "categories": flags,
        "category_scores": {name: _SURE if flag else _UNLIKELY for name, flag in flags.items()},
        "category_applied_input_types": {
            name: sorted(kinds if images else kinds & {"text"})
            for name, images in _CATEGORIES.items()
        },
    }
