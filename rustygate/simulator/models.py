"""The models: `GET /v1/models` and `GET /v1/models/{model}`.

Any name is a model, except names that begin with `no-such`. With `--strict-models` only known
names are: those below, their dated snapshots and fine-tuned models, and those with limits.
"""

import re
from collections.abc import Iterable
from typing import Any

from rustygate.simulator.errors import ApiError, ErrorResponse

MODEL_NAMES = (
    "gpt-4o",
    "gpt-4o-mini",
    "gpt-4.1",
    "gpt-4.1-mini",
    "gpt-4.1-nano",
    "gpt-5",
    "gpt-5-mini",
    "gpt-5-nano",
    "gpt-4",
    "gpt-4-turbo",
    "gpt-3.5-turbo",
    "o1",
    "o1-mini",
    "o3",
    "o3-mini",
    "o4-mini",
    "text-embedding-3-large",
    "text-embedding-3-small",
    "text-embedding-ada-002",
    "gpt-3.5-turbo-instruct",
    "gpt-4o-transcribe",
    "gpt-4o-mini-transcribe",
    "gpt-4o-mini-tts",
    "gpt-image-1",
    "gpt-realtime",
    "omni-moderation-latest",
    "whisper-1",
    "tts-1",
    "tts-1-hd",
    "dall-e-2",
    "dall-e-3",
)
_CREATED = 1_700_000_000
_UNKNOWN_PREFIX = "no-such"

# `gpt-4o-2024-08-06`, `gpt-4-0613` and `gpt-5-latest` are versions of a model.
_VERSION = re.compile(r"-(?:\d{4}-\d{2}-\d{2}|\d{4}|latest|preview)$")


class Models:
    """The models that exist.

    Args:
        strict: whether only known names are models.
        known: names that are known besides the usual ones.
    """

    def __init__(self, strict: bool = False, known: Iterable[str] = ()) -> None:
        self._strict = strict
        self._known = dict.fromkeys((*MODEL_NAMES, *known))

    def list(self) -> dict[str, Any]:
        """The response of `GET /v1/models`."""
        return {"object": "list", "data": [_object(name) for name in self._known]}

    def find(self, name: str) -> dict[str, Any]:
        """One model as the API shows it.

        Raises:
            ApiError: the model does not exist; status 404.
        """
        if not self._exists(name):
            message = f"The model `{name}` does not exist or you do not have access to it."
            raise ApiError(ErrorResponse(404, message, code="model_not_found", param="model"))
        return _object(name)

    def _exists(self, name: str) -> bool:
        if name.startswith(_UNKNOWN_PREFIX):
            return False
        return not self._strict or name in self._known or self._is_derived(name)

    def _is_derived(self, name: str) -> bool:
        """Whether a name is that of a version of a known model, or of a fine-tuned one."""
        base = name.split(":")[1] if name.startswith("ft:") else name
        return base in self._known or _VERSION.sub("", base) in self._known


def _object(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": "simulator"}
