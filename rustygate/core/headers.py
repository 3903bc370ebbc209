"""Which headers cross the gate, in either direction, and how (RFC 9110, 7.6.1).

Strip first, inject after: a client that names `Authorization` in its `Connection` header must
not erase the gate's key. Headers come as aiohttp's parsers give them, pairs of raw bytes in the
order sent, and leave as pairs of text in that order.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self, TypeVar

RawHeaders = Sequence[tuple[bytes, bytes]]
Headers = list[tuple[str, str]]

K = TypeVar("K", bound=str | bytes | tuple[bytes, ...])
V = TypeVar("V")

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
_PROXY_AUTH = "proxy-auth"

# The client's own credentials and cookies, what would name it to upstream, and what the gate
# answers for itself.
_REQUEST_DROPS = HOP_BY_HOP | {
    "authorization",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "origin",
    "referer",
    "x-real-ip",
}
_REQUEST_DROP_PREFIXES = (_PROXY_AUTH, "x-forwarded-", "sec-", "x-rustygate-")

# What speaks of upstream's host to a client that never talked to it, what each hop of a
# WebSocket says for itself, and what the gate tells of itself, in case upstream is another gate.
_RESPONSE_DROPS = HOP_BY_HOP | {
    "alt-svc",
    "sec-websocket-accept",
    "sec-websocket-extensions",
    "sec-websocket-protocol",
    "set-cookie",
    "strict-transport-security",
    "x-rustygate-attempts",
    "x-rustygate-queued-ms",
}
_RESPONSE_DROP_PREFIXES = (_PROXY_AUTH,)

# The content codings that the gate can read, to find the usage in an answer.
READABLE_CODINGS = frozenset({"gzip", "deflate", "identity"})

# How many heads are remembered, and how large: what an SDK sends has some five hundred bytes of
# names. A client may invent others, of a hundred kilobytes each.
CACHE_ENTRIES = 512
CACHE_KEY_SIZE = 2048

_CONTROLS = re.compile("[\x00-\x08\x0a-\x1f\x7f]")


class UnreadableHeader(ValueError):
    """A header value that aiohttp cannot carry unchanged. Shows the name, not the value."""

    def __init__(self, name: str) -> None:
        super().__init__(f"The value of header {name} is not UTF-8.")


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the gate adds to requests.

    Args:
        key: upstream's key.
        account: headers that say whose account is meant, for requests that do not say.
    """

    key: str = field(repr=False)
    account: Headers

    @classmethod
    def for_account(cls, key: str, organization: str | None, project: str | None) -> Self:
        named = (("OpenAI-Organization", organization), ("OpenAI-Project", project))
        return cls(key, [(name, value) for name, value in named if value is not None])


def request_headers(raw: RawHeaders, credentials: Credentials, streaming: bool) -> Headers:
    """The headers that go upstream, but for `Host` and the length of a held body.

    Repeated headers take the spelling of the first: aiohttp's client keeps only the last of
    those that differ in case. Raises `UnreadableHeader`.

    Args:
        streaming: the request asks for an event stream, which must come unencoded.
    """
    plan = _REQUEST_PLANS[tuple([raw_name for raw_name, _ in raw])]
    texts = _texts(raw)
    headers: Headers = []
    for place, name in plan.crossing:
        value = texts[place]
        if value is None:
            raise UnreadableHeader(name)
        headers.append((name, value))
    for place in plan.codings:
        name, value = headers[place]
        headers[place] = (name, narrow_accept_encoding(value, streaming))
    if plan.connection:
        headers = _without_named(headers, [raw[place][1] for place in plan.connection])
    headers.append(("Authorization", f"Bearer {credentials.key}"))
    if credentials.account:
        sent = {name.lower() for name, _ in headers}
        headers += [header for header in credentials.account if header[0].lower() not in sent]
    return headers


def response_headers(raw: RawHeaders) -> Headers:
    """The headers that go downstream. One that cannot be carried is left out: the answer it
    came with has been paid for."""
    plan = _RESPONSE_PLANS[tuple([raw_name for raw_name, _ in raw])]
    texts = _texts(raw)
    crossing = [(name, texts[place]) for place, name in plan.crossing]
    headers = [(name, value) for name, value in crossing if value is not None]
    if plan.connection:
        headers = _without_named(headers, [raw[place][1] for place in plan.connection])
    return headers


