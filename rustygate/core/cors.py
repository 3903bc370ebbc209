"""Which web pages may use the gate, and what their browsers must be told (Fetch, 3.3).

A browser names the page that asks in `Origin`. It sends a page's request only if a preflight
allows it, and shows the page an answer only if the answer allows that. Credentials, which is
Fetch's word for cookies, are never allowed: the gate knows none.
"""

import re
from collections.abc import Iterable, Sequence

from rustygate.core.headers import Headers

ANY_ORIGIN = "*"

# Two hours: the longest that Chromium remembers a preflight.
PREFLIGHT_MAX_AGE_S = 7200

# Extensions and desktop apps have schemes of their own. `null` is no origin that could be told
# from others: every sandboxed frame and every local file sends it.
_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>[a-z0-9_.-]+|\[[0-9a-f:.]+\])(:(?P<port>[0-9]{1,5}))?"
)
_DEFAULT_PORTS = {"http": 80, "https": 443}

# A method, or a list of header names (RFC 9110, 5.6.1 and 5.6.2).
_TOKENS = re.compile(r"[\w!#$%&'*+.^`|~, -]+", re.ASCII)


def parse_origins(text: str) -> tuple[str, ...]:
    """The origins in a comma-separated list, as browsers write them; or `*` alone, for any.

    Raises ValueError for what is neither.
    """
    if text == ANY_ORIGIN:
        return (ANY_ORIGIN,)
    return tuple(_as_browsers_write(origin.strip()) for origin in text.split(","))


def is_origin_allowed(sent: Sequence[str], listed: Sequence[str]) -> bool:
    """Whether a request with these `Origin` headers may pass. Browsers send one."""
    return ANY_ORIGIN in listed or (len(sent) == 1 and sent[0] in listed)


def preflight_headers(method: str, names: str) -> Headers:
    """What lets a browser send the request it asks for: its method and its headers' names.

    What is no method or no list of names is not repeated, and so not allowed.
    """
    headers = [("Access-Control-Max-Age", str(PREFLIGHT_MAX_AGE_S))]
    asked = (("Access-Control-Allow-Methods", method), ("Access-Control-Allow-Headers", names))
    return headers + [(name, value) for name, value in asked if _TOKENS.fullmatch(value)]


def cors_headers(origin: str, vary: Iterable[str]) -> Headers:
    """What lets a page at `origin`, or at `*`, read an answer and all of its headers.

    Args:
        vary: the answer's own `Vary` headers.
    """
    headers = [("Access-Control-Allow-Origin", origin), ("Access-Control-Expose-Headers", "*")]
    named = {name.strip().lower() for value in vary for name in value.split(",")}
    if not named & {"origin", "*"}:
        headers.append(("Vary", "Origin"))
    return headers


def is_cors_header(name: str) -> bool:
    """Whether a header is one of those by which an answer says which pages may read it."""
    return name.lower().startswith("access-control-")


def _as_browsers_write(origin: str) -> str:
    """In lower case, without a slash at the end or its scheme's own port (HTML, 7.1.1)."""
    match = _ORIGIN.fullmatch(origin.lower().removesuffix("/"))
    port = int(match["port"] or 1) if match else 0
    if match is None or not 0 < port < 65536:
        raise ValueError("not an origin")
    own = match["port"] is None or port == _DEFAULT_PORTS.get(match["scheme"])
    return f"{match['scheme']}://{match['host']}" + ("" if own else f":{port}")
