"""Everything that relies on aiohttp's private names; the other packages use its public API only.

`server`: connections from clients. `response`: responses to clients. `client`: connections to
upstream. `tests/aiohttp_internals/test_private_names.py` lists the private names and checks them
against the installed aiohttp.
"""
