"""Clients' budgets in a group: one for all its members, in the group's Redis.

A reservation asks Redis, since only there it is known what the other members have reserved: one
round trip for each exchange of a client with budgets, and none for others. What was spent is told
with the next call, or soon. Without Redis a member goes on alone: it may use an equal share of
what it knows to be left, and tells later what it has spent.

The script `spend.lua` has the state. A call may be repeated after a lost reply: what was settled
carries a number and counts once, and what is reserved is told as a whole.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.resources import files
from secrets import token_hex
from time import time_ns
from typing import Any

import msgspec

from rustygate.admission.client_budgets import Spending
from rustygate.admission.group.redis_connection import RedisConnection, Script
from rustygate.admission.group.store import StoreError
from rustygate.config import Settings
from rustygate.config.redis_url import parse_redis_url
from rustygate.core.client_budgets import NOTHING, Account, Cost, Exceeded
from rustygate.core.periods import day_of, month_of
from rustygate.core.price_list import PriceList

# The version of the keys' layout.
VERSION = 1

# A request rather goes on alone than waits longer.
CALL_LIMIT_S = 0.1

# What was spent is told after this time at the latest, and so is what is still reserved.
TELL_AFTER_S = 0.25
RENEW_AFTER_S = 5.0

# What a member has reserved that is silent for longer is free again.
LEASE_S = 20

# Longer than a month.
KEPT_S = 40 * 86_400

_SPEND = Script((files(__package__) / "spend.lua").read_bytes())

Pair = tuple[int, int]


class _Reply(msgspec.Struct):
    """Costs are texts: tokens and nanodollars."""

    fits: bool
    spent: dict[str, str]
    others: str


@dataclass(slots=True)
class _Ledger:
    """What a member has yet to tell of one client.

    Args:
        told: what the group knows to be spent, by period.
        pending: what was spent since then, `sent` the part of it that is in a call.
        number: of `sent`.
    """

    told: dict[str, Cost] = field(default_factory=dict)
    pending: dict[str, Cost] = field(default_factory=dict)
    sent: dict[str, Cost] = field(default_factory=dict)
    number: int = 0

    def unsent(self, period: str) -> Cost:
        """What the group does not know to be spent in a period."""
        return self.pending.get(period, NOTHING) + self.sent.get(period, NOTHING)


class GroupSpending(Spending):
    """The budgets of all clients, shared with the other members of a group.

    Args:
        members: how many gates the group has, this one included; 0 while that is not known.
    """

    def __init__(
        self,
        prices: PriceList,
        redis: RedisConnection,
        prefix: str,
        members: Callable[[], int],
        clock: Callable[[], int] = time_ns,
    ) -> None:
        super().__init__(prices, clock)
        self._redis = redis
        self._prefix = prefix
        self._members = members
        self._known_members = 1
        self._name = token_hex(8)
        self._ledgers: dict[str, _Ledger] = {}
        # The last call failed. Those that tell find out when Redis is back.
        self._is_away = False
        self._loop = asyncio.get_running_loop()
        # One call at a time, in the order in which exchanges came.
        self._lock = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._telling: asyncio.Task[None] | None = None

    @classmethod
    def of(
        cls, settings: Settings, prices: PriceList, members: Callable[[], int]
    ) -> "GroupSpending":
        assert settings.redis_url is not None
        prefix = f"rustygate:{{{settings.gate_group}}}:spending:{VERSION}:"
        url = parse_redis_url(settings.redis_url)
        redis = RedisConnection(url, prefix, settings.ssl_cert_file, settings.ssl_cert_dir)
        return cls(prices, redis, prefix, members)

    def __repr__(self) -> str:
        return f"<GroupSpending {self.budgets}, {self._redis}>"

    @property
    def reads_usage(self) -> bool:
        """A gate without budgets need not wait for Redis when it starts."""
        return any(self.budgets.accounts())

    # What exchanges do.

    async def _take(self, account: Account, cost: Cost) -> Exceeded | None:
        asking = self._loop.create_task(self._ask(account, cost))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            # The client has left, and the call goes on.
            asking.add_done_callback(lambda task: self._undo(account, cost, task))
            raise

    def _undo(self, account: Account, cost: Cost, task: "asyncio.Task[Exceeded | None]") -> None:
        if not task.cancelled() and task.exception() is None and task.result() is None:
            account.reserved -= cost
            self._tell_soon()

    def _count(self, account: Account, now: int, tokens: int, nano_usd: int) -> None:
        self._charge(account, now, NOTHING, Cost(tokens, nano_usd))

    def _charge(self, account: Account, now: int, reserved: Cost, cost: Cost) -> None:
        super()._charge(account, now, reserved, cost)
        pending = self._ledger(account).pending
        for period in (day_of(now), month_of(now)):
            pending[period] = pending.get(period, NOTHING) + cost
        self._tell_soon()

    # Calls.

    async def _ask(self, account: Account, cost: Cost) -> Exceeded | None:
        """Reserve a cost in the group, or alone."""
        async with self._lock:
            now = self._clock()
            reply = None if self._is_away else await self._call(account, now, cost)
            if reply is None:
                return self._take_alone(account, now, cost)
            if reply.fits:
                account.reserved += cost
                return None
            return account.exceeded(now, cost)

    def _take_alone(self, account: Account, now: int, cost: Cost) -> Exceeded | None:
        """Reserve a cost, provided that every other member may spend as much as this one has
        spent and reserved since the last call."""
        ledger = self._ledger(account)
        own = account.reserved + cost + ledger.unsent(month_of(now))
        account.others = own * (self._known_members - 1)
        return account.reserve(now, cost)

    async def _call(self, account: Account, now: int, cost: Cost | None = None) -> _Reply | None:
        """Tell the group what was spent and reserved, and ask for a cost; None without Redis."""
        ledger = self._ledger(account)
        if not ledger.sent and ledger.pending:
            ledger.sent, ledger.pending = ledger.pending, {}
            ledger.number += 1
        call = self._as_json(account, ledger, now, cost)
        try:
            async with asyncio.timeout(CALL_LIMIT_S):
                answer = await self._redis.evaluate(
                    _SPEND, (self._prefix + account.client,), (self._name, call)
                )
            reply = msgspec.json.decode(answer, type=_Reply)
            told = {period: _cost(spent) for period, spent in reply.spent.items()}
            others = _cost(reply.others)
        except (TimeoutError, StoreError, ValueError):
            self._is_away = True
            self._tell_soon()
            return None
        self._is_away = False
        self._known_members = self._members() or self._known_members
        ledger.sent, ledger.told, account.others = {}, told, others
        for period, spent in told.items():
            account.set_spent(period, spent + ledger.unsent(period))
        return reply

    def _as_json(self, account: Account, ledger: _Ledger, now: int, cost: Cost | None) -> bytes:
        periods = dict.fromkeys((day_of(now), month_of(now), *ledger.sent))
        call: dict[str, Any] = {
            "spent": {name: _pair(self._told(account, ledger, name)) for name in periods},
            "settled": {name: _pair(spent) for name, spent in ledger.sent.items()},
            "number": ledger.number if ledger.sent else 0,
            "reserved": _pair(account.reserved),
            "cost": False if cost is None else _pair(cost),
            "budgets": [
                (budget.period(now), 2 if budget.in_dollars else 1, budget.limit)
                for budget in account.budgets
            ],
            "lease": LEASE_S,
            "kept": KEPT_S,
        }
        return msgspec.json.encode(call)

    def _told(self, account: Account, ledger: _Ledger, period: str) -> Cost:
        """What the group knows to be spent; at first, what was read from the usage record."""
        if period not in ledger.told:
            ledger.told[period] = account.spent_in(period) - ledger.unsent(period)
        return ledger.told[period]

    def _ledger(self, account: Account) -> _Ledger:
        return self._ledgers.setdefault(account.client, _Ledger())

    # Telling what was spent.

    def _tell_soon(self, delay_s: float = TELL_AFTER_S) -> None:
        if self._timer is None and self._telling is None:
            self._timer = self._loop.call_later(delay_s, self._start_telling)

    def _start_telling(self) -> None:
        self._timer = None
        self._telling = self._loop.create_task(self._tell())
        self._telling.add_done_callback(self._on_told)

    def _on_told(self, task: asyncio.Task[None]) -> None:
        self._telling = None
        ledgers = self._ledgers.values()
        if self._is_away or any(ledger.pending or ledger.sent for ledger in ledgers):
            self._tell_soon()
        elif any(account.reserved != NOTHING for account in self._open_accounts()):
            self._tell_soon(RENEW_AFTER_S)

    async def _tell(self) -> None:
        """Tell what was spent, and what is reserved."""
        for account in self._open_accounts():
            async with self._lock:
                if await self._call(account, self._clock()) is None:
                    return

    def _open_accounts(self) -> list[Account]:
        """The accounts of which something was told or is to be told."""
        return [self.budgets.open_account(client) for client in self._ledgers]

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._telling is not None:
            await asyncio.wait((self._telling,))
        await self._tell()
        if self._timer is not None:
            self._timer.cancel()
        await self._redis.close()


def _pair(cost: Cost) -> Pair:
    return cost.tokens, cost.nano_usd


def _cost(text: str) -> Cost:
    """A cost as the script writes it. Raises ValueError for anything else."""
    tokens, nano = text.split()
    return Cost(int(tokens), int(nano))
