"""CORS: requests from web pages are refused unless `CORS_ALLOW_ORIGINS` lists their origin.

A page in a user's browser must not use the key. `core.cors` has the rules. `Cors.check` refuses
a page, responds to preflights, or lets a request pass. `Cors.add_headers` then lets the page read
the response, even one that the gate or aiohttp made.
"""

from aiohttp import hdrs, web

from rustygate.aiohttp_internals.response import OwnResponse
from rustygate.config import Settings
from rustygate.core.cors import (
    ANY_ORIGIN,
    cors_headers,
    is_cors_header,
    is_origin_allowed,
    preflight_headers,
)
from rustygate.errors import OriginNotAllowed

# The origin whose pages may read the response.
_ORIGIN = web.RequestKey("origin", str)


class Cors:
    """The CORS rules of the settings. `enabled`: at least one origin is allowed."""

    def __init__(self, settings: Settings) -> None:
        self._allowed = settings.cors_allow_origins or ()
        self.enabled = bool(self._allowed)

    def check(self, request: web.Request) -> web.Response | None:
        """The response to a preflight; None for a request that is forwarded.

        Raises `OriginNotAllowed`.
        """
        if hdrs.ORIGIN not in request.headers:
            return None
        origins = request.headers.getall(hdrs.ORIGIN)
        if not is_origin_allowed(origins, self._allowed):
            raise OriginNotAllowed(origins)
        origin = ANY_ORIGIN if ANY_ORIGIN in self._allowed else origins[0]
        method = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_METHOD)
        if request.method == hdrs.METH_OPTIONS and method is not None:
            names = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "")
            headers = preflight_headers(method, names) + cors_headers(origin, [])
            return OwnResponse(status=204, headers=headers)
        request[_ORIGIN] = origin
        return None

    async def add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """Replace the CORS headers of a response; the application's `on_response_prepare`."""
        origin = request.get(_ORIGIN)
        if origin is None:
            return
        headers = response.headers
        for name in [name for name in headers if is_cors_header(name)]:
            headers.popall(name, None)
        headers.extend(cors_headers(origin, headers.getall(hdrs.VARY, [])))
