"""The routes, and what happens to every request on its way to one.

Errors are shaped, answers get the headers OpenAI's have, and all is counted, here and nowhere
else. The simulator's own pages, `/simulator/...`, are no part of what they count.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from secrets import token_hex

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from rustygate.simulator import models
from rustygate.simulator.asked import Asked, Streamable, json_text, read
from rustygate.simulator.chat import ChatAsked
from rustygate.simulator.embeddings import EmbeddingsAsked
from rustygate.simulator.errors import ApiError, Failure, Severed, retry_headers
from rustygate.simulator.faults import NO_FAULTS, FaultError, Faults, parse
from rustygate.simulator.limits import Quota, Quotas, Shortage, go_duration, milliseconds
from rustygate.simulator.options import Options
from rustygate.simulator.responses import ResponseAsked
from rustygate.simulator.stats import Stats, Visit
from rustygate.simulator.wire import before_head, reply, stream

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# Bodies are held whole. OpenAI takes as much in one request for its largest inputs.
MAX_BODY = 64 * 1024 * 1024


def make_app(options: Options) -> web.Application:
    """The simulator as an application; it keeps its quotas and counts for itself."""
    simulator = _Simulator(options)
    app = web.Application(
        middlewares=[simulator.attend],
        client_max_size=MAX_BODY,
        # A client that leaves must end its handler, which may be stalled for ever.
        handler_args={"handler_cancellation": True},
    )
    app.on_response_prepare.append(simulator.stamp)
    app.add_routes(
        [
            web.get("/v1/models", simulator.list_models),
            web.get("/v1/models/{model:.+}", simulator.show_model),
            web.post("/v1/chat/completions", simulator.generation(ChatAsked)),
            web.post("/v1/responses", simulator.generation(ResponseAsked)),
            web.post("/v1/embeddings", simulator.generation(EmbeddingsAsked)),
            web.get("/simulator/stats", simulator.show_stats),
            web.post("/simulator/reset", simulator.reset),
        ]
    )
    return app


@dataclass(slots=True)
class _Passage:
    """What one request has with it on its way.

    Args:
        started: when its head was there, in nanoseconds of the monotonic clock.
        quota: its model's, once the model is known.
    """

    visit: Visit
    started: int
    faults: Faults = NO_FAULTS
    quota: Quota | None = None


_PASSAGE = web.RequestKey("passage", _Passage)


class _Simulator:
    """The handlers and what they share."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._quotas = Quotas(options.rpm, options.tpm)
        self._stats = Stats()
        self._arrivals = 0

    @web.middleware
    async def attend(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Count a request and see that it ends in an answer of OpenAI's shape."""
        if request.path.startswith("/simulator/"):
            return await handler(request)
        with self._stats.visit(_route(request), _key(request) or "") as visit:
            request[_PASSAGE] = _Passage(visit, time.monotonic_ns())
            try:
                return await self._answer(request, handler)
            except (asyncio.CancelledError, ConnectionError) as error:
                visit.left()
                if isinstance(error, asyncio.CancelledError):
                    raise
            except Severed:
                visit.severed()
        # aiohttp wants a response, finds nobody to send it to and is content.
        return web.Response()

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            self._admit(request)
            return await handler(request)
        except ApiError as error:
            return error.failure.response()
        except web.HTTPException as error:
            return _shaped(request, error).response()

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
        request[_PASSAGE].faults = self._options.faults_of(self._arrivals, own)

    async def stamp(self, request: web.Request, response: web.StreamResponse) -> None:
        """Give an answer that begins the headers OpenAI's have."""
        passage = request.get(_PASSAGE)
        if passage is None or request.transport is None or request.transport.is_closing():
            return
        passage.visit.answered(response.status)
        now = time.monotonic_ns()
        response.headers["x-request-id"] = f"req_{token_hex(16)}"
        response.headers["openai-version"] = "2020-10-01"
        response.headers["openai-processing-ms"] = str(milliseconds(now - passage.started))
        if passage.quota is not None:
            response.headers.update(passage.quota.headers(now))

    def generation(self, kind: type[Asked]) -> Handler:
        """The handler of an endpoint at which a model answers requests of that kind."""

        async def handle(request: web.Request) -> web.StreamResponse:
            return await self._generate(request, read(await _body(request), kind))

        return handle

    async def _generate(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        passage = request[_PASSAGE]
        faults = passage.faults
        if asked.user is not None:
            passage.visit.count_for(self._stats.client(asked.user))
        models.model(asked.model)
        passage.quota = self._quotas.of(asked.model)
        shortage = passage.quota.charge(time.monotonic_ns(), asked.cost(faults.tokens))
        if shortage is not None:
            raise ApiError(_beyond_quota(asked.model, shortage))
        await before_head(request, faults)
        usage = asked.usage(faults.tokens)
        passage.visit.took(usage.tokens_in, usage.tokens_out)
        if isinstance(asked, Streamable) and asked.stream:
            with self._stats.stream():
                return await stream(request, asked.events(faults.tokens), faults)
        return await reply(request, json_text(asked.plain(faults.tokens)), faults)

    async def list_models(self, request: web.Request) -> web.StreamResponse:
        faults = request[_PASSAGE].faults
        await before_head(request, faults)
        return await reply(request, json_text(models.listing()), faults)

    async def show_model(self, request: web.Request) -> web.StreamResponse:
        faults = request[_PASSAGE].faults
        await before_head(request, faults)
        model = models.model(request.match_info["model"])
        return await reply(request, json_text(model), faults)

    async def show_stats(self, request: web.Request) -> web.Response:
        return web.json_response(self._stats.snapshot())

    async def reset(self, request: web.Request) -> web.Response:
        self._stats.reset()
        self._quotas.reset()
        return web.Response(status=204)


def _key(request: web.Request) -> str | None:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


def _route(request: web.Request) -> str:
    """The route's pattern rather than the path: there are few of them."""
    resource = request.match_info.route.resource
    return "other" if resource is None else resource.canonical


async def _body(request: web.Request) -> bytes:
    try:
        return await request.read()
    except (HttpProcessingError, web.RequestPayloadError) as error:
        # Bad chunks, or bytes that are not of the encoding they claim.
        raise ApiError(Failure(400, "The body of your request is malformed.")) from error


def _shaped(request: web.Request, error: web.HTTPException) -> Failure:
    """What the router or aiohttp refuse, in OpenAI's shape."""
    what = {404: "Invalid URL", 405: "Not allowed method for the URL"}
    message = f"{what.get(error.status, error.reason)} ({request.method} {request.path})"
    allow = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
    return Failure(error.status, message, headers=allow)


def _beyond_quota(model: str, shortage: Shortage) -> Failure:
    unit = {"requests": "requests per min (RPM)", "tokens": "tokens per min (TPM)"}[shortage.kind]
    limit, requested = shortage.limit, shortage.requested
    code = "rate_limit_exceeded"
    if shortage.wait is None:
        message = (
            f"Request too large for {model} on {unit}: Limit {limit}, Requested {requested}. "
            "Shorten the input or ask for a shorter answer."
        )
        return Failure(429, message, shortage.kind, code)
    wait_ms = milliseconds(shortage.wait)
    message = (
        f"Rate limit reached for {model} on {unit}: Limit {limit}, Used {shortage.used}, "
        f"Requested {requested}. Please try again in {go_duration(wait_ms)}."
    )
    return Failure(429, message, shortage.kind, code, headers=retry_headers(wait_ms))
