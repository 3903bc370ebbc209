"""The Responses API over a WebSocket: `GET /v1/responses`, one response at a time."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

from rustygate.simulator.charges import Charges
from rustygate.simulator.endpoints.response_output import MadeResponse
from rustygate.simulator.endpoints.response_store import ResponseStore
from rustygate.simulator.endpoints.responses import ResponseRequest
from rustygate.simulator.errors import ApiError, ErrorResponse
from rustygate.simulator.response_bodies import Event, named_event
from rustygate.simulator.schemas import Usage
from rustygate.simulator.transport.parsing import parse_json


class CreateResponseMessage(ResponseRequest, kw_only=True):
    """A message that creates a response; the response is always streamed.

    Without `generate`, it is a response without output, for another one to continue from.
    """

    type: Literal["response.create"]
    generate: bool | None = None

    def usage(self, forced_tokens: int | None) -> Usage:
        usage = super().usage(forced_tokens)
        return usage if self._generates else Usage(usage.tokens_in, 0)

    def make(self, forced_tokens: int | None) -> MadeResponse:
        made = super().make(forced_tokens)
        return made if self._generates else replace(made, outputs=(), complete=True)

    @property
    def _generates(self) -> bool:
        return self.generate is not False


class ResponsesSession:
    """The responses of one WebSocket. Its last one can be continued even if it is not stored."""

    def __init__(self, charges: Charges, store: ResponseStore) -> None:
        self._charges = charges
        self._store = store
        self._last_id: str | None = None
        self._last_context: tuple[dict[str, Any], ...] = ()

    def initial_events(self) -> Iterator[Event]:
        return iter(())

    def handle_immediately(self, message: str) -> bool:
        return False

    def handle_message(self, message: str) -> Iterator[Event]:
        charges = self._charges
        try:
            request = parse_json(message, CreateResponseMessage)
            self._resume(request)
            charges.charge(request.model, request.cost(charges.forced_tokens), request.user)
        except ApiError as error:
            yield _error_event(error.response)
            return
        made = request.make(charges.forced_tokens)
        charges.record_usage(made.usage)
        self._store.add(request, made)
        self._last_id = made.final["id"]
        self._last_context = (*request.context, *made.final["output"])
        yield from made.events()

    def _resume(self, request: ResponseRequest) -> None:
        """Set what came before the request. Raises ApiError if that is not known."""
        if self._last_id is not None and request.previous_response_id == self._last_id:
            request.history = self._last_context
        else:
            self._store.resume(request)


def _error_event(response: ErrorResponse) -> Event:
    error = response.error | {"headers": dict(response.headers)}
    return named_event({"type": "error", "status": response.status, "error": error})
