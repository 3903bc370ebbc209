"""Whether the gate is its own upstream or proxy, as far as the settings show it.

A request to such a gate would come back to it.
"""

from contextlib import suppress
from ipaddress import IPv4Address, ip_address
from socket import inet_aton
from urllib.parse import urlsplit

from rustygate.config.masking import mask_credentials
from rustygate.config.names import BASE_URL, BIND_ADDRESS, PORT
from rustygate.config.settings import Settings

_LOOPBACK = "localhost"
_ALL_ADDRESSES = "all addresses"

# In the /etc/hosts of the usual distributions.
_LOOPBACK_NAMES = (_LOOPBACK, "localhost.localdomain", "localhost6", "ip6-localhost")


def own_address_problem(settings: Settings) -> str | None:
    """The problem in a line, if the upstream or the proxy to it is the gate's own address."""
    if settings.socket_path is not None:
        return None
    if _is_own(settings.openai_base_url, settings):
        given = f"{BASE_URL}={settings.openai_base_url}"
    elif settings.proxy is not None and _is_own(settings.proxy, settings):
        scheme = urlsplit(settings.openai_base_url).scheme
        given = f"{scheme.upper()}_PROXY={mask_credentials(settings.proxy)}"
    else:
        return None
    return (
        f"{given}: expected another address than the gate's own "
        f"({BIND_ADDRESS}={settings.bind_address}, {PORT}={settings.port})"
    )


def _is_own(url: str, settings: Settings) -> bool:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if port != settings.port:
        return False
    host, bound = _canonical(parts.hostname or ""), _canonical(settings.bind_address)
    # A client that connects to all addresses reaches loopback.
    host = _LOOPBACK if host == _ALL_ADDRESSES else host
    return host == bound or (bound == _ALL_ADDRESSES and _is_loopback(host))


def _canonical(host: str) -> str:
    """One word for all spellings of the usual loopback address, and one for all addresses."""
    host = host.lower()
    if host in _LOOPBACK_NAMES or host.endswith(".localhost"):
        return _LOOPBACK
    # The resolver takes hexadecimal, octal and short forms for addresses too: 0x7f000001.
    with suppress(OSError):
        host = str(IPv4Address(inet_aton(host)))
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
