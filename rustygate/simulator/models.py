"""The models: `GET /v1/models` and `GET /v1/models/{model}`.

Any name is a model, except names that begin with `no-such`.
"""

from typing import Any

from rustygate.simulator.errors import ApiError, ErrorResponse

MODEL_NAMES = (
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
_UNKNOWN_PREFIX = "no-such"


def list_models() -> dict[str, Any]:
    """The response of `GET /v1/models`."""
    return {"object": "list", "data": [model_object(name) for name in MODEL_NAMES]}


def model_object(name: str) -> dict[str, Any]:
    """One model as the API shows it.

    Raises:
        ApiError: the model does not exist; status 404.
    """
    if name.startswith(_UNKNOWN_PREFIX):
        message = f"The model {name!r} does not exist or you do not have access to it."
        raise ApiError(ErrorResponse(404, message, code="model_not_found", param="model"))
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": "simulator"}
