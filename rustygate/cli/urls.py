"""URLs of a gate, for a client on the same machine."""

from rustygate.config import Settings


def reachable(settings: Settings, port: int) -> str:
    """A URL to connect to, for a gate that listens as the settings say, on that port."""
    address = settings.bind_address
    if settings.socket_path is not None:
        return address
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
    return url_of(host, port, "https" if settings.tls_cert_file else "http")


def url_of(host: str, port: int, scheme: str = "http") -> str:
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
