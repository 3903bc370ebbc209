"""Sessions with the Redis server that has a group's keys.

The server is standalone, found through Sentinel, or in a cluster.
"""

import asyncio
import errno
import os
import re
from binascii import crc_hqx
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from rustygate.admission.group.redis_errors import (
    CONNECTION_LOST,
    NO_ANSWER,
    CallError,
    store_error,
)
from rustygate.admission.group.redis_protocol import ErrorReply, ProtocolError
from rustygate.admission.group.redis_session import RedisSession
from rustygate.admission.group.store import StoreRefused, StoreUnavailable
from rustygate.config.redis_url import RedisUrl
from rustygate.system.tls import client_context

# Enough for six round trips of 50 ms and a lost packet: TCP, TLS, AUTH, SELECT.
CONNECT_LIMIT_S = 2.0

# A sentinel or a node that does not answer must not use up the time for the others.
_LOCATE_LIMIT_S = 0.5

# How a session fails if the server expects TLS and gets a plain command.
_RESETS = (CONNECTION_LOST, os.strerror(errno.ECONNRESET))

# How CLIENT SETNAME fails at a server that can be used: the user lacks permission, the command has
# another name, or a proxy does not have it.
_NO_NAMES = r"NOPERM|(unknown|unsupported) (sub)?command"

Address = tuple[str, int]


class RedisConnector:
    """Opens sessions with the server that has a key.

    Args:
        ca_file, ca_directory: certificate authorities besides the system's.
    """

    def __init__(
        self, url: RedisUrl, key: str, ca_file: str | None, ca_directory: str | None
    ) -> None:
        self._url = url
        self._slot = _key_slot(key)
        # Those that answered last come first.
        self._seeds = list(url.hosts)
        self._tls = client_context(ca_file, ca_directory) if url.tls else None

    async def connect(self) -> RedisSession:
        """A session with user, name and database set. Raises StoreUnavailable."""
        try:
            async with asyncio.timeout(CONNECT_LIMIT_S):
                return await self._connect()
        except (ErrorReply, ProtocolError, OSError) as error:
            raise self._with_hint(_as_unavailable(error)) from error

    def _with_hint(self, error: StoreUnavailable) -> StoreUnavailable:
        """Add a hint if the error looks like one side using TLS and the other not."""
        if self._tls is not None and str(error) == NO_ANSWER:
            return StoreUnavailable(f"{error}; if the server has no TLS, use redis://")
        if self._tls is None and str(error) in _RESETS:
            return StoreUnavailable(f"{error}; if the server requires TLS, use rediss://")
        return error

    async def _connect(self) -> RedisSession:
        url = self._url
        if url.path is not None:
            return await self._with_access(await RedisSession.to_socket(url.path))
        if url.kind == "sentinel":
            return await self._open(await self._first(self._ask_sentinel))
        if url.kind == "cluster":
            return await self._open(await self._first(self._ask_node))
        return await self._open(url.hosts[0])

    async def _open(self, address: Address) -> RedisSession:
        return await self._with_access(await RedisSession.to_server(*address, self._tls))

    async def _with_access(self, session: RedisSession) -> RedisSession:
        """The session, with user, name and database set."""
        url = self._url
        try:
            await _authenticate(session, url.username, url.password)
            await _set_name(session)
            if url.database:
                await session.ask("SELECT", url.database)
        except BaseException:
            session.close()
            raise
        return session

    # Where the key is.

    async def _first(self, ask: Callable[[Address], Awaitable[Address]]) -> Address:
        """The first address that a seed returns. If none does, raises a seed's error."""
        failures: list[StoreUnavailable] = []
        for seed in list(self._seeds):
            try:
                async with asyncio.timeout(_LOCATE_LIMIT_S):
                    found = await ask(seed)
            except (ErrorReply, ProtocolError, OSError, StoreUnavailable) as error:
                failures.append(_as_unavailable(error))
                continue
            self._seeds = list(dict.fromkeys((seed, *self._seeds)))
            return found
        raise next((each for each in failures if isinstance(each, StoreRefused)), failures[0])

    async def _ask_sentinel(self, seed: Address) -> Address:
        url = self._url
        async with _temporary(await RedisSession.to_server(*seed, self._tls)) as session:
            await _authenticate(session, url.sentinel_username, url.sentinel_password)
            found = await session.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", url.master or "")
        if not found:
            raise StoreUnavailable("the sentinels know no master with that name")
        host, port = found
        return host.decode(), int(port)

    async def _ask_node(self, seed: Address) -> Address:
        async with _temporary(await self._open(seed)) as session:
            ranges = await session.ask("CLUSTER", "SLOTS")
        # All nodes may be asked from now on: those of REDIS_URL may be replaced one by one.
        nodes = {(_host(node, seed), int(node[1])) for each in ranges for node in each[2:]}
        self._seeds = list(dict.fromkeys((*sorted(nodes), *self._url.hosts)))
        for first, last, master, *_ in ranges:
            if first <= self._slot <= last:
                return _host(master, seed), int(master[1])
        raise StoreUnavailable("the cluster is down")


def _host(node: list[Any], seed: Address) -> str:
    """A node's host in the answer of `seed`, which may not know its own."""
    host: str = (node[0] or b"").decode()
    return seed[0] if host in ("", "?") else host


async def _authenticate(session: RedisSession, username: str | None, password: str | None) -> None:
    if username:
        await session.ask("AUTH", username, password or "")
    elif password:
        await session.ask("AUTH", password)


async def _set_name(session: RedisSession) -> None:
    """Name the connection for the server's CLIENT LIST, if the user has permission and the server
    can. A server that expects TLS closes the connection at the first command: AUTH or this one."""
    try:
        await session.ask("CLIENT", "SETNAME", "rustygate")
    except ErrorReply as error:
        if not re.search(_NO_NAMES, str(error), re.IGNORECASE):
            raise


@asynccontextmanager
async def _temporary(session: RedisSession) -> AsyncIterator[RedisSession]:
    """A session that is closed after the block."""
    try:
        yield session
    finally:
        session.close()


def _key_slot(key: str) -> int:
    """The slot of a key with a hash tag (https://redis.io/docs/latest/reference/cluster-spec/)."""
    tag = key.partition("{")[2].partition("}")[0]
    return crc_hqx(tag.encode(), 0) % 16384


def _as_unavailable(error: CallError) -> StoreUnavailable:
    meaning = store_error(error)
    if isinstance(meaning, StoreUnavailable):
        return meaning
    return StoreRefused("the server is of another kind")
