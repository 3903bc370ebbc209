"""TLS: what the gate shows to its clients, whom it trusts upstream, and what it holds.

What is wrong with a file is said in words that hold nothing of it.
"""

import asyncio
import os
import ssl
import stat

# Bundles of authorities have a few hundred kilobytes.
PEM_LIMIT = 16 << 20

CERTIFICATE = "CERTIFICATE"
PRIVATE_KEY = "PRIVATE KEY"


def pem_fault(path: str, label: str) -> str | None:
    """Why a file holds nothing of that kind (RFC 7468), or None if it does."""
    try:
        # Opening a pipe would wait for who writes to it.
        if not stat.S_ISREG(os.stat(path).st_mode):
            return "it is no file"
        with open(path, "rb") as file:
            text = file.read(PEM_LIMIT)
    except OSError as error:
        return error.strerror
    return None if f"{label}-----".encode() in text else f"it holds no {label.lower()}"


def pair_fault(cert_file: str, key_file: str) -> str | None:
    """Why HTTPS cannot be served with these, or None if it can."""
    try:
        server_context(cert_file, key_file)
    except ssl.SSLError as error:
        return words(error)
    except OSError as error:
        return error.strerror
    return None


def server_context(cert_file: str, key_file: str) -> ssl.SSLContext:
    """What to serve HTTPS with. Raises OSError, which `ssl.SSLError` is one of."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # OpenSSL would ask the terminal for the password of a key that has one.
    context.load_cert_chain(cert_file, key_file, password=lambda: "")
    return context


def bundle_fault(cert_file: str) -> str | None:
    """Why a file names no authorities to trust, or None if it does."""
    fault = pem_fault(cert_file, CERTIFICATE)
    if fault is None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cert_file)
        except ssl.SSLError as error:
            return words(error)
    return fault


def client_context(cert_file: str | None, cert_dir: str | None) -> ssl.SSLContext:
    """What to connect with in order to trust these authorities too, at least one of both.

    OpenSSL knows both variables, but only from the environment, not from `.env`, and it says
    nothing of a file that it cannot read.
    """
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    context.load_verify_locations(cert_file, cert_dir)
    return context


def unverified_context() -> ssl.SSLContext:
    """For asking whoever answers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def below_tls(transport: asyncio.Transport) -> asyncio.Transport:
    """The transport that writes to the socket; asyncio has no public way to the one below."""
    protocol = getattr(transport, "_ssl_protocol", None)
    below: asyncio.Transport | None = getattr(protocol, "_transport", None)
    return transport if below is None else below


def unsent(transport: asyncio.Transport) -> int:
    """How many bytes have not left for the kernel. With TLS two transports hold some of them."""
    if getattr(transport, "_ssl_protocol", transport) is None:
        # Closed twice, it knows nothing any more.
        return 0
    below = below_tls(transport)
    held = transport.get_write_buffer_size()
    return held if below is transport else held + below.get_write_buffer_size()


def words(error: ssl.SSLError) -> str:
    """What a failure of TLS means."""
    reason = (error.reason or "bad format").replace("_", " ").lower()
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{reason}: {error.verify_message.rstrip('.')}"
    return reason
