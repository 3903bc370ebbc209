"""Whether the gate is its own upstream, as far as the settings show it.

A request to such a gate would come back to it until nothing is left.
"""

from ipaddress import ip_address
from urllib.parse import urlsplit

from rustygate.config.names import BASE_URL, BIND_ADDRESS, PORT
from rustygate.config.settings import Settings

_LOOPBACK = "localhost"
_ALL_ADDRESSES = "all addresses"


def own_address_problem(settings: Settings) -> str | None:
    """The problem in a line, if the upstream is the address that the gate listens on."""
    if settings.socket_path is not None or not _is_own(settings):
        return None
    return (
        f"{BASE_URL}={settings.openai_base_url}: expected another address than the gate's own "
        f"({BIND_ADDRESS}={settings.bind_address}, {PORT}={settings.port})"
    )


def _is_own(settings: Settings) -> bool:
    upstream = urlsplit(settings.openai_base_url)
    port = upstream.port or (443 if upstream.scheme == "https" else 80)
    if port != settings.port:
        return False
    host, bound = _canonical(upstream.hostname or ""), _canonical(settings.bind_address)
    # A client that connects to all addresses reaches loopback.
    host = _LOOPBACK if host == _ALL_ADDRESSES else host
    return host == bound or (bound == _ALL_ADDRESSES and _is_loopback(host))


def _canonical(host: str) -> str:
    """One word for all spellings of the usual loopback address, and one for all addresses."""
    host = host.lower()
    if host == "localhost" or host.endswith(".localhost"):
        return _LOOPBACK
    try:
        address = ip_address(host)
    except ValueError:
        return host
    address = (address.version == 6 and address.ipv4_mapped) or address
    if address.is_unspecified:
        return _ALL_ADDRESSES
    return _LOOPBACK if str(address) in ("127.0.0.1", "::1") else str(address)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == _LOOPBACK
