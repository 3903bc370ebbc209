"""Requests from web pages: refused unless `CORS_ALLOW_ORIGINS` lists where the page came from.

A page in somebody's browser must not spend the key. What `core.origins` decides is done here:
`receive` refuses a page, answers its browser's preflights, or lets the request pass; `tell` has
every answer to one that passed, whoever made it, say that the page may read it.
"""

from aiohttp import hdrs, web

from rustygate.config import Settings
from rustygate.core.cors import (
    ANY_ORIGIN,
    cors_headers,
    is_cors_header,
    is_origin_allowed,
    preflight_headers,
)
from rustygate.errors import OriginNotAllowed

# The origin that the answer is to be shared with.
_ORIGIN = web.RequestKey("origin", str)


class Cors:
    """What the gate says to browsers. `welcome`: whether there are pages that may use it."""

    def __init__(self, settings: Settings) -> None:
        self._listed = settings.cors_allow_origins or ()
        self.welcome = bool(self._listed)

    def receive(self, request: web.Request) -> web.Response | None:
        """The answer to a preflight; None for what is to be passed on.

        Raises `OriginNotAllowed`.
        """
        if hdrs.ORIGIN not in request.headers:
            return None
        sent = request.headers.getall(hdrs.ORIGIN)
        if not is_origin_allowed(sent, self._listed):
            raise OriginNotAllowed(sent)
        origin = ANY_ORIGIN if ANY_ORIGIN in self._listed else sent[0]
        method = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_METHOD)
        if request.method == hdrs.METH_OPTIONS and method is not None:
            names = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "")
            headers = preflight_headers(method, names) + cors_headers(origin, [])
            return web.Response(status=204, headers=headers)
        request[_ORIGIN] = origin
        return None

    async def tell(self, request: web.Request, response: web.StreamResponse) -> None:
        """A hook of the application: have an answer say who may read it, whatever it said."""
        origin = request.get(_ORIGIN)
        if origin is None:
            return
        headers = response.headers
        for name in [name for name in headers if is_cors_header(name)]:
            headers.popall(name, None)
        headers.extend(cors_headers(origin, headers.getall(hdrs.VARY, [])))
