"""Who may see the pages about the gate itself.

With `ADMIN_KEY`, a page requires that key, as a Bearer token or Basic password. Without it, a page
is only served to this machine: over a unix socket, or over loopback under one of loopback's own
names. A web page cannot use those names to reach the gate by DNS rebinding, which needs a name
that the attacker controls. A request that came through a proxy is not from this machine,
whatever its address.
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

# A `Host` header, with any port.
_LOOPBACK = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]*)?", re.IGNORECASE)

# Headers that proxies add: those of the standards (RFC 7239, 8586, 9110, 9440), and of nginx,
# Envoy, CDNs and others, such as `X-Cluster-Client-IP`.
_PROXY_HEADER = re.compile(
    r"forwarded|via|cdn-loop|client-cert(-chain)?|x-forwarded(-.*)?|x-original-.*|x-real-ip"
    r"|(.*-)?(client|user|proxyuser)-?ip|cf-.*|x-envoy-.*",
    re.IGNORECASE,
)


class AdminGuard:
    """Protects pages. `on_refusal` is called with the reason of each refusal."""

    def __init__(self, settings: Settings, on_refusal: Callable[[str], None]) -> None:
        self._key = settings.admin_key
        self._on_refusal = on_refusal

    def protect(self, page: Page) -> Page:
        """A page that checks each request first, and may itself refuse one."""

        async def protected(request: web.Request) -> web.StreamResponse:
            try:
                self._check(request)
                return await page(request)
            except Refusal as refusal:
                self._on_refusal(refusal.reason)
                return refusal.response([])

        return protected

    def _check(self, request: web.Request) -> None:
        if self._key is None:
            if not _is_local(request):
                raise AdminOnly
        elif not compare_digest(_key(request), self._key.encode()):
            raise InvalidAdminKey


def _key(request: web.Request) -> bytes:
    """The key in a request. Without a readable one it is empty, which no key equals."""
    scheme, _, sent = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    key = sent.strip().encode(errors="replace")
    match scheme.lower():
        case "bearer":
            return key
        case "basic":
            return _password(key)
    return b""


def _password(encoded: bytes) -> bytes:
    """The password in Basic credentials (RFC 7617)."""
    try:
        return b64decode(encoded, validate=True).partition(b":")[2]
    except ValueError:
        return b""


def _is_local(request: web.Request) -> bool:
    if any(map(_PROXY_HEADER.fullmatch, request.headers)):
        return False
    sock = request.get_extra_info("socket")
    if sock is not None and sock.family == AF_UNIX:
        return True
    hosts = request.headers.getall(hdrs.HOST, [])
    names_loopback = len(hosts) == 1 and _LOOPBACK.fullmatch(hosts[0]) is not None
    return names_loopback and is_loopback(request.remote or "")


def is_loopback(peer: str) -> bool:
    """Whether a peer's address is a loopback address."""
    try:
        address = ip_address(peer)
    except ValueError:
        return False
    # A dual-stack socket reports IPv4 peers as IPv4-mapped IPv6 addresses.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback
