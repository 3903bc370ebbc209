"""Headers of the live page: it runs no foreign code, and other pages cannot read it.

The names of clients and models are untrusted. The page inserts them as text only, and if it
ever did not, the policy would keep the browser from running or loading anything.
"""

from aiohttp import hdrs

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)

SECURITY_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}

# Values of `Cache-Control`: revalidate before each use, or never store.
REVALIDATE, NO_STORE = "no-cache", "no-store"

STATE_HEADERS = SECURITY_HEADERS | {hdrs.CACHE_CONTROL: NO_STORE}
