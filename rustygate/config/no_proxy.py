"""NO_PROXY: which hosts are reached without a proxy.

An entry is a host name, which includes its subdomains with or without a leading dot, an IP
address, a block of addresses in CIDR notation (RFC 4632, section 3.1), or `*`. A name or an
address may have a port. There is no standard; this is what curl, Go and Python accept together.
"""

import re
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

_ENTRY_WITH_PORT = re.compile(r"(\[.*\]|[^:]*):(\d+)", re.ASCII)


def is_bypassed(host: str, port: int, no_proxy: str) -> bool:
    """Whether a host (a name, or an address without brackets) is reached without a proxy."""
    host = host.lower()
    address = _address(host)
    return any(_matches(entry, host, address, port) for entry in re.split(r"[\s,]+", no_proxy))


def malformed_blocks(no_proxy: str) -> list[str]:
    """The entries that look like blocks of addresses, but are malformed; they match nothing."""
    entries = re.split(r"[\s,]+", no_proxy)
    return [entry for entry in entries if "/" in entry and _network(entry) is None]


def _network(entry: str) -> IPv4Network | IPv6Network | None:
    """The address or block in an entry, which may be in brackets."""
    try:
        return ip_network(re.sub(r"[\[\]]", "", entry), strict=False)
    except ValueError:
        return None


def _matches(entry: str, host: str, address: IPv4Address | IPv6Address | None, port: int) -> bool:
    if entry == "*":
        return True
    if match := _ENTRY_WITH_PORT.fullmatch(entry):
        entry = match[1]
        if int(match[2]) != port:
            return False
    if address is not None:
        return _contains(entry, address)
    domain = entry.lower().removeprefix("*").removeprefix(".").removesuffix(".")
    return bool(domain) and (host == domain or host.endswith(f".{domain}"))


def _contains(entry: str, address: IPv4Address | IPv6Address) -> bool:
    """Whether an address or a block, which may be in brackets, contains an address."""
    network = _network(entry)
    return network is not None and address in network


def _address(host: str) -> IPv4Address | IPv6Address | None:
    """The address that a host is, an IPv4-mapped one as IPv4."""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return (address.version == 6 and address.ipv4_mapped) or address
