"""The checks of a request's head, and the headers that go upstream for it."""

from functools import lru_cache

from aiohttp import HttpVersion11, web

from rustygate.core.headers import Credentials, HeaderLines, UnreadableHeader, request_headers
from rustygate.core.own_connections import OwnConnections
from rustygate.core.paths import PREFIX, has_dot_segment, is_unsafe, origin_form, path_of
from rustygate.core.websocket_handshake import WebSocketHandshake, is_websocket_upgrade
from rustygate.downstream.connections import DownstreamConnection
from rustygate.errors import (
    BadRequest,
    InvalidUrl,
    LoopDetected,
    MalformedHandshake,
    MethodNotAllowed,
    NotFound,
)

# How much of a path an error message repeats.
SHOWN_PATH_LENGTH = 200

# How many forwarded targets are remembered. Each has up to 64 KiB.
CACHED_TARGETS = 64


def check_loop(request: web.Request, own: OwnConnections) -> None:
    """Raise `LoopDetected` for a request of the gate's own.

    A connection is registered before its first request is sent, so it is looked up again only if
    others were registered since: those of another process become known a little later.
    """
    connection = request.protocol
    assert isinstance(connection, DownstreamConnection)
    if connection.looked_up != own.version:
        connection.looked_up = own.version
        info = request.get_extra_info
        connection.is_own = own.includes(info("sockname"), info("peername"))
    if connection.is_own:
        raise LoopDetected


def check_target(request: web.Request) -> str:
    """The target to forward, as sent. Raises a refusal for a request that is not forwarded."""
    if request.method in {"CONNECT", "TRACE"}:
        raise MethodNotAllowed(f"{request.method} requests are not forwarded.")
    return _forwarded(request.raw_path)


# Requests come to a few endpoints, again and again.
@lru_cache(maxsize=CACHED_TARGETS)
def _forwarded(raw_path: str) -> str:
    target = origin_form(raw_path)
    path = path_of(target)
    if is_unsafe(target) or not target.isascii():
        raise InvalidUrl
    if has_dot_segment(path):
        raise BadRequest("The request path contains dot segments; send the resolved path.")
    if not path.startswith(PREFIX):
        shown = path[:SHOWN_PATH_LENGTH]
        raise NotFound(f"Nothing is served at {shown}; API paths start with {PREFIX}.")
    return target


def read_handshake(request: web.Request) -> WebSocketHandshake | None:
    """The WebSocket handshake in a request; None for any other request.

    Other upgrades are forwarded as ordinary requests.
    """
    fields = request.headers.items()
    if (
        request.method != "GET"
        or request.version < HttpVersion11
        or not is_websocket_upgrade(fields)
    ):
        return None
    if request.body_exists:
        raise MalformedHandshake("A WebSocket handshake must not have a body.")
    try:
        return WebSocketHandshake.from_headers(fields)
    except ValueError as error:
        raise MalformedHandshake(str(error)) from error


def upstream_headers(
    request: web.Request, credentials: Credentials, streaming: bool
) -> HeaderLines:
    """The headers that go upstream. Raises `BadRequest` for one that cannot be forwarded."""
    try:
        return request_headers(request.raw_headers, credentials, streaming)
    except UnreadableHeader as error:
        raise BadRequest(str(error)) from error
