"""What every request goes through before its handler, and every response after it.

This is the one place that turns errors into OpenAI's shape, adds OpenAI's headers and counts
requests. The simulator's own endpoints, `/simulator/...`, are not counted.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from secrets import token_hex
from typing import Any

from aiohttp import web

from rustygate.simulator.endpoints.generation import Handler
from rustygate.simulator.errors import ApiError, ConnectionCut, ErrorResponse
from rustygate.simulator.faults import FaultError, parse
from rustygate.simulator.limits import milliseconds
from rustygate.simulator.options import Options
from rustygate.simulator.request_context import CONTEXT, RequestContext
from rustygate.simulator.request_summary import Report, summarize
from rustygate.simulator.stats import Stats
from rustygate.simulator.transport.websocket import key_from_subprotocol


class Middleware:
    """Checks and counts requests, and completes their responses."""

    def __init__(self, options: Options, stats: Stats, report: Report | None = None) -> None:
        self._options = options
        self._stats = stats
        self._report = report
        self._request_count = 0
        self._open_tasks: set[asyncio.Task[Any]] = set()

    @web.middleware
    async def handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Count a request, and respond to errors in OpenAI's shape."""
        if request.path.startswith("/simulator/"):
            return await _respond(request, handler)
        route, key = _route_pattern(request), _api_key(request) or ""
        with self._track(), self._stats.request(route, key) as recorder:
            request[CONTEXT] = RequestContext(recorder, time.monotonic_ns(), request.path)
            end = "complete"
            try:
                response = await _respond(request, self._checked(handler))
                request[CONTEXT].status = response.status
                return response
            except (asyncio.CancelledError, ConnectionError) as error:
                end = "left"
                recorder.client_disconnected()
                if isinstance(error, asyncio.CancelledError):
                    raise
            except ConnectionCut:
                end = "cut"
                recorder.connection_cut()
            finally:
                self._report_end(request, end)
        # aiohttp requires a response; it is not sent, as the connection is closed.
        return web.Response()

    def _report_end(self, request: web.Request, end: str) -> None:
        if self._report is not None:
            context = request[CONTEXT]
            duration = milliseconds(time.monotonic_ns() - context.started_ns)
            summary = summarize(request.method, request.path, context, duration, end)
            self._report(summary)

    @contextmanager
    def _track(self) -> Iterator[None]:
        """Keep the request's task in the set of open tasks while the context lasts."""
        task = asyncio.current_task()
        assert task is not None
        self._open_tasks.add(task)
        try:
            yield
        finally:
            self._open_tasks.remove(task)

    async def cancel_open_requests(self, app: web.Application) -> None:
        """Cancel open requests on shutdown, which would wait forever for a stalled one."""
        for task in self._open_tasks:
            task.cancel()

    def _checked(self, handler: Handler) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            self._check(request)
            return await handler(request)

        return handle

    def _check(self, request: web.Request) -> None:
        """Reject requests without a route or an API key, and read the requested faults."""
        if request.match_info.http_exception is not None:
            raise request.match_info.http_exception
        if _api_key(request) is None:
            message = "No API key provided. Send it as `Authorization: Bearer KEY`."
            raise ApiError(ErrorResponse(401, message, code="invalid_api_key"))
        self._request_count += 1
        try:
            requested = parse(",".join(request.headers.getall("X-Simulate", [])))
        except FaultError as error:
            raise ApiError(ErrorResponse(400, str(error), code="unknown_fault")) from error
        request[CONTEXT].faults = self._options.faults_for(self._request_count, requested)

    async def add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """Add OpenAI's headers to a response before its head is sent."""
        context = request.get(CONTEXT)
        if context is None or request.transport is None or request.transport.is_closing():
            return
        context.response_started(response.status)
        now = time.monotonic_ns()
        response.headers["x-request-id"] = f"req_{token_hex(16)}"
        response.headers["openai-version"] = "2020-10-01"
        response.headers["openai-processing-ms"] = str(milliseconds(now - context.started_ns))
        if context.quota is not None:
            response.headers.update(context.quota.headers(now))


async def _respond(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The handler's response, or the error response if it raises an error."""
    try:
        return await handler(request)
    except ApiError as error:
        return error.response.to_response()
    except web.HTTPException as error:
        return _http_error(request, error).to_response()


def _api_key(request: web.Request) -> str | None:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    token = key.strip() if scheme.lower() == "bearer" else None
    return token or key_from_subprotocol(request)


def _route_pattern(request: web.Request) -> str:
    """The pattern of the route, which has far fewer values than the path."""
    resource = request.match_info.route.resource
    return "other" if resource is None else resource.canonical


def _http_error(request: web.Request, error: web.HTTPException) -> ErrorResponse:
    """An error of aiohttp or its router in OpenAI's shape."""
    reasons = {404: "Invalid URL", 405: "Not allowed method for the URL"}
    message = f"{reasons.get(error.status, error.reason)} ({request.method} {request.path})"
    allow = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
    return ErrorResponse(error.status, message, headers=allow)
