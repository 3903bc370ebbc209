"""The web application: its routes, and the server that runs it.

Requests under `/v1/` go to `Proxy.handle`, and so does every path that is not a page of the gate.
"""

import json
import logging
from collections.abc import Mapping

from aiohttp import hdrs, web

from rustygate.access.admin import AdminGuard, Page
from rustygate.aiohttp_internals.response import OwnResponse
from rustygate.aiohttp_internals.server import Runner
from rustygate.control import Control
from rustygate.core.paths import PREFIX
from rustygate.downstream.connections import FIELD_LIMIT, ConnectionLimiter, DownstreamConnection
from rustygate.downstream.request_body import INITIAL_READ_BUFFER
from rustygate.downstream.request_pace import RequestPace
from rustygate.errors import MethodNotAllowed, Refusal
from rustygate.exchange import ID_HEADER, new_id
from rustygate.proxy import Proxy
from rustygate.system.lockstep import Lockstep
from rustygate.telemetry.prometheus_text import CONTENT_TYPE

# How long idle connections may take to close once all exchanges have ended.
CLOSE_TIMEOUT_S = 1.0

# The name of the route to `Proxy.handle`.
_FORWARDED = "forwarded"


# The gate's own pages, by their paths. Kubernetes and others look for the names with a z.
HEALTH_PATHS = ("/health", "/healthz", "/livez")
READY_PATHS = ("/ready", "/readyz")
METRICS_PATH = "/metrics"

# What the gate's own pages take.
PAGE_METHODS = (hdrs.METH_GET, hdrs.METH_HEAD)


def make_application(
    proxy: Proxy,
    control: Control,
    admin: AdminGuard,
    dashboard: Mapping[str, Page],
) -> web.Application:
    """The application with all routes.

    Args:
        dashboard: the pages that only the operator may see, besides /metrics.
    """

    async def health(request: web.Request) -> web.Response:
        return OwnResponse(text="OK")

    async def ready(request: web.Request) -> web.Response:
        text = json.dumps(await control.readiness())
        status = 503 if control.gate.closed else 200
        return OwnResponse(text=text, status=status, content_type="application/json")

    async def show_metrics(request: web.Request) -> web.Response:
        headers = {hdrs.CONTENT_TYPE: CONTENT_TYPE}
        return OwnResponse(body=await control.metrics_text(), headers=headers)

    async def refuse_method(request: web.Request) -> web.Response:
        message = f"{request.path} takes GET and HEAD only; the API is under /v1/."
        try:
            preflight = proxy.cors.check(request)
            if preflight is not None:
                return preflight
            raise MethodNotAllowed(message, PAGE_METHODS)
        except Refusal as refusal:
            control.tally.count_refusal(refusal.reason)
            return refusal.response([])

    async def refuse_dashboard_method(request: web.Request) -> web.Response:
        # A preflight must not reveal these pages to other sites.
        raise MethodNotAllowed(f"{request.path} takes GET and HEAD only.", PAGE_METHODS)

    pages = (
        dict.fromkeys(HEALTH_PATHS, health)
        | dict.fromkeys(READY_PATHS, ready)
        | {METRICS_PATH: admin.protect(show_metrics)}
    )
    application = web.Application()
    for path, page in pages.items():
        application.router.add_get(path, _with_id(page))
        application.router.add_route(hdrs.METH_ANY, path, _with_id(refuse_method))
    for path, page in dashboard.items():
        refuse = admin.protect(refuse_dashboard_method)
        application.router.add_get(path, _with_id(admin.protect(page)))
        application.router.add_route(hdrs.METH_ANY, path, _with_id(refuse))
    application.router.add_route(
        hdrs.METH_ANY,
        "/{target:.*}",
        proxy.handle,
        name=_FORWARDED,
        expect_handler=_ignore_expect,
    )
    if proxy.cors.enabled:
        application.on_response_prepare.append(proxy.cors.add_headers)
    return application


def make_runner(
    application: web.Application, limiter: ConnectionLimiter, lockstep: Lockstep
) -> web.AppRunner:
    """A server for the application, whose connections have the gate's limits."""
    # aiohttp would log the bytes of a request that it cannot parse.
    muted = logging.Logger("muted", logging.CRITICAL + 1)
    return Runner(
        application,
        DownstreamConnection,
        prefix=PREFIX,
        fallback=_FORWARDED,
        handler_cancellation=True,
        access_log=None,
        logger=muted,
        max_line_size=FIELD_LIMIT,
        max_field_size=FIELD_LIMIT,
        read_bufsize=INITIAL_READ_BUFFER,
        shutdown_timeout=CLOSE_TIMEOUT_S,
        limiter=limiter,
        pace=RequestPace(),
        lockstep=lockstep,
    )


def _with_id(page: Page) -> Page:
    """A page whose responses have an id, like those of exchanges."""

    async def with_id(request: web.Request) -> web.StreamResponse:
        response = await page(request)
        response.headers[ID_HEADER] = new_id()
        return response

    return with_id


async def _ignore_expect(request: web.Request) -> None:
    """Leave `Expect: 100-continue` to `downstream.request_body`, which responds when it reads."""
