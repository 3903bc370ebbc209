"""The routes, and what happens to every request on its way to one.

Errors are shaped, answers get the headers OpenAI's have, and all is counted, here and nowhere
else. The simulator's own pages, `/simulator/...`, are no part of what they count.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from secrets import token_hex
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, UnsetType

from rustygate.simulator import models
from rustygate.simulator.endpoints.batches import Batches
from rustygate.simulator.endpoints.chat import ChatAsked
from rustygate.simulator.endpoints.completions import CompletionAsked
from rustygate.simulator.endpoints.containers import Containers
from rustygate.simulator.endpoints.embeddings import EmbeddingsAsked
from rustygate.simulator.endpoints.files import Files
from rustygate.simulator.endpoints.generation import Generation, Handler, body
from rustygate.simulator.endpoints.images import EditAsked, GenerationAsked, VariationAsked, png
from rustygate.simulator.endpoints.moderations import ModerationAsked
from rustygate.simulator.endpoints.responses import ResponseAsked
from rustygate.simulator.endpoints.speech import SpeechAsked
from rustygate.simulator.endpoints.transcription import (
    AudioFile,
    TranscriptionAsked,
    TranslationAsked,
)
from rustygate.simulator.endpoints.uploads import Uploads
from rustygate.simulator.errors import ApiError, Failure, Severed
from rustygate.simulator.faults import FaultError, parse
from rustygate.simulator.limits import Limits, Quotas, milliseconds
from rustygate.simulator.options import Options
from rustygate.simulator.request_context import PASSAGE, Passage
from rustygate.simulator.schemas import Name, read
from rustygate.simulator.stats import Stats
from rustygate.simulator.storage.file_store import Shelf
from rustygate.simulator.transport.delivery import put
from rustygate.simulator.transport.websocket import offered_key

# JSON bodies are held whole. OpenAI takes as much in one request for its largest inputs.
MAX_BODY = 64 * 1024 * 1024


def make_app(options: Options) -> web.Application:
    """The simulator as an application; it keeps its quotas, counts and files for itself."""
    stats = Stats()
    quotas = Quotas(Limits(options.rpm, options.tpm), dict(options.model_limits))
    front = _Front(options, stats)
    app = web.Application(
        middlewares=[front.attend],
        client_max_size=MAX_BODY,
        # A client that leaves must end its handler, which may be stalled for ever.
        handler_args={"handler_cancellation": True},
    )
    app.on_response_prepare.append(front.stamp)
    app.on_shutdown.append(front.end)
    app.add_routes(_generation_routes(Generation(quotas, stats)))
    app.add_routes(
        [
            web.get("/v1/models", _list_models),
            web.get("/v1/models/{model:.+}", _show_model),
        ]
    )
    shelf = Shelf()
    files = Files(shelf)
    app.add_routes(files.routes())
    app.add_routes(Uploads(shelf, files).routes())
    app.add_routes(Containers(shelf, files).routes())
    app.add_routes(Batches(files).routes())
    app.add_routes(_Pages(quotas, stats).routes())
    return app


def _generation_routes(generation: Generation) -> list[web.RouteDef]:
    return [
        web.post("/v1/chat/completions", generation.json(ChatAsked)),
        web.post("/v1/responses", generation.json(ResponseAsked)),
        web.get("/v1/responses", generation.responses),
        web.get("/v1/realtime", generation.realtime),
        web.post("/v1/completions", generation.json(CompletionAsked)),
        web.post("/v1/embeddings", generation.json(EmbeddingsAsked)),
        web.post("/v1/moderations", generation.json(ModerationAsked)),
        web.post("/v1/audio/transcriptions", generation.form(TranscriptionAsked, AudioFile)),
        web.post("/v1/audio/translations", generation.form(TranslationAsked, AudioFile)),
        web.post("/v1/audio/speech", generation.json(SpeechAsked)),
        web.post("/v1/images/generations", generation.json(GenerationAsked)),
        web.post("/v1/images/edits", generation.form(EditAsked)),
        web.post("/v1/images/variations", generation.form(VariationAsked)),
    ]


async def _list_models(request: web.Request) -> web.StreamResponse:
    return await put(request, models.listing())


async def _show_model(request: web.Request) -> web.StreamResponse:
    return await put(request, models.model(request.match_info["model"]))


class _Front:
    """What every request passes, before its handler and after."""

    def __init__(self, options: Options, stats: Stats) -> None:
        self._options = options
        self._stats = stats
        self._arrivals = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    @web.middleware
    async def attend(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Count a request and see that it ends in an answer of OpenAI's shape."""
        if request.path.startswith("/simulator/"):
            return await _answered(request, handler)
        with self._open(), self._stats.visit(_route(request), _key(request) or "") as visit:
            request[PASSAGE] = Passage(visit, time.monotonic_ns(), request.path)
            try:
                return await _answered(request, self._admitted(handler))
            except (asyncio.CancelledError, ConnectionError) as error:
                visit.left()
                if isinstance(error, asyncio.CancelledError):
                    raise
            except Severed:
                visit.severed()
        # aiohttp wants a response, finds nobody to send it to and is content.
        return web.Response()

    @contextmanager
    def _open(self) -> Iterator[None]:
        """Know a request as open for the time of the context."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            yield
        finally:
            self._tasks.remove(task)

    async def end(self, app: web.Application) -> None:
        """End the requests that are open: some would stall for ever, and be waited for."""
        for task in self._tasks:
            task.cancel()

    def _admitted(self, handler: Handler) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            self._admit(request)
            return await handler(request)

        return handle

    def _admit(self, request: web.Request) -> None:
        """Refuse what has no route or no key, and find out what shall go wrong."""
        if request.match_info.http_exception is not None:
            raise request.match_info.http_exception
        if _key(request) is None:
            message = "No API key was given. Send it as `Authorization: Bearer KEY`."
            raise ApiError(Failure(401, message, code="invalid_api_key"))
        self._arrivals += 1
        try:
            own = parse(",".join(request.headers.getall("X-Simulate", [])))
        except FaultError as error:
            raise ApiError(Failure(400, str(error), code="unknown_fault")) from error
        request[PASSAGE].faults = self._options.faults_of(self._arrivals, own)

    async def stamp(self, request: web.Request, response: web.StreamResponse) -> None:
        """Give an answer that begins the headers OpenAI's have."""
        passage = request.get(PASSAGE)
        if passage is None or request.transport is None or request.transport.is_closing():
            return
        passage.visit.answered(response.status)
        now = time.monotonic_ns()
        response.headers["x-request-id"] = f"req_{token_hex(16)}"
        response.headers["openai-version"] = "2020-10-01"
        response.headers["openai-processing-ms"] = str(milliseconds(now - passage.started))
        if passage.quota is not None:
            response.headers.update(passage.quota.headers(now))


