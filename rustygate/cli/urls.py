"""URLs of a server, for a client on the same machine."""

from rustygate.config import Settings


def local_url(settings: Settings, port: int) -> str:
    """The URL at which this machine reaches a gate with these settings on that port."""
    address = settings.bind_address
    if settings.socket_path is not None:
        return address
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
    return build_url(host, port, "https" if settings.tls_cert_file else "http")


def build_url(host: str, port: int, scheme: str = "http") -> str:
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
