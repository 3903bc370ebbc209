"""Which server REDIS_URL leads to, and whether it lets this gate do what a group needs."""

import time
from dataclasses import dataclass
from statistics import median

from rustygate.admission.group.redis_connector import RedisConnector
from rustygate.admission.group.redis_errors import store_error
from rustygate.admission.group.redis_protocol import ErrorReply, ProtocolError
from rustygate.admission.group.redis_session import RedisSession
from rustygate.admission.group.redis_store import (
    KEYS_EXPIRE_AFTER_S,
    MEMBER_FIELD,
    group_keys,
)
from rustygate.admission.group.store import StoreRefused
from rustygate.config import Settings
from rustygate.config.redis_url import parse_redis_url

# Whether the user may run scripts that read the time and write; it leaves nothing behind.
_SCRIPT = "redis.call('TIME') redis.call('SET', KEYS[1], '') return redis.call('DEL', KEYS[1])"

# The oldest Redis that is tested. Valkey began later.
_OLDEST = (6, 2)

_CALLS = 5

# Members call at least every half second.
_SILENCE_MS = 1500

_IS_SENTINEL = "the server is a sentinel: REDIS_URL=redis+sentinel://host:26379/name-of-the-master"


@dataclass(frozen=True, slots=True)
class RedisServer:
    """The server that has a group's keys.

    Args:
        product: `Redis` or `Valkey`.
        latency_s: the median time of a call, from here.
        members: how many gates the group has.
    """

    product: str
    version: str
    mode: str
    latency_s: float
    members: int

    def __str__(self) -> str:
        return f"{self.product} {self.version}, {self.mode}"

    @property
    def is_too_old(self) -> bool:
        numbers = tuple(int(each) for each in self.version.split(".")[:2] if each.isdigit())
        return numbers < _OLDEST


async def probe(settings: Settings) -> RedisServer:
    """Connect and make a few calls. Raises StoreError."""
    assert settings.redis_url is not None
    keys = group_keys(settings.gate_group)
    url = parse_redis_url(settings.redis_url)
    connector = RedisConnector(url, keys[0], settings.ssl_cert_file, settings.ssl_cert_dir)
    session = await connector.connect()
    try:
        return await _ask(session, keys)
    except (ErrorReply, ProtocolError, OSError) as error:
        raise store_error(error) from error
    finally:
        session.close()


async def _ask(session: RedisSession, keys: tuple[str, ...]) -> RedisServer:
    facts = await session.ask("HELLO")
    hello = {facts[place].decode(): facts[place + 1] for place in range(0, len(facts) - 1, 2)}
    mode = hello["mode"].decode()
    if mode == "sentinel":
        raise StoreRefused(_IS_SENTINEL)
    return RedisServer(
        product=hello["server"].decode().capitalize(),
        version=hello["version"].decode(),
        mode=mode,
        latency_s=await _latency(session, f"{keys[0].rpartition(':')[0]}:probe"),
        members=await _members(session, *keys[:2]),
    )


async def _latency(session: RedisSession, key: str) -> float:
    times = []
    for _ in range(_CALLS):
        began = time.perf_counter()
        await session.ask("EVAL", _SCRIPT, 1, key)
        times.append(time.perf_counter() - began)
    return median(times)


async def _members(session: RedisSession, head: str, members: str) -> int:
    """How many members the script counted last, if one has called lately: it forgets the silent
    ones as the others call."""
    left_ms = await session.ask("PTTL", head)
    if left_ms < KEYS_EXPIRE_AFTER_S * 1000 - _SILENCE_MS:
        return 0
    fields = await session.ask("HKEYS", members)
    return sum(field.startswith(MEMBER_FIELD) for field in fields)
