"""Who may see the pages about the gate itself.

With `ADMIN_KEY`, whoever sends it, as bearer or as the password of basic authentication. Without,
whoever asks from this machine: over loopback, by one of its names, so that no web page can come
by a name of its own that it has resolve to loopback (DNS rebinding), or over a unix socket. What
a proxy passed on is from elsewhere, whatever its address.
"""

import re
from base64 import b64decode
from collections.abc import Awaitable, Callable
from hmac import compare_digest
from ipaddress import IPv6Address, ip_address
from socket import AF_UNIX

from aiohttp import hdrs, web

from rustygate.config import Settings
from rustygate.errors import AdminOnly, InvalidAdminKey, Refusal

Page = Callable[[web.Request], Awaitable[web.StreamResponse]]

# `Host`, with any port.
_LOOPBACK = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]*)?", re.IGNORECASE)

# What proxies add: in the standards, and as nginx, Cloudflare and others have it.
_PASSED_ON = frozenset(
    {"forwarded", "via", "x-real-ip", "x-client-ip", "true-client-ip", "cf-connecting-ip"}
)
_PASSED_ON_PREFIX = "x-forwarded-"


class Admin:
    """Guards pages. `refused` is told the reason whenever one is not shown."""

    def __init__(self, settings: Settings, refused: Callable[[str], None]) -> None:
        self._key = settings.admin_key
        self._refused = refused

    def only(self, page: Page) -> Page:
        """The page, for those who may see it."""

        async def show(request: web.Request) -> web.StreamResponse:
            try:
                self._check(request)
            except Refusal as refusal:
                self._refused(refusal.reason)
                return refusal.response([])
            return await page(request)

        return show

    def _check(self, request: web.Request) -> None:
        if self._key is None:
            if not _is_from_here(request):
                raise AdminOnly
        elif not compare_digest(_key(request), self._key.encode()):
            raise InvalidAdminKey


def _key(request: web.Request) -> bytes:
    """The key that was sent; none that is right if it cannot be read."""
    scheme, _, sent = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    key = sent.strip().encode(errors="replace")
    match scheme.lower():
        case "bearer":
            return key
        case "basic":
            return _password(key)
    return b""


def _password(encoded: bytes) -> bytes:
    """The password in the credentials of basic authentication (RFC 7617)."""
    try:
        return b64decode(encoded, validate=True).partition(b":")[2]
    except ValueError:
        return b""


def _is_from_here(request: web.Request) -> bool:
    if any(map(_tells_of_a_proxy, request.headers)):
        return False
    sock = request.get_extra_info("socket")
    if sock is not None and sock.family == AF_UNIX:
        return True
    hosts = request.headers.getall(hdrs.HOST, [])
    by_name = len(hosts) == 1 and _LOOPBACK.fullmatch(hosts[0]) is not None
    return by_name and is_loopback(request.remote or "")


def _tells_of_a_proxy(header: str) -> bool:
    name = header.lower()
    return name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIX)


def is_loopback(peer: str) -> bool:
    """Whether a peer's address is of this machine alone."""
    try:
        address = ip_address(peer)
    except ValueError:
        return False
    # A socket of both families tells IPv4 peers in IPv6's form.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback
