"""A group's scheduler in Redis: one script, on a connection of its own.

A call that is cancelled may still run: the sequence number of the next one tells whether it did.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from rustygate.admission.group.redis_connection import RedisConnection, Script
from rustygate.admission.group.redis_errors import one_line, store_error
from rustygate.admission.group.redis_protocol import ErrorReply, packed, packed_argument
from rustygate.admission.group.store import (
    Call,
    Reply,
    StoreError,
    StoreUnavailable,
    SyncFailed,
)
from rustygate.config import Settings
from rustygate.config.redis_url import RedisUrl, parse_redis_url

# A gate starts without its group rather than late.
OPEN_LIMIT_S = 0.5

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
    folder = Path(__file__).with_name("sync")
    return b"".join((folder / f"{part}.lua").read_bytes() for part in SCRIPT_PARTS)


# Made once: `msgspec.json.decode` would prepare a decoder for the type at each call.
_DECODER = msgspec.json.Decoder(dict[str, Any])

_EMPTY = packed_argument(b"")


class RedisStore(RedisConnection):
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
        super().__init__(url, keys[0], ca_file, ca_directory)
        self._group = group
        # The beginnings of the commands; two arguments follow.
        loaded = Script(script)
        self._by_digest = packed(b"EVALSHA", loaded.digest, len(keys), *keys, more=2)
        self._by_text = packed(b"EVAL", loaded.text, len(keys), *keys, more=2)

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

    async def open(self) -> None:
        """Connect before the first call, which is short of time, unless that takes too long."""
        with suppress(StoreUnavailable, TimeoutError):
            await self._connect(OPEN_LIMIT_S)

    async def sync(self, call: Call, limit_s: float) -> Reply:
        rest = packed_argument(msgspec.json.encode(call)) + _EMPTY
        answer = await self._run(self._by_digest + rest, lambda: self._by_text + rest, limit_s)
        if not isinstance(answer, bytes):
            raise SyncFailed("its reply is not a string")
        return _decoded(answer)


def _decoded(answer: bytes) -> Reply:
    try:
        reply = _DECODER.decode(answer)
    except msgspec.MsgspecError as error:
        raise SyncFailed("its reply is not a JSON object") from error
    if "error" in reply:
        raise _script_error(str(reply["error"]), str(reply.get("detail", "")))
    return reply


def _script_error(reason: str, detail: str) -> StoreError:
    """The server's error for one of the script's commands, or a defect of the script."""
    error = store_error(ErrorReply(detail or reason))
    if isinstance(error, SyncFailed):
        return SyncFailed(one_line(reason), one_line(detail))
    return error
