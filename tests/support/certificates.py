"""Certificates from a private authority."""

import ssl
from pathlib import Path

import trustme


class Authority:
    """A private certificate authority that writes its files to a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ca = trustme.CA()
        self.file = directory / "authority.pem"
        self._ca.cert_pem.write_to_path(str(self.file))

    def issue(self, *names: str) -> dict[str, str]:
        """TLS settings with the files of a new certificate for these names, and of its key."""
        issued = self._ca.issue_cert(*names)
        cert = self._directory / f"{names[0]}.pem"
        key = self._directory / f"{names[0]}.key"
        cert.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(key))
        return {"TLS_CERT_FILE": str(cert), "TLS_KEY_FILE": str(key)}

    def server_context(self, *names: str) -> ssl.SSLContext:
        """The context of a server with a new certificate for these names."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert(*names).configure_cert(context)
        return context

    def client_context(self) -> ssl.SSLContext:
        """The context of a client that trusts only this authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # Up to 3.11.3, Python with OpenSSL 3 takes any end for a TLS close unless this is off.
        context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
        self._ca.configure_trust(context)
        return context
