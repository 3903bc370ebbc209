"""Everything that relies on aiohttp's private names; the other packages use its public API only.

`server`: connections from clients. `response`: responses to clients. `client`: connections to
upstream. `tests/aiohttp_internals/test_private_names.py` lists the private names and checks them
against the installed aiohttp.
"""

import ssl

from aiohttp import connector

# When it is imported, aiohttp loads all authorities that the system trusts, which takes 0.9 MB. A
# gate whose upstream has TLS makes a context of its own; the default one trusts no authority.
connector._SSL_CONTEXT_VERIFIED = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
