"""A group's scheduler in Redis: one script, one connection, one call at a time.

The caller limits the time of a call. One that is cancelled may still run: its connection is
dropped, and the sequence number of the next call tells whether it ran. Making a connection may
take longer than a call. It then goes on, and a later call uses it.
"""

import asyncio
from contextlib import suppress
from hashlib import sha1
from importlib.resources import files
from typing import Any

import msgspec
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AskError, NoScriptError, RedisError, ResponseError

from rustygate.admission.group.redis_connector import RedisConnector
from rustygate.admission.group.redis_errors import is_elsewhere, store_error
from rustygate.admission.group.store import (
    Call,
    Reply,
    StoreRefused,
    StoreUnavailable,
    SyncFailed,
)
from rustygate.config import Settings
from rustygate.config.redis_url import RedisUrl, parse_redis_url

# A gate starts without its group rather than late.
OPEN_LIMIT_S = 0.5

# A connection that does not close within this time is left to the garbage collector.
_CLOSE_LIMIT_S = 0.1

_IN_CLUSTER = "the server belongs to a cluster: REDIS_URL=redis+cluster://..."

# The version of the keys' layout and the script's protocol. Other versions form other groups.
VERSION = 1

# What each key of the script holds is documented at its head.
KEYS = ("head", "members", "flows")
KEYS_EXPIRE_AFTER_S = 600
MEMBER_FIELD = b"m"

# In `sync/`: each part may use what those before it define.
SCRIPT_PARTS = (
    "budgets",
    "orders",
    "records",
    "scopes",
    "scheduler",
    "members",
    "news",
    "calls",
    "replies",
    "main",
)


def group_keys(group: str) -> tuple[str, ...]:
    """The keys of a group, with one hash tag, so that a cluster keeps them together."""
    return tuple(f"rustygate:{{{group}}}:{VERSION}:{name}" for name in KEYS)


def load_script() -> bytes:
    """The script. Redis takes it as one text, so its parts are joined in their order."""
    folder = files(__package__) / "sync"
    return b"".join((folder / f"{part}.lua").read_bytes() for part in SCRIPT_PARTS)


class RedisStore:
    """The `Store` of a group in Redis.

    Args:
        script: it is given the keys, the call as JSON and an empty argument, and returns JSON.
    """

    def __init__(
        self,
        url: RedisUrl,
        group: str,
        script: bytes,
        ca_file: str | None = None,
        ca_directory: str | None = None,
    ) -> None:
        keys = group_keys(group)
        self._url, self._group = url, group
        self._connector = RedisConnector(url, keys[0], ca_file, ca_directory)
        arguments = (str(len(keys)).encode(), *(key.encode() for key in keys))
        self._by_digest = _packed(b"EVALSHA", sha1(script).hexdigest().encode(), *arguments)
        self._by_script = _packed(b"EVAL", script, *arguments)
        self._connection: AbstractConnection | None = None
        self._connecting: asyncio.Task[AbstractConnection] | None = None

    @classmethod
    def of(cls, settings: Settings) -> "RedisStore":
        assert settings.redis_url is not None
        return cls(
            parse_redis_url(settings.redis_url),
            settings.gate_group,
            load_script(),
            settings.ssl_cert_file,
            settings.ssl_cert_dir,
        )

    def __repr__(self) -> str:
        state = "connected" if self.connected else "not connected"
        return f"<RedisStore {self._url} group={self._group} {state}>"

    @property
    def connected(self) -> bool:
        return self._connection is not None and self._connection.is_connected

    async def open(self) -> None:
        """Connect before the first call, which is short of time, unless that takes too long."""
        with suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(OPEN_LIMIT_S):
                await self._connected()

    async def sync(self, call: Call) -> Reply:
        return await self._reply(msgspec.json.encode(call))

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

    async def _reply(self, request: bytes) -> Reply:
        """The script's answer. If the connection was closed since the last call, or the keys have
        moved, it comes over a new one."""
        is_new = not self.connected
        try:
            return await self._evaluate(await self._connected(), request)
        except (RedisError, OSError) as error:
            if isinstance(error, AskError) and self._url.kind != "cluster":
                raise StoreRefused(_IN_CLUSTER) from error
            if is_elsewhere(error):
                await self._disconnect()
            if is_new or self.connected:
                raise store_error(error) from error
        try:
            return await self._evaluate(await self._connected(), request)
        except (RedisError, OSError) as error:
            raise store_error(error) from error

    async def _evaluate(self, connection: AbstractConnection, request: bytes) -> Reply:
        try:
            answer = await _answer(connection, self._by_digest, request)
        except NoScriptError:
            answer = await _answer(connection, self._by_script, request)
        return _decoded(answer)

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


async def _answer(connection: AbstractConnection, command: bytes, request: bytes) -> bytes:
    packed = b"%b$%d\r\n%b\r\n$0\r\n\r\n" % (command, len(request), request)
    await connection.send_packed_command(packed, check_health=False)
    answer = await connection.read_response(disable_decoding=True)
    if not isinstance(answer, bytes):
        raise SyncFailed("its reply is not a string")
    return answer


def _decoded(answer: bytes) -> Reply:
    try:
        reply = msgspec.json.decode(answer, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise SyncFailed("its reply is not a JSON object") from error
    if "error" in reply:
        # The script's own, or what the server answered to one of its commands.
        raise ResponseError(str(reply["error"]))
    return reply


def _packed(*arguments: bytes) -> bytes:
    """The beginning of a command in Redis's protocol, to which two arguments are added."""
    parts = (b"$%d\r\n%b\r\n" % (len(each), each) for each in arguments)
    return b"*%d\r\n%b" % (len(arguments) + 2, b"".join(parts))
