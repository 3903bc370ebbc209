"""Which web pages may use the gate, and the headers that browsers need for it (Fetch, 3.3).

A browser names the requesting page in `Origin`. It sends a page's request only if a preflight
allows it, and shows a response to the page only if the response allows it. Credentials, Fetch's
word for cookies, are never allowed: the gate uses none.
"""

import re
from collections.abc import Iterable, Sequence

from rustygate.core.headers import Headers

ANY_ORIGIN = "*"

# Two hours, the longest that Chromium caches a preflight.
PREFLIGHT_MAX_AGE_S = 7200

# Extensions and desktop apps have schemes of their own. `null` is rejected: it identifies no page,
# since every sandboxed frame and every local file sends it.
_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>[a-z0-9_.-]+|\[[0-9a-f:.]+\])(:(?P<port>[0-9]{1,5}))?"
)
_DEFAULT_PORTS = {"http": 80, "https": 443}

# A method, or a list of header names (RFC 9110, 5.6.1 and 5.6.2).
_TOKENS = re.compile(r"[\w!#$%&'*+.^`|~, -]+", re.ASCII)


def parse_origins(text: str) -> tuple[str, ...]:
    """The origins in a comma-separated list, as browsers send them; or `*` alone, for any.

    Raises ValueError if an element is not an origin.
    """
    if text == ANY_ORIGIN:
        return (ANY_ORIGIN,)
    return tuple(_normalized(origin.strip()) for origin in text.split(","))


def is_origin_allowed(sent: Sequence[str], allowed: Sequence[str]) -> bool:
    """Whether a request with these `Origin` headers may pass. Browsers send exactly one."""
    return ANY_ORIGIN in allowed or (len(sent) == 1 and sent[0] in allowed)


def preflight_headers(method: str, names: str) -> Headers:
    """The headers that allow the request of a preflight: its method and its headers' names.

    A value that is not a method or a list of names is left out, and so not allowed.
    """
    headers = [("Access-Control-Max-Age", str(PREFLIGHT_MAX_AGE_S))]
    requested = (("Access-Control-Allow-Methods", method), ("Access-Control-Allow-Headers", names))
    return headers + [(name, value) for name, value in requested if _TOKENS.fullmatch(value)]


def cors_headers(origin: str, vary: Iterable[str]) -> Headers:
    """The headers that let a page at `origin`, or `*`, read a response and all its headers.

    Args:
        vary: the `Vary` headers that the response already has.
    """
    headers = [("Access-Control-Allow-Origin", origin), ("Access-Control-Expose-Headers", "*")]
    varying = {name.strip().lower() for value in vary for name in value.split(",")}
    if not varying & {"origin", "*"}:
        headers.append(("Vary", "Origin"))
    return headers


def is_cors_header(name: str) -> bool:
    """Whether a response header is part of the CORS protocol."""
    return name.lower().startswith("access-control-")


def _normalized(origin: str) -> str:
    """In lower case, without a final slash or the scheme's default port (HTML, 7.1.1)."""
    match = _ORIGIN.fullmatch(origin.lower().removesuffix("/"))
    port = int(match["port"] or 1) if match else 0
    if match is None or not 0 < port < 65536:
        raise ValueError("not an origin")
    is_default = match["port"] is None or port == _DEFAULT_PORTS.get(match["scheme"])
    return f"{match['scheme']}://{match['host']}" + ("" if is_default else f":{port}")
