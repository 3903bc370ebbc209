"""Clients' budgets in a group: one for all its members, in the group's Redis.

A reservation is made in Redis, because only Redis knows what the other members have reserved. One
call runs at a time and asks for all exchanges that arrived during the previous one, so an exchange
waits for its own round trip and at most the rest of another. Exchanges of clients without budgets
wait for none. Spending is reported with the next call, or soon. Without Redis a member continues
alone: it may use an equal share of what it knows to be left, and reports its spending later.

The script `spend.lua` has the state. A call may be repeated after a lost reply: settled costs
carry a number and count once, and each report has everything that is reserved.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from secrets import token_hex
from time import time_ns
from typing import Any
from urllib.parse import quote

import msgspec
from loguru import logger

from rustygate.admission.client_budgets import Spending
from rustygate.admission.group.call_limit import call_limit_s
from rustygate.admission.group.redis_connection import RedisConnection, Script
from rustygate.admission.group.store import StoreError, StoreRefused, StoreUnavailable
from rustygate.config import Settings
from rustygate.config.redis_url import parse_redis_url
from rustygate.core.bucket import SECOND
from rustygate.core.client_budgets import NOTHING, Account, Cost, Exceeded
from rustygate.core.clients import SpendingLimits
from rustygate.core.periods import DAY, day_of, month_of
from rustygate.core.price_list import PriceList
from rustygate.system.background import repeat, start_task

# The version of the keys' layout.
VERSION = 1

# What a client has spent is reported after the first of these times at the latest, or after the
# second if the client has no budgets, because it matters only when it gets some. Budgets are asked
# for again after the third: reservations are reported, and what other members have spent is known
# if Redis goes away.
TELL_AFTER_S = 0.25
TELL_LATER_AFTER_S = 5.0
RENEW_AFTER_S = 5.0

# If a member is silent for longer, its reservations are released. After a day, nobody waits for
# the reply to a call any more, so its number is forgotten.
LEASE_S = 20
FORGET_S = 86_400

# Longer than a month.
KEPT_S = 40 * 86_400

# Redis serves nobody else during a call, so it is kept short.
MAX_CLIENTS = 200
MAX_QUESTIONS = 500

_SPEND = Script(Path(__file__).with_name("spend.lua").read_bytes())

Pair = tuple[int, int]


class _Reply(msgspec.Struct):
    """Costs are texts: tokens and nanodollars."""

    fits: str
    spent: dict[str, str]
    others: str


_DECODER = msgspec.json.Decoder(list[_Reply])


@dataclass(slots=True)
class _Question:
    """A cost that an exchange would reserve."""

    account: Account
    cost: Cost
    answer: asyncio.Future[Exceeded | None]


@dataclass(slots=True)
class _Ledger:
    """What a member has reported about one client, and has yet to report.

    Args:
        told: what the group knows to be spent, by period.
        pending: what was spent since then, `sent` the part of it that is in a call.
        number: of `sent`.
        reserved: what the group believes to be reserved here; None if that is not known.
        called_at: when the group last got a report; -inf before the first one.
    """

    account: Account
    told: dict[str, Cost] = field(default_factory=dict)
    pending: dict[str, Cost] = field(default_factory=dict)
    sent: dict[str, Cost] = field(default_factory=dict)
    number: int = 0
    reserved: Cost | None = NOTHING
    called_at: float = -inf

    def unsent(self, period: str) -> Cost:
        """What the group does not know to be spent in a period."""
        return self.pending.get(period, NOTHING) + self.sent.get(period, NOTHING)

    def is_due(self, now: float) -> bool:
        """Whether there is something to report."""
        if self.pending or self.sent or self.reserved != self.account.reserved:
            return True
        return self.is_renewed and now - self.called_at >= RENEW_AFTER_S

    @property
    def is_renewed(self) -> bool:
        """Whether calls are made even without news: to keep its reservations, and to learn what
        others have spent."""
        return bool(self.account.budgets) or self.account.reserved != NOTHING

    def report(self, now: int, costs: Iterable[Cost], *, leaves: bool) -> dict[str, Any]:
        """Its part of a call."""
        if not self.sent and self.pending:
            self.sent, self.pending = self.pending, {}
            self.number += 1
        periods = dict.fromkeys((day_of(now), month_of(now), *self.sent))
        return {
            "spent": {period: _pair(self._told(period)) for period in periods},
            "settled": {period: _pair(spent) for period, spent in self.sent.items()},
            "number": self.number if self.sent else 0,
            "reserved": _pair(self.account.reserved),
            "costs": [_pair(cost) for cost in costs],
            "budgets": [
                (budget.period(now), 2 if budget.in_dollars else 1, budget.limit)
                for budget in self.account.budgets
            ],
            "leaves": leaves,
        }

    def _told(self, period: str) -> Cost:
        """What the group knows to be spent; at first, what was read from the usage record."""
        if period not in self.told:
            before = self.account.spent_in(period) - self.unsent(period)
            # An account forgets old days, even if they were not reported.
            self.told[period] = Cost(max(0, before.tokens), max(0, before.nano_usd))
        return self.told[period]

    def read(self, told: dict[str, Cost], others: Cost) -> None:
        """Adopt what the group knows now."""
        account = self.account
        self.sent, self.told = {}, told
        account.others, account.assumed = others, {}
        for period, spent in told.items():
            account.set_spent(period, spent + self.unsent(period))


@dataclass(slots=True)
class _Counted:
    """What a client without budgets has spent on one UTC day and is not in its account yet."""

    account: Account
    day_begins: int
    tokens: int = 0
    nano_usd: int = 0


class GroupSpending(Spending):
    """The budgets of all clients, shared with the other members of a group.

    Args:
        members: how many gates the group has, this one included; 0 while that is not known.
    """

    without_usage = "budgets count from 0 until Redis answers"
    # Redis knows what was spent.
    reads_usage_later = False

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
        self._counted: dict[str, _Counted] = {}
        self._questions: list[_Question] = []
        # Whether the last call failed. Reports of spending show when Redis is back.
        self._is_away = self._was_answered = self._is_started = self._is_closed = False
        # The logged reason why budgets are not shared although Redis answers.
        self._defect = ""
        self._loop = asyncio.get_running_loop()
        self._tells = False
        self._timer: asyncio.TimerHandle | None = None
        self._calling: asyncio.Task[None] | None = None

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
        if self._is_away:
            return self._take_alone(account, cost)
        question = _Question(account, cost, self._loop.create_future())
        self._questions.append(question)
        self._call_soon()
        try:
            return await question.answer
        except asyncio.CancelledError:
            answer = question.answer
            if not answer.cancelled() and answer.result() is None:
                # It was answered, but its exchange has left before it could go on.
                account.reserved -= cost
                self._tell_soon()
            raise

    def _take_alone(self, account: Account, cost: Cost) -> Exceeded | None:
        """Reserve a cost, provided that every other member may spend as much as this one has
        spent and reserved since the last call."""
        ledger, others, now = self._ledger(account), self._count_members() - 1, self._clock()
        account.others = (account.reserved + cost) * others
        periods = (day_of(now), month_of(now))
        account.assumed = {period: ledger.unsent(period) * others for period in periods}
        exceeded = account.reserve(now, cost)
        account.others = account.reserved * others
        return exceeded

    def _count_members(self) -> int:
        """How many members the group has, or had when that was known."""
        self._known_members = self._members() or self._known_members
        return self._known_members

    def _count(self, account: Account, now: int, tokens: int, nano_usd: int) -> None:
        # Charging each exchange by itself would take 4% of the instructions of a request.
        counted = self._counted.get(account.client)
        if counted is None or not 0 <= now - counted.day_begins < DAY:
            counted = self._begin_count(account, now)
        counted.tokens += tokens
        counted.nano_usd += nano_usd

    def _begin_count(self, account: Account, now: int) -> _Counted:
        self._charge_counted(account.client)
        begun = self._counted[account.client] = _Counted(account, now // DAY * DAY)
        self._tell_soon(TELL_LATER_AFTER_S)
        return begun

    def _charge_counted(self, client: str) -> None:
        counted = self._counted.pop(client, None)
        if counted is not None:
            cost = Cost(counted.tokens, counted.nano_usd)
            self._charge(counted.account, counted.day_begins, NOTHING, cost)

    def _charge_all_counted(self) -> None:
        for client in list(self._counted):
            self._charge_counted(client)

    def _charge(self, account: Account, now: int, reserved: Cost, cost: Cost) -> None:
        super()._charge(account, now, reserved, cost)
        pending = self._ledger(account).pending
        if cost != NOTHING:
            for period in (day_of(now), month_of(now)):
                pending[period] = pending.get(period, NOTHING) + cost
        self._tell_soon(_tell_after(account))

    def start(self) -> None:
        self._is_started = True
        self._tell_soon()

    def set_limits(self, limits: Mapping[str, SpendingLimits]) -> None:
        self._charge_all_counted()
        super().set_limits(limits)
        if self._is_started:
            self._tell_soon()

    # When to call.

    def _tell_soon(self, delay_s: float = TELL_AFTER_S) -> None:
        """Call within this time."""
        at = self._loop.time() + delay_s
        if self._is_closed or (self._timer is not None and self._timer.when() <= at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._tell)

    def _tell(self) -> None:
        self._timer, self._tells = None, True
        self._call_soon()

    def _call_soon(self) -> None:
        if self._calling is None:
            what = "sharing budgets"
            self._calling = start_task(what, repeat(what, self._call_if_due))

    async def _call_if_due(self) -> bool:
        """Make the next call. Returns whether there may be another one."""
        if not self._questions and not self._tells:
            self._calling = None
            return False
        questions = self._questions[:MAX_QUESTIONS]
        del self._questions[:MAX_QUESTIONS]
        try:
            await self._call(questions, self._due() if self._tells else [])
        except Exception as error:
            # A bug in the gate. Requests must not wait for it.
            self._on_failure(error, questions)
            raise
        return True

    def _due(self) -> list[_Ledger]:
        """The ledgers with something to report; while Redis is away, at least one."""
        self._charge_all_counted()
        for account in self.budgets.accounts():
            self._ledger(account)
        now, ledgers = self._loop.time(), list(self._ledgers.values())
        due = [each for each in ledgers if each.is_due(now)]
        self._tells = len(due) > MAX_CLIENTS
        if any(each.is_renewed for each in ledgers):
            self._tell_soon(RENEW_AFTER_S)
        if self._is_away and not due:
            return ledgers[:1]
        return due[:MAX_CLIENTS]

    # Calls.

    async def _call(
        self, questions: Sequence[_Question], ledgers: Iterable[_Ledger], *, leaves: bool = False
    ) -> None:
        """Ask to reserve costs, and report what was spent and reserved."""
        by_client: dict[str, list[_Question]] = {each.account.client: [] for each in ledgers}
        for question in questions:
            self._ledger(question.account)
            by_client.setdefault(question.account.client, []).append(question)
        if not by_client:
            return
        now = self._clock()
        reports = [
            self._ledgers[client].report(now, (each.cost for each in asked), leaves=leaves)
            for client, asked in by_client.items()
        ]
        try:
            replies = await self._ask(now, list(by_client), reports)
            told = [_costs(reply.spent) for reply in replies]
            others = [_cost(reply.others) for reply in replies]
        except (StoreError, ValueError) as error:
            for client in by_client:
                self._ledgers[client].reserved = None
            self._on_failure(error, questions)
            return
        self._on_success()
        for place, (client, asked) in enumerate(by_client.items()):
            ledger = self._ledgers[client]
            ledger.read(told[place], others[place])
            self._answer(ledger, asked, replies[place].fits, reports[place]["reserved"], now)

    async def _ask(
        self, now: int, clients: list[str], reports: list[dict[str, Any]]
    ) -> list[_Reply]:
        """The replies to a call. Raises StoreError and ValueError."""
        call = {
            "lease": LEASE_S,
            "forget": FORGET_S,
            "kept": KEPT_S,
            "oldest": month_of(now - KEPT_S * SECOND),
            "clients": reports,
        }
        arguments = (self._name, msgspec.json.encode(call))
        limit_s = call_limit_s(first=not self._was_answered and not self._is_away)
        keys = list(map(self._key, clients))
        text = await self._redis.evaluate(_SPEND, keys, arguments, limit_s)
        replies = _DECODER.decode(text)
        if [len(report["costs"]) for report in reports] != [len(reply.fits) for reply in replies]:
            raise ValueError("another number of answers")
        return replies

    def _answer(
        self, ledger: _Ledger, questions: list[_Question], fits: str, told: Pair, now: int
    ) -> None:
        """Answer the questions about one client, and note what the group believes."""
        account, ledger.reserved = ledger.account, Cost(*told)
        ledger.called_at = self._loop.time()
        for question, has_room in zip(questions, fits, strict=True):
            if has_room == "1":
                ledger.reserved += question.cost
            if question.answer.done():
                # The exchange has left.
                continue
            exceeded = None
            if has_room == "1":
                account.reserved += question.cost
            elif (exceeded := account.exceeded(now, question.cost)) is None:
                # Something was settled during the call.
                self._questions.append(question)
                continue
            question.answer.set_result(exceeded)
        if ledger.pending or ledger.reserved != account.reserved:
            self._tell_soon(_tell_after(account))
        elif account.reserved != NOTHING:
            self._tell_soon(RENEW_AFTER_S)

    def _on_success(self) -> None:
        if self._defect:
            logger.info("the budgets of clients are shared with other gates again")
        self._is_away, self._was_answered, self._defect = False, True, ""
        self._count_members()

    def _on_failure(self, error: Exception, questions: Iterable[_Question]) -> None:
        """Go on alone. The member of the group says if Redis cannot be reached."""
        self._is_away = True
        self._tell_soon()
        self._tells = False
        if self._members():
            self._log_defect(error)
        waiting, self._questions = [*questions, *self._questions], []
        for question in waiting:
            if not question.answer.done():
                question.answer.set_result(self._take_alone(question.account, question.cost))

    def _log_defect(self, error: Exception) -> None:
        """Log once what somebody has to correct."""
        if isinstance(error, StoreRefused):
            reason = str(error)
        elif isinstance(error, StoreUnavailable):
            return
        else:
            text = error if isinstance(error, StoreError) else "unexpected reply"
            reason = f"{text}; if their data is damaged, delete the keys {self._prefix}*"
        if reason != self._defect:
            self._defect = reason
            logger.error(
                "the budgets of clients cannot be shared, so each gate spends an equal part of "
                "what is left: {}",
                reason,
            )

    def _ledger(self, account: Account) -> _Ledger:
        ledger = self._ledgers.get(account.client)
        if ledger is None:
            ledger = self._ledgers[account.client] = _Ledger(account)
        return ledger

    def _key(self, client: str) -> str:
        return self._prefix + quote(client, safe="")

    async def close(self) -> None:
        self._is_closed = True
        self._charge_all_counted()
        if self._timer is not None:
            self._timer.cancel()
        if self._calling is not None:
            await asyncio.wait((self._calling,))
        ledgers = list(self._ledgers.values())
        for first in range(0, len(ledgers), MAX_CLIENTS):
            await self._call((), ledgers[first : first + MAX_CLIENTS], leaves=True)
            if self._is_away:
                break
        await self._redis.close()


def _tell_after(account: Account) -> float:
    """How soon to report what a client has spent, in seconds."""
    return TELL_AFTER_S if account.budgets else TELL_LATER_AFTER_S


def _pair(cost: Cost) -> Pair:
    return cost.tokens, cost.nano_usd


def _cost(text: str) -> Cost:
    """A cost as the script writes it. Raises ValueError for anything else."""
    tokens, nano = text.split()
    return Cost(int(tokens), int(nano))


def _costs(texts: dict[str, str]) -> dict[str, Cost]:
    return {period: _cost(text) for period, text in texts.items()}
