"""Which headers cross the gate, in either direction, and how (RFC 9110, 7.6.1).

Headers are stripped first and added afterwards: a client that names `Authorization` in its
`Connection` header must not remove the gate's key. Headers arrive as aiohttp's parsers give them,
pairs of raw bytes in the order received, and leave as pairs of text in that order.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self, TypeVar

from rustygate.core.location import LocationMap

RawHeaders = Sequence[tuple[bytes, bytes]]
Headers = list[tuple[str, str]]

K = TypeVar("K", bound=str | bytes | tuple[bytes, ...])
V = TypeVar("V")

# These concern a single connection, like the headers that `Connection` names (RFC 9110, 7.6.1).
HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
# So do the credentials of a proxy, and the proxy's request for them: Proxy-Authorization,
# Proxy-Authenticate, Proxy-Authentication-Info.
_PROXY_AUTH = "proxy-auth"

_REQUEST_DROPS = HOP_BY_HOP | {
    # The client's own credentials and cookies. Upstream gets the gate's key. Azure's clients send
    # `api-key`, Anthropic's `x-api-key`, Google's `x-goog-api-key`.
    "api-key",
    "authorization",
    "cookie",
    "x-api-key",
    "x-goog-api-key",
    # The gate itself tells the client to send its body.
    "expect",
    # The addresses of the client and of the proxies in between.
    "forwarded",
    "x-real-ip",
    # The gate's host; the request gets upstream's.
    "host",
    # The web page that sent the request.
    "origin",
    "referer",
}
_REQUEST_DROP_PREFIXES = (
    _PROXY_AUTH,
    # The addresses of the client and of the proxies in between.
    "x-forwarded-",
    # What a browser says about the page and itself (Sec-Fetch-*, Sec-CH-*), and the WebSocket
    # handshake, which is a separate one on each hop.
    "sec-",
    # Addressed to the gate.
    "x-rustygate-",
)

_RESPONSE_DROPS = HOP_BY_HOP | {
    # About upstream's host, which the client never connected to.
    "alt-svc",
    "set-cookie",
    "strict-transport-security",
    # The WebSocket handshake, which is a separate one on each hop.
    "sec-websocket-accept",
    "sec-websocket-extensions",
    "sec-websocket-protocol",
    # Added by this gate, and by upstream if it is another gate.
    "x-rustygate-attempts",
    "x-rustygate-budget-remaining",
    "x-rustygate-id",
    "x-rustygate-queued-ms",
}
_RESPONSE_DROP_PREFIXES = (_PROXY_AUTH,)

# URLs of what was created, moved or returned (RFC 9110, 10.2.2 and 8.7).
_LOCATIONS = frozenset({"content-location", "location"})

# The content codings that the gate can read, to find the usage in a response.
READABLE_CODINGS = frozenset({"gzip", "deflate", "identity"})

# Limits of the caches below. An SDK sends some five hundred bytes of header names; a client could
# send others, up to a hundred kilobytes in each request.
MAX_CACHE_ENTRIES = 512
MAX_CACHE_KEY_SIZE = 2048

_CONTROLS = re.compile("[\x00-\x08\x0a-\x1f\x7f]")


class UnreadableHeader(ValueError):
    """A header value that aiohttp cannot pass on unchanged. Shows the name, not the value."""

    def __init__(self, name: str) -> None:
        super().__init__(f"The value of header {name} is not UTF-8, or has control characters.")


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the gate adds to requests.

    Args:
        key: upstream's key.
        account_headers: the organization and project, for requests that name none.
    """

    key: str = field(repr=False)
    account_headers: Headers

    @classmethod
    def for_account(cls, key: str, organization: str | None, project: str | None) -> Self:
        headers = (("OpenAI-Organization", organization), ("OpenAI-Project", project))
        return cls(key, [(name, value) for name, value in headers if value is not None])


def request_headers(raw: RawHeaders, credentials: Credentials, streaming: bool) -> Headers:
    """The headers of the upstream request, without `Host` and the length of a buffered body.

    Repeated headers take the spelling of the first: of several that differ in case, aiohttp's
    client keeps only the last. Raises `UnreadableHeader`.

    Args:
        streaming: the request wants an event stream, which must come without content coding.
    """
    plan = _REQUEST_PLANS[tuple([raw_name for raw_name, _ in raw])]
    values = _decoded_values(raw)
    headers: Headers = []
    for index, name in plan.forwarded:
        value = values[index]
        if value is None:
            raise UnreadableHeader(name)
        headers.append((name, value))
    for index in plan.accept_encoding:
        name, value = headers[index]
        headers[index] = (name, narrow_accept_encoding(value, streaming))
    if plan.connection:
        headers = _without_named(headers, [raw[index][1] for index in plan.connection])
    headers.append(("Authorization", f"Bearer {credentials.key}"))
    if credentials.account_headers:
        sent = {name.lower() for name, _ in headers}
        headers += [each for each in credentials.account_headers if each[0].lower() not in sent]
    return headers


