"""aiohttp's default TLS context, which the gate does not use."""

import ssl

from aiohttp import connector

import rustygate.aiohttp_internals


def test_default_context_trusts_no_authority() -> None:
    assert rustygate.aiohttp_internals
    context = connector._SSL_CONTEXT_VERIFIED
    assert context.cert_store_stats()["x509"] == 0
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