Limit = Annotated[int, Meta(ge=0, le=10**15)] | None | UnsetType


class _LimitsAsked(msgspec.Struct):
    """New limits, of a model or of all; what is left out stays, null and 0 are no limit."""

    model: Name | None = None
    rpm: Limit = UNSET
    tpm: Limit = UNSET

    @property
    def limits(self) -> dict[str, int]:
        said = {"rpm": self.rpm, "tpm": self.tpm}
        return {name: limit or 0 for name, limit in said.items() if limit is not UNSET}


class _Pages:
    """The simulator's own pages; they want no key and are counted nowhere."""

    def __init__(self, quotas: Quotas, stats: Stats) -> None:
        self._quotas = quotas
        self._stats = stats

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/simulator/stats", self.show_stats),
            web.get("/simulator/images/{colour:[0-9a-f]{6}}.png", self.show_image),
            web.post("/simulator/limits", self.change_limits),
            web.post("/simulator/reset", self.reset),
        ]

    async def show_stats(self, request: web.Request) -> web.Response:
        return web.json_response(self._stats.snapshot())

    async def show_image(self, request: web.Request) -> web.Response:
        return web.Response(body=png(request.match_info["colour"]), content_type="image/png")

    async def change_limits(self, request: web.Request) -> web.Response:
        """Change limits at once; the answer is all that are in force then."""
        asked = read(await body(request), _LimitsAsked)
        try:
            self._quotas.change(time.monotonic_ns(), asked.model, **asked.limits)
        except OverflowError as error:
            raise ApiError(Failure(400, f"{error}.", param="model")) from error
        return web.json_response(self._quotas.snapshot())

    async def reset(self, request: web.Request) -> web.Response:
        self._stats.reset()
        self._quotas.reset()
        return web.Response(status=204)


async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What a handler answers, or the error in which it ends."""
    try:
        return await handler(request)
    except ApiError as error:
        return error.failure.response()
    except web.HTTPException as error:
        return _shaped(request, error).response()


def _key(request: web.Request) -> str | None:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    told = key.strip() if scheme.lower() == "bearer" else None
    return told or offered_key(request)


def _route(request: web.Request) -> str:
    """The route's pattern rather than the path: there are few of them."""
    resource = request.match_info.route.resource
    return "other" if resource is None else resource.canonical


def _shaped(request: web.Request, error: web.HTTPException) -> Failure:
    """What the router or aiohttp refuse, in OpenAI's shape."""
    what = {404: "Invalid URL", 405: "Not allowed method for the URL"}
    message = f"{what.get(error.status, error.reason)} ({request.method} {request.path})"
    allow = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
    return Failure(error.status, message, headers=allow)