def response_headers(raw: RawHeaders, locations: LocationMap | None = None) -> Headers:
    """The headers of the downstream response.

    A header that aiohttp cannot pass on is left out: the response has already been paid for.

    Args:
        locations: maps URLs under upstream's base to paths here.
    """
    plan = _RESPONSE_PLANS[tuple([raw_name for raw_name, _ in raw])]
    values = _decoded_values(raw)
    forwarded = [(name, values[index]) for index, name in plan.forwarded]
    if plan.locations and locations is not None:
        for index in plan.locations:
            name, value = forwarded[index]
            forwarded[index] = (name, value and locations.to_local(value))
    headers = [(name, value) for name, value in forwarded if value is not None]
    if plan.connection:
        headers = _without_named(headers, [raw[index][1] for index in plan.connection])
    return headers


def reason_phrase(reason: str | None) -> str | None:
    """A reason phrase that aiohttp can write. None selects the default of the status."""
    return reason if reason is not None and reason.isascii() and reason.isprintable() else None


class _Cache(dict[K, V]):
    """Caches the results of a function for keys of moderate size; cleared when it is full."""

    def __init__(self, function: Callable[[K], V]) -> None:
        super().__init__()
        self._function: Callable[[K], V] = function

    def __missing__(self, key: K) -> V:
        value = self._function(key)
        size = sum(map(len, key)) if isinstance(key, tuple) else len(key)
        if size <= MAX_CACHE_KEY_SIZE:
            if len(self) >= MAX_CACHE_ENTRIES:
                self.clear()
            self[key] = value
        return value


def narrow_accept_encoding(accept_encoding: str, streaming: bool) -> str:
    """An Accept-Encoding limited to the codings that the gate can read (RFC 9110, 12.5.3)."""
    return "identity" if streaming else _READABLE[accept_encoding]


def _readable(accept_encoding: str) -> str:
    codings = (coding.strip() for coding in accept_encoding.split(","))
    readable = [c for c in codings if c.partition(";")[0].rstrip().lower() in READABLE_CODINGS]
    return ", ".join(readable) or "identity"


_READABLE = _Cache(_readable)


def _without_named(headers: Headers, connection: Iterable[bytes]) -> Headers:
    """The headers without those that the values of `Connection` name."""
    named = set().union(*map(_CONNECTION_OPTIONS.__getitem__, connection))
    return [header for header in headers if header[0].lower() not in named] if named else headers


def _connection_options(connection: bytes) -> frozenset[str]:
    """The header names in a `Connection`, in lower case.

    `Content-Length` is not among them: without it, the body could pass for another message.
    """
    options = (option.strip().lower() for option in connection.decode("latin-1").split(","))
    return frozenset(options) - {"keep-alive", "close", "content-length", ""}


_CONNECTION_OPTIONS = _Cache(_connection_options)


# A client sends the same header names in the same order each time, and so does upstream. So it is
# decided once for each list of names which headers are forwarded.


class _Plan(NamedTuple):
    """Which headers of a list of names are forwarded.

    Args:
        forwarded: their indexes in the list, and the names to write.
        accept_encoding: indexes, among those forwarded, of `Accept-Encoding`.
        locations: indexes, among those forwarded, of `Location` and `Content-Location`.
        connection: indexes in the list of `Connection`.
    """

    forwarded: tuple[tuple[int, str], ...]
    accept_encoding: tuple[int, ...]
    locations: tuple[int, ...]
    connection: tuple[int, ...]


def _request_plan(raw_names: tuple[bytes, ...]) -> _Plan:
    spelling: dict[str, str] = {}
    plan = _plan(raw_names, _REQUEST_DROPS, _REQUEST_DROP_PREFIXES)
    spelled = [(index, spelling.setdefault(name.lower(), name)) for index, name in plan.forwarded]
    return plan._replace(forwarded=tuple(spelled))


def _response_plan(raw_names: tuple[bytes, ...]) -> _Plan:
    return _plan(raw_names, _RESPONSE_DROPS, _RESPONSE_DROP_PREFIXES)


def _plan(raw_names: tuple[bytes, ...], drops: frozenset[str], prefixes: tuple[str, ...]) -> _Plan:
    names = [raw_name.decode("latin-1") for raw_name in raw_names]
    lower = [name.lower() for name in names]
    kept = [
        index
        for index, name in enumerate(lower)
        if name not in drops and not name.startswith(prefixes)
    ]
    return _Plan(
        tuple((index, names[index]) for index in kept),
        tuple(place for place, index in enumerate(kept) if lower[index] == "accept-encoding"),
        tuple(place for place, index in enumerate(kept) if lower[index] in _LOCATIONS),
        tuple(index for index, name in enumerate(lower) if name == "connection"),
    )


_REQUEST_PLANS = _Cache(_request_plan)
_RESPONSE_PLANS = _Cache(_response_plan)


def _decoded_values(raw: RawHeaders) -> Sequence[str | None]:
    """The header values as text, None for those that aiohttp could not write unchanged.

    They are decoded together, which takes a third of the time. No value contains a newline.
    """
    try:
        text = b"\n".join([raw_value for _, raw_value in raw]).decode()
    except UnicodeDecodeError:
        return [_decoded_value(raw_value) for _, raw_value in raw]
    # `isprintable` is the cheap check. A value that fails it can be valid: it may have a tab.
    if not text.replace("\n", "").isprintable() or not raw:
        return [_decoded_value(raw_value) for _, raw_value in raw]
    return text.split("\n")


def _decoded_value(raw_value: bytes) -> str | None:
    """A header value as text, or None if aiohttp could not write it unchanged."""
    try:
        value = raw_value.decode()
    except UnicodeDecodeError:
        return None
    return None if _CONTROLS.search(value) else value
