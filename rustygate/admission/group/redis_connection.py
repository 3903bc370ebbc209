"""A lasting connection to the Redis of a group, one call at a time. It reconnects when needed.

The caller limits the time of a call. A cancelled call may still run on the server, so its
connection is dropped. Connecting may take longer than a call: it then continues, and a later call
uses the connection.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha1
from typing import Any, TypeVar

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AskError, NoScriptError, RedisError

from rustygate.admission.group.redis_connector import RedisConnector
from rustygate.admission.group.redis_errors import is_elsewhere, store_error
from rustygate.admission.group.store import StoreRefused
from rustygate.config.redis_url import RedisUrl

# A connection that does not close within this time is left to the garbage collector.
_CLOSE_LIMIT_S = 0.1

_IN_CLUSTER = "the server belongs to a cluster: use REDIS_URL=redis+cluster://..."

T = TypeVar("T")


@dataclass(frozen=True)
class Script:
    """A Lua script, and the digest by which Redis identifies it."""

    text: bytes = field(repr=False)

    @property
    def digest(self) -> bytes:
        return sha1(self.text).hexdigest().encode()


class RedisConnection:
    """A connection to the server that has a key.

    Args:
        ca_file, ca_directory: certificate authorities besides the system's.
    """

    def __init__(
        self, url: RedisUrl, key: str, ca_file: str | None, ca_directory: str | None
    ) -> None:
        self._url = url
        self._connector = RedisConnector(url, key, ca_file, ca_directory)
        self._connection: AbstractConnection | None = None
        self._connecting: asyncio.Task[AbstractConnection] | None = None

    def __repr__(self) -> str:
        state = "connected" if self.connected else "not connected"
        return f"<{type(self).__name__} {self._url} {state}>"

    @property
    def connected(self) -> bool:
        return self._connection is not None and self._connection.is_connected

    async def evaluate(
        self, script: Script, keys: Sequence[str], arguments: Sequence[str | bytes | int] = ()
    ) -> Any:
        """Run a script; returns its result. All keys must share a hash tag. Raises StoreError."""
        return await self._run(
            lambda connection: _evaluate(connection, script, (len(keys), *keys, *arguments))
        )

    async def close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait((self._connecting,))
            if not self._connecting.cancelled() and self._connecting.exception() is None:
                self._connection = self._connecting.result()
            self._connecting = None
        if self._connection is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_LIMIT_S):
                    await self._connection.disconnect()

    async def _run(self, call: Callable[[AbstractConnection], Awaitable[T]]) -> T:
        """The answer to a call. If the connection was closed since the last one, or the keys have
        moved, it comes over a new one. Raises StoreError."""
        is_new = not self.connected
        try:
            return await call(await self._connected())
        except (RedisError, OSError) as error:
            if isinstance(error, AskError) and self._url.kind != "cluster":
                raise StoreRefused(_IN_CLUSTER) from error
            if is_elsewhere(error):
                await self._disconnect()
            if is_new or self.connected:
                raise store_error(error) from error
        try:
            return await call(await self._connected())
        except (RedisError, OSError) as error:
            raise store_error(error) from error

    async def _connected(self) -> AbstractConnection:
        """The connection; if it takes longer than the call may, it is made for the next one."""
        if self._connection is None or not self._connection.is_connected:
            if self._connecting is None:
                self._connecting = asyncio.create_task(self._connector.connect())
            await asyncio.wait((self._connecting,))
            made, self._connecting = self._connecting, None
            self._connection = made.result()
        return self._connection

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)


async def _evaluate(
    connection: AbstractConnection, script: Script, arguments: Sequence[str | bytes | int]
) -> Any:
    try:
        return await _answer(connection, b"EVALSHA", script.digest, *arguments)
    except NoScriptError:
        return await _answer(connection, b"EVAL", script.text, *arguments)


async def _answer(connection: AbstractConnection, *command: str | bytes | int) -> Any:
    await connection.send_command(*command, check_health=False)
    return await connection.read_response(disable_decoding=True)
