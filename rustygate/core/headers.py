"""Which headers cross the gate, in either direction, and how (RFC 9110, 7.6.1).

Headers are stripped first and added afterwards: a client that names `Authorization` in its
`Connection` header must not remove the gate's key. Headers arrive as aiohttp's parsers give them,
pairs of raw bytes in the order received, and leave in that order as lines that are ready to be
written.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple, Self, TypeVar

from rustygate.core.location import LocationMap

RawHeaders = Sequence[tuple[bytes, bytes]]
Headers = list[tuple[str, str]]

# Headers as they are written: a line for each, with its end.
HeaderLines = bytes

K = TypeVar("K", bound=bytes | tuple[bytes, ...])
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

# No header value may contain a control character but the tab (RFC 9110, 5.5).
_CONTROLS = bytes({*range(0x20), 0x7F} - {0x09})
_LINE_END = b"\r\n"
# What ends a message's head (RFC 9112, 2.1).
HEAD_END = 2 * _LINE_END


class UnreadableHeader(ValueError):
    """A header value that cannot be passed on. Shows the name, not the value."""

    def __init__(self, name: str) -> None:
        super().__init__(f"The value of header {name} is not UTF-8, or has control characters.")


class NamedLines(NamedTuple):
    """Header lines, and the names of the headers in lower case."""

    lines: HeaderLines
    names: frozenset[str]

    @classmethod
    def of(cls, headers: Collection[tuple[str, str]]) -> Self:
        return cls(header_lines(headers), frozenset(name.lower() for name, _ in headers))


def header_lines(headers: Iterable[tuple[str, str]]) -> HeaderLines:
    """Headers as they are written."""
    return "".join([f"{name}: {value}\r\n" for name, value in headers]).encode()


def headers_in(lines: HeaderLines) -> Headers:
    """The names and values in header lines."""
    parts = (line.partition(": ") for line in lines.decode().split("\r\n")[:-1])
    return [(name, value) for name, _, value in parts]


def lines_without(lines: HeaderLines, names: Collection[str]) -> HeaderLines:
    """The lines except those of the headers with these names, in lower case."""
    return header_lines(header for header in headers_in(lines) if header[0].lower() not in names)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the gate adds to requests.

    Args:
        key: upstream's key.
        account: the lines of the organization and the project, for requests that name none, by
            their names in lower case.
    """

    key: str = field(repr=False)
    authorization: HeaderLines = field(repr=False)
    account: Mapping[str, HeaderLines]

    @classmethod
    def for_account(cls, key: str, organization: str | None, project: str | None) -> Self:
        headers = (("OpenAI-Organization", organization), ("OpenAI-Project", project))
        account = {
            name.lower(): header_lines([(name, value)])
            for name, value in headers
            if value is not None
        }
        return cls(key, header_lines([("Authorization", f"Bearer {key}")]), account)


def request_headers(raw: RawHeaders, credentials: Credentials, streaming: bool) -> HeaderLines:
    """The headers of the upstream request, without `Host` and the length of a buffered body.

    Repeated headers take the spelling of the first. Raises `UnreadableHeader`.

    Args:
        streaming: the request wants an event stream, which must come without content coding.
    """
    names, values = _unzipped(raw)
    plan = _REQUEST_PLANS[names]
    named = plan.named_by_connection(values)
    if named:
        return request_headers(_without(raw, named), credentials, streaming)
    for index in plan.accept_encoding:
        values[index] = narrow_accept_encoding(values[index], streaming)
    lines = plan.lines(values)
    if not _are_readable(lines, plan.count):
        raise UnreadableHeader(_first_unreadable(raw, plan))
    for name, line in credentials.account.items():
        if name not in plan.names:
            lines += line
    return lines + credentials.authorization


def response_headers(raw: RawHeaders, locations: LocationMap | None = None) -> NamedLines:
    """The headers of the downstream response.

    A header that cannot be passed on is left out: the response has already been paid for.

    Args:
        locations: maps URLs under upstream's base to paths here.
    """
    names, values = _unzipped(raw)
    plan = _RESPONSE_PLANS[names]
    named = plan.named_by_connection(values)
    if named:
        return response_headers(_without(raw, named), locations)
    if locations is not None:
        for index in plan.locations:
            values[index] = locations.to_local_bytes(values[index])
    lines = plan.lines(values)
    if not _are_readable(lines, plan.count):
        return response_headers([each for each in raw if _is_readable(*each)], locations)
    return NamedLines(lines, plan.names)


def _unzipped(raw: RawHeaders) -> tuple[tuple[bytes, ...], list[bytes]]:
    """The names of the headers, and their values."""
    if not raw:
        return (), []
    names, values = zip(*raw, strict=True)
    return names, list(values)


