"""What is behind REDIS_URL, and whether it lets this gate do what a group needs."""

import time
from dataclasses import dataclass
from statistics import median
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from rustygate.admission.group.redis_connector import RedisConnector
from rustygate.admission.group.redis_errors import store_error
from rustygate.admission.group.redis_store import group_keys
from rustygate.admission.group.store import StoreRefused
from rustygate.config import Settings
from rustygate.config.redis_url import parse_redis_url

# Whether the user may run scripts that read the time, read and write; a key that ends at once.
_SCRIPT = "redis.call('TIME') redis.call('SET', KEYS[1], ARGV[1], 'PX', 1) return 'OK'"

# The oldest Redis that the tests know. Valkey began later.
_OLDEST = (6, 2)

_CALLS = 5

_IS_SENTINEL = "the server is a sentinel: REDIS_URL=redis+sentinel://host:26379/name-of-the-master"


@dataclass(frozen=True, slots=True)
class RedisServer:
    """The server that has a group's keys.

    Args:
        product: `Redis` or `Valkey`.
        latency_s: the median time of a call, from here.
    """

    product: str
    version: str
    mode: str
    latency_s: float

    def __str__(self) -> str:
        return f"{self.product} {self.version}, {self.mode}"

    @property
    def is_too_old(self) -> bool:
        numbers = tuple(int(each) for each in self.version.split(".")[:2] if each.isdigit())
        return numbers < _OLDEST


async def probe(settings: Settings) -> RedisServer:
    """Connect and make a few calls. Raises StoreError."""
    assert settings.redis_url is not None
    key = group_keys(settings.gate_group)[0]
    connector = RedisConnector(
        parse_redis_url(settings.redis_url), key, settings.ssl_cert_file, settings.ssl_cert_dir
    )
    connection = await connector.connect()
    try:
        return await _ask(connection, f"{key.rpartition(':')[0]}:probe")
    except (RedisError, OSError) as error:
        raise store_error(error) from error
    finally:
        await connection.disconnect(nowait=True)


async def _ask(connection: AbstractConnection, key: str) -> RedisServer:
    facts = await _answer(connection, "HELLO")
    hello = {facts[place].decode(): facts[place + 1] for place in range(0, len(facts) - 1, 2)}
    mode = hello["mode"].decode()
    if mode == "sentinel":
        raise StoreRefused(_IS_SENTINEL)
    times = []
    for _ in range(_CALLS):
        began = time.perf_counter()
        await _answer(connection, "EVAL", _SCRIPT, 1, key, "")
        times.append(time.perf_counter() - began)
    product = hello["server"].decode().capitalize()
    return RedisServer(product, hello["version"].decode(), mode, median(times))


async def _answer(connection: AbstractConnection, *command: Any) -> Any:
    await connection.send_command(*command)
    return await connection.read_response()
