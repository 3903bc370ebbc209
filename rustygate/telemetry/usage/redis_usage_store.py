"""The usage record of a group, in its Redis: a hash for each UTC day.

A batch is added by one script, on the group's hash tag, so it works in a cluster. It has a number:
if a reply is lost, the batch is given again and counts once. Days expire by themselves.
"""

import asyncio
from collections.abc import Awaitable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from secrets import token_hex

import msgspec

from rustygate.admission.group.redis_connection import RedisConnection, Script
from rustygate.admission.group.redis_protocol import Reply
from rustygate.admission.group.store import StoreError, no_answer
from rustygate.config import Settings
from rustygate.config.redis_url import RedisUrl, parse_redis_url
from rustygate.core.usage_rows import TOTALS, Grouped, UsageKey, UsageQuery, UsageTotals
from rustygate.telemetry.usage.selection import select
from rustygate.telemetry.usage.store import KEPT_DAYS, Batch, UsageStoreError

# The version of the keys' layout.
VERSION = 1

_DAY_S = 86_400

# A day more than is shown, since clocks differ.
DAY_EXPIRES_AFTER_S = (KEPT_DAYS + 1) * _DAY_S

# Longer than anybody waits for Redis to come back.
NUMBER_EXPIRES_AFTER_S = 30 * _DAY_S

# Nobody waits for a batch. Reports are read in parts, so that Redis is not busy for long; the
# limit applies to the whole report.
ADD_LIMIT_S = 1.0
READ_LIMIT_S = 5.0
_DAYS_PER_READ = 31

_ADD = Script(Path(__file__).with_name("add_usage.lua").read_bytes())
_READ = Script(
    b"local days = {} "
    b"for place, key in ipairs(KEYS) do days[place] = redis.call('HGETALL', key) end "
    b"return days"
)


class RedisUsageStore:
    """The `UsageStore` of a group in Redis."""

    def __init__(
        self,
        url: RedisUrl,
        group: str,
        ca_file: str | None = None,
        ca_directory: str | None = None,
    ) -> None:
        self._prefix = f"rustygate:{{{group}}}:usage:{VERSION}:"
        self._redis = RedisConnection(url, self._prefix, ca_file, ca_directory)
        self._member = token_hex(8)
        self._number = 1

    @classmethod
    def of(cls, settings: Settings) -> "RedisUsageStore":
        assert settings.redis_url is not None
        url = parse_redis_url(settings.redis_url)
        return cls(url, settings.gate_group, settings.ssl_cert_file, settings.ssl_cert_dir)

    def __repr__(self) -> str:
        return f"<RedisUsageStore batch {self._number}, {self._redis}>"

    async def add(self, batch: Batch) -> None:
        days = sorted({key.day for key in batch})
        arguments = (
            self._number,
            NUMBER_EXPIRES_AFTER_S,
            DAY_EXPIRES_AFTER_S,
            msgspec.json.encode([_packed(batch, day) for day in days]),
        )
        keys = (f"{self._prefix}member:{self._member}", *map(self._key, days))
        await _answer(self._redis.evaluate(_ADD, keys, arguments, ADD_LIMIT_S))
        self._number += 1

    async def rows_by(self, query: UsageQuery) -> Grouped:
        days = list(_days(query))
        usage: dict[UsageKey, UsageTotals] = {}
        try:
            async with asyncio.timeout(READ_LIMIT_S):
                for first in range(0, len(days), _DAYS_PER_READ):
                    usage.update(await self._read(days[first : first + _DAYS_PER_READ]))
        except TimeoutError:
            raise UsageStoreError(f"Redis: {no_answer(READ_LIMIT_S)}") from None
        return select(query, usage)

    async def _read(self, days: Sequence[str]) -> dict[UsageKey, UsageTotals]:
        keys = list(map(self._key, days))
        found = await _answer(self._redis.evaluate(_READ, keys, (), READ_LIMIT_S))
        usage: dict[UsageKey, UsageTotals] = {}
        for day, rows in zip(days, found, strict=True):
            try:
                usage.update(_unpacked(day, rows))
            except ValueError:
                raise UsageStoreError(f"the key {self._key(day)} is damaged: delete it") from None
        return usage

    async def close(self) -> None:
        await self._redis.close()

    def _key(self, day: str) -> str:
        return self._prefix + day


async def _answer(call: Awaitable[Reply]) -> Reply:
    """The reply to a call. Raises UsageStoreError."""
    try:
        return await call
    except StoreError as error:
        raise UsageStoreError(f"Redis: {error}") from error


def _packed(batch: Batch, day: str) -> list[tuple[str, tuple[int, ...]]]:
    return [
        (msgspec.json.encode((key.client, key.model)).decode(), totals.values())
        for key, totals in batch.items()
        if key.day == day
    ]


def _unpacked(day: str, rows: Sequence[bytes]) -> Iterator[tuple[UsageKey, UsageTotals]]:
    """The totals of a day; amounts that only a newer version knows are left out."""
    for names, amounts in zip(rows[::2], rows[1::2], strict=True):
        client, model = msgspec.json.decode(names, type=tuple[str, str])
        known = amounts.split()[: len(TOTALS)]
        yield UsageKey(day, client, model), UsageTotals(*map(int, known))


def _days(query: UsageQuery) -> Iterator[str]:
    """The days of a report that can have been kept; a clock may be a day ahead."""
    today = datetime.now(UTC).date()
    day = max(date.fromisoformat(query.since), today - timedelta(days=KEPT_DAYS))
    last = min(date.fromisoformat(query.until), today + timedelta(days=1))
    while day <= last:
        yield day.isoformat()
        day += timedelta(days=1)
