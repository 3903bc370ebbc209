"""The Responses API over a WebSocket: `GET /v1/responses`, one response at a time."""

from collections.abc import Iterator
from typing import Literal

from rustygate.simulator.charges import Charges
from rustygate.simulator.endpoints.response_store import ResponseStore
from rustygate.simulator.endpoints.responses import ResponseRequest
from rustygate.simulator.errors import ApiError, ErrorResponse
from rustygate.simulator.response_bodies import Event, named_event
from rustygate.simulator.transport.parsing import parse_json


class CreateResponseMessage(ResponseRequest, kw_only=True):
    """A message that creates a response; the response is always streamed."""

    type: Literal["response.create"]


class ResponsesSession:
    """The responses of one WebSocket."""

    def __init__(self, charges: Charges, store: ResponseStore) -> None:
        self._charges = charges
        self._store = store

    def initial_events(self) -> Iterator[Event]:
        return iter(())

    def handle_immediately(self, message: str) -> bool:
        return False

    def handle_message(self, message: str) -> Iterator[Event]:
        charges = self._charges
        try:
            request = parse_json(message, CreateResponseMessage)
            self._store.resume(request)
            charges.charge(request.model, request.cost(charges.forced_tokens), request.user)
        except ApiError as error:
            yield _error_event(error.response)
            return
        made = request.make(charges.forced_tokens)
        charges.record_usage(made.usage)
        self._store.add(request, made)
        yield from made.events()


def _error_event(response: ErrorResponse) -> Event:
    error = response.error | {"headers": dict(response.headers)}
    return named_event({"type": "error", "status": response.status, "error": error})
