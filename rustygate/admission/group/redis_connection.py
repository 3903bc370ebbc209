"""A lasting connection to the Redis of a group, one call at a time. It reconnects when needed.

A call that is cancelled or not answered in time may still run on the server, so its connection is
closed. Connecting may outlast a call; it then continues in the background, for a later call.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha1

from rustygate.admission.group.redis_connector import RedisConnector
from rustygate.admission.group.redis_errors import has_moved, should_reconnect, store_error
from rustygate.admission.group.redis_protocol import (
    ErrorReply,
    ProtocolError,
    Reply,
    packed,
)
from rustygate.admission.group.redis_session import RedisSession
from rustygate.admission.group.store import StoreRefused, no_answer
from rustygate.config.redis_url import RedisUrl

# A connection that does not close within this time is aborted.
_CLOSE_LIMIT_S = 0.1

_IN_CLUSTER = "the server belongs to a cluster: use REDIS_URL=redis+cluster://..."

_ERRORS = (ErrorReply, ProtocolError, OSError)


@dataclass(frozen=True)
class Script:
    """A Lua script, and the digest by which Redis identifies it."""

    text: bytes = field(repr=False)

    @cached_property
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
        self._session: RedisSession | None = None
        self._connecting: asyncio.Task[RedisSession] | None = None

    def __repr__(self) -> str:
        state = "connected" if self.connected else "not connected"
        return f"<{type(self).__name__} {self._url} {state}>"

    @property
    def connected(self) -> bool:
        return self._session is not None and self._session.is_connected

    async def evaluate(
        self,
        script: Script,
        keys: Sequence[str],
        arguments: Sequence[str | bytes | int],
        limit_s: float,
    ) -> Reply:
        """Run a script; returns its result. All keys must share a hash tag.

        Raises StoreError: StoreUnavailable if the limit is exceeded.
        """
        rest = (len(keys), *keys, *arguments)
        by_digest = packed(b"EVALSHA", script.digest, *rest)
        return await self._run(by_digest, lambda: packed(b"EVAL", script.text, *rest), limit_s)

    async def close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait((self._connecting,))
            if not self._connecting.cancelled() and self._connecting.exception() is None:
                self._session = self._connecting.result()
            self._connecting = None
        if self._session is not None:
            self._session.close()
            try:
                async with asyncio.timeout(_CLOSE_LIMIT_S):
                    await self._session.wait_closed()
            except TimeoutError:
                self._session.abort()

    async def _run(self, by_digest: bytes, by_text: Callable[[], bytes], limit_s: float) -> Reply:
        """Call the script by digest, or by its text if the server does not know it. Raises
        StoreError."""
        ends_at = asyncio.get_running_loop().time() + limit_s
        try:
            try:
                return await self._send(by_digest, ends_at)
            except ErrorReply as error:
                if not str(error).startswith("NOSCRIPT"):
                    raise
            return await self._send(by_text(), ends_at)
        except TimeoutError:
            raise no_answer(limit_s) from None
        except _ERRORS as error:
            raise store_error(error) from error

    async def _send(self, command: bytes, ends_at: float) -> Reply:
        """Send a command and return its reply. Reconnects once if the connection was closed since
        the last command, or the keys have moved."""
        is_new = not self.connected
        try:
            return await self._send_once(command, ends_at)
        except TimeoutError:
            raise
        except _ERRORS as error:
            if has_moved(error) and self._url.kind != "cluster":
                raise StoreRefused(_IN_CLUSTER) from error
            if should_reconnect(error):
                self._disconnect()
            if is_new or self.connected:
                raise
        return await self._send_once(command, ends_at)

    async def _send_once(self, command: bytes, ends_at: float) -> Reply:
        loop = asyncio.get_running_loop()
        session = self._session
        if session is None or not session.is_connected:
            session = await self._connect(ends_at - loop.time())
        return await session.send(command, ends_at - loop.time())

    async def _connect(self, limit_s: float) -> RedisSession:
        """Connect; if that exceeds the limit, the attempt continues for the next call.

        Raises StoreUnavailable and TimeoutError.
        """
        connecting = self._connecting
        if connecting is None:
            connecting = self._connecting = asyncio.create_task(self._connector.connect())
        done, _ = await asyncio.wait((connecting,), timeout=limit_s)
        if not done:
            raise TimeoutError
        if self._connecting is connecting:
            self._connecting = None
        self._session = connecting.result()
        return self._session

    def _disconnect(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()
