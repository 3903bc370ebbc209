"""TLS: the contexts for clients, upstream and Redis, and the bytes that TLS buffers.

A problem with a file is described in words that reveal nothing of its content.
"""

import asyncio
import os
import ssl
import stat
from collections.abc import Sequence
from contextlib import suppress
from functools import cache

# Bundles of certificate authorities take a few hundred kilobytes.
PEM_SIZE_LIMIT = 16 << 20

CERTIFICATE = "CERTIFICATE"
PRIVATE_KEY = "PRIVATE KEY"


class UnusableFiles(OSError):
    """`strerror` says why a certificate or a key cannot be used; it is no error of the system."""

    def __init__(self, reason: str) -> None:
        super().__init__(-1, reason)


def read_pem(path: str, label: str) -> bytes:
    """The content of a file with a PEM block of that label (RFC 7468).

    Raises OSError, whose `strerror` says what is wrong with the file.
    """
    # Opening a pipe would block until it has a writer.
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise UnusableFiles("not a regular file")
    with open(path, "rb") as file:
        content = file.read(PEM_SIZE_LIMIT)
    if f"{label}-----".encode() not in content:
        raise UnusableFiles(f"no {label.lower()} in it")
    return content


def pem_problem(path: str, label: str) -> str | None:
    """Why a file has no PEM block with that label, or None if it has one."""
    try:
        read_pem(path, label)
    except OSError as error:
        return error.strerror
    return None


def key_pair_problem(cert_file: str, key_file: str) -> str | None:
    """Why a certificate and a key cannot serve HTTPS, or None if they can."""
    try:
        server_context(cert_file, key_file)
    except OSError as error:
        return _problem(error)
    return None


def server_context(cert_file: str, key_file: str) -> ssl.SSLContext:
    """The context that serves HTTPS. Raises OSError, of which `ssl.SSLError` is a subclass."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # Without a password, OpenSSL would prompt for that of an encrypted key on the terminal.
    context.load_cert_chain(cert_file, key_file, password=lambda: "")
    return context


class ServerCertificate:
    """The certificate of the server, which can be read again while it serves.

    `context` is for listening. Each handshake then uses the latest certificate; connections keep
    theirs. A new context, rather than new files in the old one: a pair that does not match would
    leave that one without a key.
    """

    def __init__(self, cert_file: str, key_file: str) -> None:
        """Raises OSError, of which `ssl.SSLError` is a subclass."""
        self.cert_file, self._key_file = cert_file, key_file
        self.context = self._latest = server_context(cert_file, key_file)
        self.context.sni_callback = self._use_latest

    def reload(self) -> str | None:
        """Read the files again; returns why they cannot be used, in which case nothing changes."""
        for path, label in self._labels():
            # OpenSSL would wait for a pipe's writer, and does not say which file is bad.
            if problem := pem_problem(path, label):
                return f"{path}: {problem}"
        return self._use(self.cert_file, self._key_file)

    def _use(self, cert_file: str, key_file: str) -> str | None:
        """Use what is in the files, or in copies of them; returns why that is not possible."""
        try:
            self._latest = server_context(cert_file, key_file)
        except OSError as error:
            return f"{self.cert_file} and {self._key_file}: {_problem(error)}"
        return None

    def _labels(self) -> Sequence[tuple[str, str]]:
        """What must be in which file."""
        return (self.cert_file, CERTIFICATE), (self._key_file, PRIVATE_KEY)

    def _use_latest(
        self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext
    ) -> None:
        # OpenSSL calls this in each handshake, also if the client names no server.
        connection.context = self._latest


def ca_file_problem(ca_file: str) -> str | None:
    """Why a file is not a bundle of certificate authorities, or None if it is one."""
    problem = pem_problem(ca_file, CERTIFICATE)
    if problem is None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(ca_file)
        except ssl.SSLError as error:
            return describe_ssl_error(error)
    return problem


@cache
def client_context(
    ca_file: str | None, ca_directory: str | None, *protocols: str
) -> ssl.SSLContext:
    """The context of clients that trust these authorities besides the system's.

    Made once for all connections, since the system's authorities take 0.9 MB. OpenSSL reads the
    two variables itself, but only from the environment, not from `.env`, and it ignores a file
    that it cannot read.

    Args:
        protocols: those to offer to the server (ALPN).
    """
    context = ssl.create_default_context()
    if protocols:
        context.set_alpn_protocols(protocols)
    if ca_file or ca_directory:
        context.load_verify_locations(ca_file, ca_directory)
    return context


def unverified_context() -> ssl.SSLContext:
    """A client context that accepts any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def socket_transport(transport: asyncio.Transport) -> asyncio.Transport:
    """The transport that writes to the socket; asyncio has no public way to the one below TLS."""
    protocol = getattr(transport, "_ssl_protocol", None)
    below: asyncio.Transport | None = getattr(protocol, "_transport", None)
    return transport if below is None else below


def unsent_bytes(transport: asyncio.Transport) -> int:
    """The number of bytes not yet handed to the kernel. With TLS, two transports buffer some."""
    if getattr(transport, "_ssl_protocol", transport) is None:
        # After a second close, the transport has no buffers to ask for.
        return 0
    below = socket_transport(transport)
    buffered = transport.get_write_buffer_size()
    return buffered if below is transport else buffered + below.get_write_buffer_size()


def _problem(error: OSError) -> str | None:
    return describe_ssl_error(error) if isinstance(error, ssl.SSLError) else error.strerror


def describe_ssl_error(error: ssl.SSLError) -> str:
    """The reason for a TLS failure in plain words."""
    reason = (error.reason or "bad format").replace("_", " ").lower()
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{reason}: {error.verify_message.rstrip('.')}"
    return reason


def abort(transport: asyncio.Transport) -> None:
    """Abort a connection. Early Python 3.11 fails on TLS connections that were closed twice."""
    with suppress(AttributeError):
        transport.abort()
