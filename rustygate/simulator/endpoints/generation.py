"""Handlers for requests to a model: charge the model's quota, then respond.

They connect the request classes, which know nothing of the connection, with `transport`.
"""

from collections.abc import Awaitable, Callable

from aiohttp import web

from rustygate.simulator.charges import Charges
from rustygate.simulator.endpoints.chat import ChatRequest
from rustygate.simulator.endpoints.realtime import RealtimeQuery, RealtimeSession
from rustygate.simulator.endpoints.response_store import ResponseStore
from rustygate.simulator.endpoints.responses import ResponseRequest
from rustygate.simulator.endpoints.responses_websocket import ResponsesSession
from rustygate.simulator.endpoints.stored_chats import StoredChats
from rustygate.simulator.limits import Quotas
from rustygate.simulator.models import Models
from rustygate.simulator.request_context import CONTEXT
from rustygate.simulator.response_bodies import EventStream, ResponseBody
from rustygate.simulator.schemas import ModelRequest
from rustygate.simulator.stats import Stats
from rustygate.simulator.storage.file_store import UploadedFile
from rustygate.simulator.transport.delivery import apply_early_faults, send_body, send_event_stream
from rustygate.simulator.transport.multipart import FileFactory, read_form
from rustygate.simulator.transport.parsing import convert, parse_json, read_body
from rustygate.simulator.transport.websocket import WebSocketSession, serve_websocket

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# Makes the response body from the forced length, if there is one, and the base URL.
MakeBody = Callable[[int | None, str], ResponseBody]


class GenerationHandlers:
    """Makes the handlers of these endpoints."""

    def __init__(self, models: Models, quotas: Quotas, stats: Stats) -> None:
        self._models = models
        self._quotas = quotas
        self._stats = stats

    def json_handler(self, schema: type[ModelRequest]) -> Handler:
        """The handler of an endpoint whose requests are JSON."""

        async def handle(request: web.Request) -> web.StreamResponse:
            model_request = parse_json(await read_body(request), schema)
            return await self._generate(request, model_request, model_request.response_body)

        return handle

    def chat_handler(self, store: StoredChats) -> Handler:
        """The handler of chat completions; some are stored."""

        async def handle(request: web.Request) -> web.StreamResponse:
            chat = parse_json(await read_body(request), ChatRequest)

            def make_body(forced_tokens: int | None, base_url: str) -> ResponseBody:
                if chat.store:
                    store.add(chat.stored_object(forced_tokens), chat.stored_messages())
                return chat.response_body(forced_tokens, base_url)

            return await self._generate(request, chat, make_body)

        return handle

    def responses_handler(self, store: ResponseStore) -> Handler:
        """The handler of the Responses API; responses are stored, and continue stored ones."""

        async def handle(request: web.Request) -> web.StreamResponse:
            model_request = parse_json(await read_body(request), ResponseRequest)
            store.resume(model_request)

            def make_body(forced_tokens: int | None, base_url: str) -> ResponseBody:
                made = model_request.make(forced_tokens)
                store.add(model_request, made)
                return model_request.body_of(made)

            return await self._generate(request, model_request, make_body)

        return handle

    def form_handler(
        self, schema: type[ModelRequest], file_factory: FileFactory = UploadedFile
    ) -> Handler:
        """The handler of an endpoint whose requests are forms, read as by `read_form`."""

        async def handle(request: web.Request) -> web.StreamResponse:
            model_request = await read_form(request, schema, file_factory)
            return await self._generate(request, model_request, model_request.response_body)

        return handle

    async def _generate(
        self, request: web.Request, model_request: ModelRequest, make_body: MakeBody
    ) -> web.StreamResponse:
        charges = self._charges(request)
        forced_tokens = charges.forced_tokens
        charges.charge(model_request.model, model_request.cost(forced_tokens), model_request.user)
        await apply_early_faults(request)
        charges.record_usage(model_request.usage(forced_tokens))
        body = make_body(forced_tokens, f"{request.scheme}://{request.host}")
        if isinstance(body, EventStream):
            with self._stats.stream():
                return await send_event_stream(request, body)
        return await send_body(request, body)

    async def realtime(self, request: web.Request) -> web.StreamResponse:
        """The Realtime API; each response is charged when it is created."""
        charges = self._charges(request)
        model = convert(request.query, RealtimeQuery).model
        charges.select_model(model)
        return await self._serve_websocket(request, RealtimeSession(model, charges))

    def responses_websocket(self, store: ResponseStore) -> Handler:
        """The handler of the Responses API over a WebSocket."""

        async def handle(request: web.Request) -> web.StreamResponse:
            session = ResponsesSession(self._charges(request), store)
            return await self._serve_websocket(request, session)

        return handle

    async def _serve_websocket(
        self, request: web.Request, session: WebSocketSession
    ) -> web.StreamResponse:
        with self._stats.websocket():
            return await serve_websocket(request, session)

    def _charges(self, request: web.Request) -> Charges:
        return Charges(self._models, self._quotas, self._stats, request[CONTEXT])
