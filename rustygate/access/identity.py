"""What a request's headers say about its client: name, priority class and timeout.

With CLIENTS_FILE, a client's name comes from its key instead: see `client_auth`.
"""

from math import inf

from aiohttp import web
from multidict import istr

from rustygate.core.fair_order import CLASS_WEIGHTS
from rustygate.errors import BadRequest

CLIENT_HEADER = istr("X-RustyGate-Client")
PRIORITY_HEADER = istr("X-RustyGate-Priority")

# Set by the official SDKs: the seconds between bytes in Python, the seconds in all in Node.
TIMEOUT_HEADERS = (istr("x-stainless-read-timeout"), istr("x-stainless-timeout"))

# A client's name is a label in logs, so a longer one is cut.
CLIENT_NAME_LIMIT = 64

# How much of an invalid priority an error message repeats.
SHOWN_PRIORITY_LENGTH = 200


def client_name(request: web.Request, *, trust_header: bool) -> str:
    """The name in `X-RustyGate-Client`, if that header is trusted, else the client's address."""
    name = request.headers.get(CLIENT_HEADER, "").strip() if trust_header else ""
    name = name or request.remote or "local"
    return name[:CLIENT_NAME_LIMIT].encode(errors="replace").decode()


def sdk_timeout_s(request: web.Request) -> float | None:
    """How long the client's SDK waits for a response or for its next byte, if it says so."""
    shortest_s = inf
    for header in TIMEOUT_HEADERS:
        timeout = request.headers.get(header)
        if timeout is not None:
            shortest_s = min(shortest_s, _seconds(timeout))
    return None if shortest_s == inf else shortest_s


def priority_class(request: web.Request) -> str:
    """The priority class that a request names. Raises `BadRequest` for an unknown one."""
    priority = request.headers.get(PRIORITY_HEADER)
    if priority is None:
        return "default"
    if priority not in CLASS_WEIGHTS:
        *others, last = CLASS_WEIGHTS
        classes = f"{', '.join(others)} or {last}"
        shown = ascii(priority[:SHOWN_PRIORITY_LENGTH])
        raise BadRequest(f"{PRIORITY_HEADER} must be {classes}, not {shown}.")
    return priority


def _seconds(text: str) -> float:
    """A positive number of seconds; infinity for any other text."""
    if not text.isascii():
        return inf
    try:
        seconds = float(text)
    except ValueError:
        return inf
    return seconds if seconds > 0 else inf
