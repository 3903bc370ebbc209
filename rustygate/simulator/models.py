"""The models: `GET /v1/models` and `GET /v1/models/{model}`.

Any name is a model, but those that begin with `no-such`.
"""

from typing import Any

from rustygate.simulator.errors import ApiError, Failure

LISTED = (
    "gpt-4o",
    "gpt-4o-mini",
    "gpt-4.1",
    "gpt-4.1-mini",
    "gpt-5",
    "gpt-5-mini",
    "text-embedding-3-large",
    "text-embedding-3-small",
    "gpt-3.5-turbo-instruct",
    "gpt-4o-transcribe",
    "gpt-4o-mini-tts",
    "gpt-image-1",
    "gpt-realtime",
    "omni-moderation-latest",
    "whisper-1",
)
_CREATED = 1_700_000_000
_MISSING = "no-such"


def listing() -> dict[str, Any]:
    """The list of models."""
    return {"object": "list", "data": [model(name) for name in LISTED]}


def model(name: str) -> dict[str, Any]:
    """One model.

    Raises:
        ApiError: there is none of that name; status 404.
    """
    if name.startswith(_MISSING):
        message = f"The model {name!r} does not exist or you do not have access to it."
        raise ApiError(Failure(404, message, code="model_not_found", param="model"))
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": "simulator"}