def _without(raw: RawHeaders, named: Collection[bytes]) -> RawHeaders:
    """The headers without `Connection` and those that it names."""
    return [each for each in raw if each[0].lower() not in {b"connection", *named}]


def _are_readable(lines: HeaderLines, count: int) -> bool:
    """Whether `count` lines are UTF-8, with control characters only at their ends."""
    controls = len(lines) - len(lines.translate(None, _CONTROLS))
    return controls == count * len(_LINE_END) and (lines.isascii() or _is_utf8(lines))


def _is_readable(name: bytes, value: bytes) -> bool:
    return _are_readable(name + value, 0)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _first_unreadable(raw: RawHeaders, plan: "_Plan") -> str:
    """The name of the first header that is forwarded and cannot be read."""
    names = (name.decode("latin-1") for name, value in raw if not _is_readable(name, value))
    return next(name for name in names if name.lower() in plan.names)


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


def narrow_accept_encoding(accept_encoding: bytes, streaming: bool) -> bytes:
    """An Accept-Encoding limited to the codings that the gate can read (RFC 9110, 12.5.3)."""
    return b"identity" if streaming else _READABLE[accept_encoding]


def _readable(accept_encoding: bytes) -> bytes:
    codings = (coding.strip() for coding in accept_encoding.decode("latin-1").split(","))
    readable = [c for c in codings if c.partition(";")[0].rstrip().lower() in READABLE_CODINGS]
    return (", ".join(readable) or "identity").encode("latin-1")


_READABLE = _Cache(_readable)


def _connection_options(connection: bytes) -> frozenset[bytes]:
    """The header names in a `Connection`, in lower case.

    `Content-Length` is not among them: without it, the body could pass for another message.
    """
    options = (option.strip().lower() for option in connection.split(b","))
    return frozenset(options) - {b"keep-alive", b"close", b"content-length", b""}


_CONNECTION_OPTIONS = _Cache(_connection_options)


# A client sends the same header names in the same order each time, and so does upstream. So which
# headers are forwarded is decided once for each list of names, and kept with a template of their
# lines. Filling that in takes a quarter of the time of writing the lines one by one.


class _Plan:
    """Which headers of a list of names are forwarded.

    Args:
        names: as they are written.
        drops: names, in lower case, that are not forwarded, nor are those with these `prefixes`.

    Attributes:
        names: of the headers that are forwarded, in lower case.
        count: the number of these headers.
        accept_encoding: indexes in the list of `Accept-Encoding`.
        locations: indexes in the list of `Location` and `Content-Location`.
    """

    __slots__ = (
        "_connection", "_pick", "_template", "accept_encoding", "count", "locations", "names",
    )  # fmt: skip

    def __init__(
        self, names: Sequence[bytes], drops: frozenset[str], prefixes: tuple[str, ...]
    ) -> None:
        lower = [name.decode("latin-1").lower() for name in names]
        kept = [
            index
            for index, name in enumerate(lower)
            if name not in drops and not name.startswith(prefixes)
        ]
        self.names = frozenset(lower[index] for index in kept)
        self.count = len(kept)
        self.accept_encoding = _indexes(lower, {"accept-encoding"})
        self.locations = _indexes(lower, _LOCATIONS)
        self._connection = _indexes(lower, {"connection"})
        self._pick: Callable[[Sequence[bytes]], object] = itemgetter(*kept) if kept else _no_values
        self._template = b"".join(
            names[index].replace(b"%", b"%%") + b": %b" + _LINE_END for index in kept
        )

    def lines(self, values: Sequence[bytes]) -> HeaderLines:
        """The lines of the headers that are forwarded, from the values of all headers."""
        return self._template % self._pick(values)

    def named_by_connection(self, values: Sequence[bytes]) -> frozenset[bytes]:
        """The names, in lower case, in the values of `Connection`."""
        if not self._connection:
            return _NO_NAMES
        return _NO_NAMES.union(*(_CONNECTION_OPTIONS[values[at]] for at in self._connection))


_NO_NAMES: frozenset[bytes] = frozenset()


def _no_values(values: Sequence[bytes]) -> tuple[bytes, ...]:
    return ()


def _indexes(names: Iterable[str], wanted: Collection[str]) -> tuple[int, ...]:
    return tuple(index for index, name in enumerate(names) if name in wanted)


def _request_plan(names: tuple[bytes, ...]) -> _Plan:
    spelling: dict[bytes, bytes] = {}
    spelled = [spelling.setdefault(name.lower(), name) for name in names]
    return _Plan(spelled, _REQUEST_DROPS, _REQUEST_DROP_PREFIXES)


def _response_plan(names: tuple[bytes, ...]) -> _Plan:
    return _Plan(names, _RESPONSE_DROPS, _RESPONSE_DROP_PREFIXES)


_REQUEST_PLANS = _Cache(_request_plan)
_RESPONSE_PLANS = _Cache(_response_plan)
