"""What happens to every request on its way to its handler, and to its response.

Errors are shaped, responses get the headers OpenAI's have, and all is counted, here and nowhere
else. The simulator's own pages, `/simulator/...`, are no part of what they count.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from secrets import token_hex
from typing import Any

from aiohttp import web

from rustygate.simulator.endpoints.generation import Handler
from rustygate.simulator.errors import ApiError, Failure, Severed
from rustygate.simulator.faults import FaultError, parse
from rustygate.simulator.limits import milliseconds
from rustygate.simulator.options import Options
from rustygate.simulator.request_context import PASSAGE, Passage
from rustygate.simulator.stats import Stats
from rustygate.simulator.transport.websocket import offered_key


class Front:
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