def reason_phrase(reason: str | None) -> str | None:
    """A reason phrase that aiohttp can write; None lets it take the status's own."""
    return reason if reason is not None and reason.isascii() and reason.isprintable() else None


class _Remembered(dict[K, V]):
    """What a function makes of what is asked for again and again, if that is not large."""

    def __init__(self, function: Callable[[K], V]) -> None:
        super().__init__()
        self._function: Callable[[K], V] = function

    def __missing__(self, key: K) -> V:
        value = self._function(key)
        size = sum(map(len, key)) if isinstance(key, tuple) else len(key)
        if size <= CACHE_KEY_SIZE:
            if len(self) >= CACHE_ENTRIES:
                self.clear()
            self[key] = value
        return value


def narrow_accept_encoding(accept_encoding: str, streaming: bool) -> str:
    """An Accept-Encoding reduced to the codings that the gate can read (RFC 9110, 12.5.3)."""
    return "identity" if streaming else _READABLE[accept_encoding]


def _readable(accept_encoding: str) -> str:
    codings = (coding.strip() for coding in accept_encoding.split(","))
    readable = [c for c in codings if c.partition(";")[0].rstrip().lower() in READABLE_CODINGS]
    return ", ".join(readable) or "identity"


_READABLE = _Remembered(_readable)


def _without_named(headers: Headers, connection: Iterable[bytes]) -> Headers:
    """The headers but those that `Connection` names."""
    named = set().union(*map(_OPTIONS.__getitem__, connection))
    return [header for header in headers if header[0].lower() not in named] if named else headers


def _options(connection: bytes) -> frozenset[str]:
    """The headers that a `Connection` names, in lower case. It may not name a length, without
    which the body would pass for another message."""
    options = (option.strip().lower() for option in connection.decode("latin-1").split(","))
    return frozenset(options) - {"keep-alive", "close", "content-length", ""}


_OPTIONS = _Remembered(_options)


# A client sends the same names in the same order each time, and so does upstream: what becomes of
# them is found out once.


class _Plan(NamedTuple):
    """What crosses of headers with certain names.

    Args:
        crossing: places in the head, and the names to write.
        codings: places among the crossing of those that name content codings.
        connection: places in the head of `Connection`.
    """

    crossing: tuple[tuple[int, str], ...]
    codings: tuple[int, ...]
    connection: tuple[int, ...]


def _request_plan(raw_names: tuple[bytes, ...]) -> _Plan:
    spelling: dict[str, str] = {}
    plan = _plan(raw_names, _REQUEST_DROPS, _REQUEST_DROP_PREFIXES)
    spelled = [(place, spelling.setdefault(name.lower(), name)) for place, name in plan.crossing]
    return plan._replace(crossing=tuple(spelled))


def _response_plan(raw_names: tuple[bytes, ...]) -> _Plan:
    return _plan(raw_names, _RESPONSE_DROPS, _RESPONSE_DROP_PREFIXES)


def _plan(raw_names: tuple[bytes, ...], drops: frozenset[str], prefixes: tuple[str, ...]) -> _Plan:
    names = [raw_name.decode("latin-1") for raw_name in raw_names]
    lower = [name.lower() for name in names]
    kept = [
        place
        for place, name in enumerate(lower)
        if name not in drops and not name.startswith(prefixes)
    ]
    return _Plan(
        tuple((place, names[place]) for place in kept),
        tuple(at for at, place in enumerate(kept) if lower[place] == "accept-encoding"),
        tuple(place for place, name in enumerate(lower) if name == "connection"),
    )


_REQUEST_PLANS = _Remembered(_request_plan)
_RESPONSE_PLANS = _Remembered(_response_plan)


def _texts(raw: RawHeaders) -> Sequence[str | None]:
    """The headers' values, None for those that aiohttp could not write as they came.

    Decoded together, which takes a third of the time; no value holds a newline.
    """
    try:
        text = b"\n".join([raw_value for _, raw_value in raw]).decode()
    except UnicodeDecodeError:
        return [_text(raw_value) for _, raw_value in raw]
    # `isprintable` is the cheap question; what it denies may still be a tab or a soft space.
    if not text.replace("\n", "").isprintable() or not raw:
        return [_text(raw_value) for _, raw_value in raw]
    return text.split("\n")


def _text(raw_value: bytes) -> str | None:
    """A header's value, or None if aiohttp could not write it as it came."""
    try:
        value = raw_value.decode()
    except UnicodeDecodeError:
        return None
    return None if _CONTROLS.search(value) else value
