"""The responses that are kept: for their retrieval, and for those that continue from them."""

from dataclasses import dataclass
from typing import Any

import msgspec

from rustygate.simulator.endpoints.response_items import complete_item, input_items
from rustygate.simulator.endpoints.response_output import MadeResponse
from rustygate.simulator.endpoints.responses import ResponseRequest
from rustygate.simulator.errors import ApiError, ErrorResponse

# For all responses together.
CAPACITY_BYTES = 64 * 1024 * 1024

# Roughly, for each token and each response.
_BYTES_PER_TOKEN = 100
_BYTES_PER_RESPONSE = 5000


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response that is kept.

    Args:
        input: the items of its request, as the API shows them.
        context: all items up to its own: what a response sees that continues from it.
        size: the bytes that it takes, roughly; the context counts in full.
    """

    made: MadeResponse
    input: list[dict[str, Any]]
    context: tuple[dict[str, Any], ...]
    size: int


class ResponseStore:
    """The responses by identifier; the oldest are dropped when there is no more space."""

    def __init__(self, capacity: int = CAPACITY_BYTES) -> None:
        self._capacity = capacity
        self._responses: dict[str, StoredResponse] = {}
        self.used_bytes = 0

    def resume(self, request: ResponseRequest) -> None:
        """Set what came before the request.

        Raises:
            ApiError: the previous response does not exist; status 400.
        """
        identifier = request.previous_response_id
        if identifier is None:
            return
        if identifier not in self._responses:
            message = f"Previous response with id '{identifier}' not found."
            code = "previous_response_not_found"
            raise ApiError(ErrorResponse(400, message, code=code, param="previous_response_id"))
        request.history = self._responses[identifier].context

    def add(self, request: ResponseRequest, made: MadeResponse) -> None:
        """Keep a response, unless its request asks not to, or it is too large."""
        if not request.is_stored:
            return
        final = made.final
        context = (*request.context, *final["output"])
        tokens = made.usage.tokens_out
        size = len(msgspec.json.encode(context)) + tokens * _BYTES_PER_TOKEN + _BYTES_PER_RESPONSE
        items = list(map(complete_item, input_items(request.input)))
        self._responses[final["id"]] = StoredResponse(made, items, context, size)
        self.used_bytes += size
        while self.used_bytes > self._capacity:
            self.pop(next(iter(self._responses)))

    def get(self, identifier: str) -> StoredResponse:
        """Raises `ApiError` with status 404 if there is no such response."""
        if identifier not in self._responses:
            message = f"Response with id '{identifier}' not found."
            raise ApiError(ErrorResponse(404, message))
        return self._responses[identifier]

    def pop(self, identifier: str) -> StoredResponse:
        """Raises `ApiError` with status 404 if there is no such response."""
        stored = self.get(identifier)
        del self._responses[identifier]
        self.used_bytes -= stored.size
        return stored

    def __repr__(self) -> str:
        usage = f"{self.used_bytes} of {self._capacity} bytes"
        return f"<ResponseStore responses={len(self._responses)}, {usage}>"
