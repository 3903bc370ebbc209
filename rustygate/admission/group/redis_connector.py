"""Connections to the Redis server that has a group's keys: single, by Sentinel, or in a Cluster.

Only the connections of redis-py are used. With its clients, a call takes three times the CPU time,
and the one for a cluster asks each server for all commands and slots, where one slot matters.
"""

import asyncio
import errno
import os
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import RedisError

from rustygate.admission.group.redis_errors import CONNECTION_LOST, NO_ANSWER, store_error
from rustygate.admission.group.store import StoreRefused, StoreUnavailable
from rustygate.config.redis_url import RedisUrl

# Enough for six round trips of 50 ms and a lost packet: TCP, TLS, AUTH, SELECT.
CONNECT_LIMIT_S = 2.0

# A sentinel or a node that does not answer must not use up the time for the others.
_LOCATE_LIMIT_S = 0.5

# How a connection fails if the server expects TLS and gets a plain command.
_RESETS = (CONNECTION_LOST, os.strerror(errno.ECONNRESET))

Address = tuple[str, int]


class RedisConnector:
    """Opens connections to the server that has a key.

    Args:
        ca_file, ca_directory: certificate authorities besides the system's.
    """

    def __init__(
        self, url: RedisUrl, key: str, ca_file: str | None, ca_directory: str | None
    ) -> None:
        self._url = url
        self._slot = key_slot(key.encode())
        # Those that answered last come first.
        self._seeds = list(url.hosts)
        self._common: dict[str, Any] = {
            "protocol": 2,
            "socket_timeout": None,
            "retry": Retry(NoBackoff(), 0),
        }
        self._tls = _tls_context(ca_file, ca_directory) if url.tls else None

    async def connect(self) -> AbstractConnection:
        """An open connection, with user and database set. Raises StoreUnavailable."""
        try:
            async with asyncio.timeout(CONNECT_LIMIT_S):
                return await self._connect()
        except (RedisError, OSError) as error:
            raise self._with_hint(_as_unavailable(error)) from error

    def _with_hint(self, error: StoreUnavailable) -> StoreUnavailable:
        """Add a hint if the error looks like one side using TLS and the other not."""
        if self._tls is not None and str(error) == NO_ANSWER:
            return StoreUnavailable(f"{error}; if the server has no TLS, use redis://")
        if self._tls is None and str(error) in _RESETS:
            return StoreUnavailable(f"{error}; if the server requires TLS, use rediss://")
        return error

    async def _connect(self) -> AbstractConnection:
        url = self._url
        if url.path is not None:
            return await _opened(
                UnixDomainSocketConnection(path=url.path, **self._credentials, **self._common)
            )
        if url.kind == "sentinel":
            return await self._open(await self._first(self._ask_sentinel))
        if url.kind == "cluster":
            return await self._open(await self._first(self._ask_node))
        return await self._open(url.hosts[0])

    @property
    def _credentials(self) -> dict[str, Any]:
        url = self._url
        return {"username": url.username, "password": url.password, "db": url.database}

    async def _open(self, address: Address, **credentials: Any) -> AbstractConnection:
        host, port = address
        given = {"host": host, "port": port, **(credentials or self._credentials), **self._common}
        if self._tls is None:
            return await _opened(Connection(**given))
        connection = SSLConnection(**given)
        connection.ssl_context.context = self._tls
        return await _opened(connection)

    # Where the key is.

    async def _first(self, ask: Callable[[Address], Awaitable[Address]]) -> Address:
        """What the first seed that knows says. Raises the first one's error if none does."""
        failures: list[StoreUnavailable] = []
        for seed in list(self._seeds):
            try:
                async with asyncio.timeout(_LOCATE_LIMIT_S):
                    found = await ask(seed)
            except (RedisError, OSError, StoreUnavailable) as error:
                failures.append(_as_unavailable(error))
                continue
            self._seeds = list(dict.fromkeys((seed, *self._seeds)))
            return found
        raise next((each for each in failures if isinstance(each, StoreRefused)), failures[0])

    async def _ask_sentinel(self, seed: Address) -> Address:
        url = self._url
        connection = await self._open(
            seed, username=url.sentinel_username, password=url.sentinel_password
        )
        found = await _ask(connection, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", url.master)
        if not found:
            raise StoreUnavailable("the sentinels know no master with that name")
        host, port = found
        return host.decode(), int(port)

    async def _ask_node(self, seed: Address) -> Address:
        connection = await self._open(seed)
        ranges = await _ask(connection, "CLUSTER", "SLOTS")
        # All nodes may be asked from now on: those of REDIS_URL may be replaced one by one.
        nodes = {(_host(node, seed), int(node[1])) for each in ranges for node in each[2:]}
        self._seeds = list(dict.fromkeys((*sorted(nodes), *self._url.hosts)))
        for first, last, master, *_ in ranges:
            if first <= self._slot <= last:
                return _host(master, seed), int(master[1])
        raise StoreUnavailable("the cluster is down")


def _tls_context(ca_file: str | None, ca_directory: str | None) -> ssl.SSLContext:
    """The context of all connections; redis-py would read the authorities again for each one."""
    context = ssl.create_default_context()
    if ca_file or ca_directory:
        context.load_verify_locations(ca_file, ca_directory)
    return context


def _host(node: list[Any], seed: Address) -> str:
    """A node's host in the answer of `seed`, which may not know its own."""
    host: str = (node[0] or b"").decode()
    return seed[0] if host in ("", "?") else host


async def _opened(connection: AbstractConnection) -> AbstractConnection:
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    return connection


async def _ask(connection: AbstractConnection, *command: Any) -> Any:
    """The answer to one command; the connection is closed."""
    try:
        await connection.send_command(*command)
        return await connection.read_response()
    finally:
        await connection.disconnect(nowait=True)


def _as_unavailable(error: BaseException) -> StoreUnavailable:
    meaning = store_error(error)
    if isinstance(meaning, StoreUnavailable):
        return meaning
    return StoreRefused("the server is of another kind")
