"""Clients' budgets in a group: one for all members, in a real Redis."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, cast

import pytest
from loguru import logger

from rustygate.admission.group import spending
from rustygate.admission.group.redis_connection import RedisConnection
from rustygate.admission.group.spending import GroupSpending
from rustygate.config.redis_url import parse_redis_url
from rustygate.core.bucket import SECOND
from rustygate.core.client_budgets import Cost
from rustygate.core.clients import SpendingLimits
from rustygate.core.price_list import ModelPrice, PriceList, rate_of
from rustygate.errors import BudgetExceeded
from rustygate.exchange import Exchange
from rustygate.plan import virtual_clock
from tests.conftest import StartRedis
from tests.support.redis import RedisServer
from tests.support.waiting import SOON_S, until

NOON = int(datetime(2026, 11, 28, 12, tzinfo=UTC).timestamp()) * SECOND
DAY, MONTH = "2026-11-28", "2026-11"
PRICES = PriceList(own={"gpt-4o": ModelPrice([rate_of(input=1, cached=1, written=1, output=1)])})
PREFIX = "rustygate:{test}:spending:1:"

NewMember = Callable[..., GroupSpending]


class Clock:
    now = NOON

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log() -> Iterator[list[str]]:
    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(str(line).strip()), format="{level} {message}")
    yield lines
    logger.remove(sink)


@pytest.fixture
def server(start_redis: StartRedis) -> RedisServer:
    return start_redis()


@pytest.fixture
async def new_member(
    server: RedisServer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[NewMember]:
    """Makes members of one group of three, whose client has these budgets. A busy machine does
    not make their calls time out."""
    monkeypatch.setattr(spending, "call_limit_s", lambda first: SOON_S)
    members: list[GroupSpending] = []

    def new(**limits: float) -> GroupSpending:
        redis = RedisConnection(parse_redis_url(server.url), PREFIX, None, None)
        member = GroupSpending(PRICES, redis, PREFIX, lambda: 3, clock)
        member.set_limits({"search": SpendingLimits(**limits)})  # type: ignore[arg-type]
        members.append(member)
        return member

    yield new
    for member in members:
        await member.close()


def exchange(tokens: int = 100) -> Exchange:
    return Exchange(
        "search", "POST", "/v1/x", model="gpt-4o", tokens=tokens, connected=True, outcome="ok"
    )


async def accepts(member: GroupSpending, started: Exchange | None = None) -> bool:
    try:
        await member.reserve(started or exchange())
    except BudgetExceeded:
        return False
    return True


async def run(member: GroupSpending, tokens: int, actual: int, client: str = "search") -> None:
    ended = exchange(tokens)
    ended.client = client
    await member.reserve(ended)
    ended.tokens_in, ended.tokens_out = 0, actual
    ended.cost_nano = actual * 1000
    member.settle(ended)


def settle(member: GroupSpending, tokens: int) -> None:
    """An exchange of a client without budgets ends."""
    ended = exchange()
    ended.tokens_in, ended.tokens_out, ended.cost_nano = 0, tokens, tokens * 1000
    member.settle(ended)


async def test_members_share_one_budget(new_member: NewMember) -> None:
    members = [new_member(tokens_per_day=1000) for _ in range(3)]
    found = await asyncio.gather(*(accepts(member) for member in members * 5))
    assert sum(found) == 10
    assert [await accepts(member) for member in members] == [False] * 3


async def test_dollars_are_shared_too(new_member: NewMember) -> None:
    one, other = (new_member(usd_per_month=0.0005) for _ in range(2))
    assert [await accepts(one) for _ in range(3)] == [True] * 3
    assert [await accepts(other) for _ in range(3)] == [True, True, False]
    await run_all_settled(one)


async def run_all_settled(member: GroupSpending) -> None:
    await until(lambda: not any(each.pending or each.sent for each in member._ledgers.values()))


async def test_refusal_counts_what_others_have_reserved(new_member: NewMember) -> None:
    one, other = (new_member(tokens_per_day=1000) for _ in range(2))
    await run(one, 300, actual=250)
    assert await accepts(one, exchange(600))
    with pytest.raises(BudgetExceeded, match="250 of 1000 tokens are used and 600 tokens"):
        await other.reserve(exchange(200))
    refused = exchange(200)
    assert not await accepts(other, refused)
    assert refused.budget_left == "tokens_per_day=150"
    assert await accepts(other, exchange(150))


async def test_settled_cost_is_reported_and_replaces_the_reservation(
    new_member: NewMember, server: RedisServer
) -> None:
    one, other = (new_member(tokens_per_day=1000) for _ in range(2))
    await run(one, 900, actual=100)
    # Reported without another request.
    await until(lambda: server.command("HGET", f"{PREFIX}search", DAY) == b"100 100000")
    assert server.command("HGET", f"{PREFIX}search", MONTH) == b"100 100000"
    assert await accepts(other, exchange(900))
    assert not await accepts(one, exchange(1))


async def test_actual_cost_belongs_to_the_day_in_which_it_settles(
    new_member: NewMember, clock: Clock
) -> None:
    one = new_member(tokens_per_day=1000, tokens_per_month=1500)
    await run(one, 1000, actual=1000)
    assert not await accepts(one)
    clock.now += 12 * 3600 * SECOND
    assert await accepts(one, exchange(500))
    assert not await accepts(one, exchange(1))


async def test_client_that_leaves_during_the_call_has_nothing_reserved(
    new_member: NewMember, server: RedisServer
) -> None:
    one, other = (new_member(tokens_per_day=1000) for _ in range(2))
    asking = asyncio.create_task(one.reserve(exchange(1000)))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    # The call went on.
    await until(lambda: reserved_by(server, one) == 0)
    assert await accepts(other, exchange(1000))


def reserved_by(server: RedisServer, member: GroupSpending) -> int:
    """The tokens that a member has reserved; -1 before it has called."""
    fields = server.command("HGET", f"{PREFIX}search", f"m:{member._name}")
    return int(fields.split()[0]) if isinstance(fields, bytes) else -1


async def test_client_that_leaves_after_the_answer_has_nothing_reserved(
    new_member: NewMember, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = new_member(tokens_per_day=1000)
    asking = asyncio.create_task(one.reserve(exchange(1000)))
    answer = one._answer

    def answer_and_cancel(*values: Any) -> None:
        answer(*values)
        asking.cancel()

    monkeypatch.setattr(one, "_answer", answer_and_cancel)
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert one.left("search") == {"tokens_per_day": 1000}
    await until(lambda: reserved_by(server, one) == 0)


async def test_room_that_comes_during_a_call_is_used(
    new_member: NewMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal that no longer holds is not an admission without a reservation."""
    one = new_member(tokens_per_day=1000)
    running = exchange(900)
    await one.reserve(running)
    ask = one._ask

    async def settle_and_ask(*values: Any) -> Any:
        replies = await ask(*values)
        monkeypatch.undo()
        running.outcome = "refused"
        one.settle(running)
        return replies

    monkeypatch.setattr(one, "_ask", settle_and_ask)
    await one.reserve(exchange(200))
    assert one.left("search") == {"tokens_per_day": 800}


async def test_requests_that_come_during_a_call_share_the_next_one(
    new_member: NewMember, server: RedisServer
) -> None:
    one = new_member(tokens_per_day=1000)
    assert await accepts(one)
    before = calls(server)
    found = await asyncio.gather(*(accepts(one) for _ in range(300)))
    assert found == [True] * 9 + [False] * 291
    assert calls(server) - before <= 2


async def test_calls_are_bounded_and_nobody_is_left_out(
    new_member: NewMember, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spending, "MAX_QUESTIONS", 2)
    monkeypatch.setattr(spending, "MAX_CLIENTS", 1)
    one = new_member(tokens_per_day=1000)
    found = await asyncio.gather(*(accepts(one) for _ in range(12)))
    assert sorted(found) == [False] * 2 + [True] * 10
    assert calls(server) >= 5
    for number in range(3):
        await run(one, 0, actual=5, client=f"client-{number}")
    await run_all_settled(one)
    assert server.command("HGET", f"{PREFIX}client-2", DAY) == b"5 5000"


def calls(server: RedisServer, command: str = "evalsha") -> int:
    """How often a command was called."""
    stats = server.command("INFO", "commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


async def test_only_clients_with_something_new_are_reported(
    new_member: NewMember, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spending, "TELL_LATER_AFTER_S", 0.01)
    one = new_member(tokens_per_day=1000)
    for number in range(20):
        one.set_recorded(f"client-{number}", DAY, Cost(1))
        await run(one, 10, actual=10, client=f"client-{number}")
    await run_all_settled(one)
    before = calls(server, "hgetall")
    await run(one, 10, actual=10, client="client-7")
    await run_all_settled(one)
    assert calls(server, "hgetall") - before == 2


async def test_silent_member_loses_its_reservation_after_the_lease(
    new_member: NewMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (new_member(tokens_per_day=1000) for _ in range(2))
    assert await accepts(one, exchange(1000))
    assert not await accepts(other)
    monkeypatch.setattr(spending, "LEASE_S", -1)
    assert await accepts(other, exchange(1000))


async def test_reservation_is_renewed_while_it_is_held(
    new_member: NewMember, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spending, "RENEW_AFTER_S", 0.01)
    one = new_member(tokens_per_day=1000)
    assert await accepts(one, exchange(400))
    field = f"m:{one._name}"
    for _ in range(2):
        server.command("HSET", f"{PREFIX}search", field, "400 0 0 5")
        await until(lambda: called_at(server, one) > 5)
    assert reserved_by(server, one) == 400


def called_at(server: RedisServer, member: GroupSpending) -> int:
    reserved = server.command("HGET", f"{PREFIX}search", f"m:{member._name}")
    assert isinstance(reserved, bytes)
    return int(reserved.split()[3])


async def test_member_learns_what_others_spend(
    new_member: NewMember, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without requests of its own: if Redis goes away, it must not begin with a full budget."""
    monkeypatch.setattr(spending, "RENEW_AFTER_S", 0.01)
    one, other = (new_member(tokens_per_day=1000) for _ in range(2))
    other.start()
    await run(one, 700, actual=700)
    await until(lambda: other.left("search") == {"tokens_per_day": 300})
    server.close()
    await until(lambda: other._is_away)
    assert not await accepts(other, exchange(101))
    assert await accepts(other, exchange(100))


async def test_reload_reports_new_budgets(new_member: NewMember) -> None:
    one, other = (new_member(tokens_per_day=1000) for _ in range(2))
    await run(one, 700, actual=700)
    await run_all_settled(one)
    other.set_limits({})
    other.start()
    await until(lambda: other._timer is None and other._calling is None)
    other.set_limits({"search": SpendingLimits(tokens_per_day=900)})
    await until(lambda: other.left("search") == {"tokens_per_day": 200})


async def test_cost_is_reported_soon_although_a_reservation_is_renewed_later(
    new_member: NewMember, server: RedisServer
) -> None:
    one = new_member(tokens_per_day=1000)
    assert await accepts(one, exchange(400))
    assert one._timer is not None
    late = one._timer.when()
    await run(one, 100, actual=7)
    assert one._timer.when() < late - 4
    await until(lambda: server.command("HGET", f"{PREFIX}search", DAY) == b"7 7000")
    await until(lambda: one._timer is not None and one._timer.when() > late)


async def test_lost_reply_counts_once(new_member: NewMember, server: RedisServer) -> None:
    one = new_member(tokens_per_day=1000)
    await run(one, 100, actual=100)
    await run_all_settled(one)
    [ledger] = one._ledgers.values()
    # Another call, which settles nothing.
    assert await accepts(one, exchange(0))
    # As if the reply to the first one had been lost.
    ledger.sent = {DAY: Cost(100, 0), MONTH: Cost(100, 0)}
    assert await accepts(one, exchange(900))
    assert server.command("HGET", f"{PREFIX}search", DAY) == b"100 100000"


async def test_empty_redis_gets_back_what_members_know(
    new_member: NewMember, server: RedisServer
) -> None:
    one, other = (new_member(tokens_per_day=1000) for _ in range(2))
    await run(one, 700, actual=700)
    await run_all_settled(one)
    server.command("FLUSHALL")
    assert not await accepts(one, exchange(400))
    assert not await accepts(other, exchange(400))
    assert await accepts(other, exchange(300))


async def test_empty_redis_gets_the_most_that_any_member_knows(
    new_member: NewMember, server: RedisServer
) -> None:
    one, other = (new_member(tokens_per_day=1000) for _ in range(2))
    await run(one, 100, actual=100)
    await run_all_settled(one)
    await run(other, 600, actual=600)
    await run_all_settled(other)
    server.command("FLUSHALL")
    # This one does not know what the other has spent.
    assert await accepts(one, exchange(100))
    assert not await accepts(other, exchange(201))
    assert await accepts(other, exchange(200))
    assert not await accepts(one, exchange(1))


async def test_old_periods_and_members_are_forgotten(
    new_member: NewMember, server: RedisServer
) -> None:
    key = f"{PREFIX}search"
    ended = new_member(tokens_per_day=1000)
    assert await accepts(ended)
    fields = {"2026-09-30": "1 1", "2026-09": "1 1", "2026-10-01": "1 1", "m:gone": "5 5 1 1000"}
    for name, text in fields.items():
        server.command("HSET", key, name, text)
    await ended.close()
    one = new_member(tokens_per_day=1000)
    assert await accepts(one)
    kept = {b"2026-10-01", MONTH.encode(), DAY.encode(), f"m:{one._name}".encode()}
    assert set(server.command("HKEYS", key)) == kept


async def test_names_of_clients_are_escaped_in_keys(
    new_member: NewMember, server: RedisServer
) -> None:
    await run(new_member(tokens_per_day=1000), 10, actual=10, client="a b:{*}\n")
    await until(lambda: server.command("KEYS", "*") == [f"{PREFIX}a%20b%3A%7B%2A%7D%0A".encode()])


async def test_damaged_data_is_named_once_and_members_go_on(
    new_member: NewMember, server: RedisServer, log: list[str]
) -> None:
    one = new_member(tokens_per_day=1000)
    server.command("HSET", f"{PREFIX}search", DAY, "garbage")
    # As one of three.
    assert await accepts(one)
    assert await accepts(one, exchange(233))
    assert not await accepts(one, exchange(1))
    before = calls(server)
    await until(lambda: calls(server) > before + 1)
    [error] = [line for line in log if line.startswith("ERROR")]
    assert error.endswith(f"if their data is damaged, delete the keys {PREFIX}*")
    server.command("DEL", f"{PREFIX}search")
    await until(lambda: not one._is_away)
    assert log[-1] == "INFO the budgets of clients are shared with other gates again"
    assert await accepts(one, exchange(500))


class _BrokenRedis:
    """A connection that fails by a defect, and remembers when it was called."""

    def __init__(self) -> None:
        self.calls: list[float] = []

    async def evaluate(self, *_: object) -> bytes:
        self.calls.append(asyncio.get_running_loop().time())
        raise RuntimeError("defect")


def test_calls_that_fail_by_a_defect_are_a_second_apart(log: list[str]) -> None:
    async def main() -> list[float]:
        redis = _BrokenRedis()
        connection = cast(RedisConnection, redis)
        member = GroupSpending(PRICES, connection, PREFIX, lambda: 3, lambda: NOON)
        member.set_limits({"search": SpendingLimits(tokens_per_day=1_000_000)})
        member.start()
        for _ in range(45):
            # No request waits for a call.
            await run(member, 10, actual=10)
            await asyncio.sleep(0.1)
        return redis.calls

    calls = virtual_clock.run(main)
    assert [later - earlier for earlier, later in pairwise(calls)] == pytest.approx([1] * 4)
    failed = [line for line in log if "sharing budgets failed, next try in 1 s" in line]
    assert len(failed) == 5


async def test_missing_permissions_are_named(
    new_member: NewMember, server: RedisServer, log: list[str]
) -> None:
    server.command("ACL", "SETUSER", "default", "resetkeys")
    assert await accepts(new_member(tokens_per_day=1000))
    [error] = [line for line in log if line.startswith("ERROR")]
    assert error.endswith("what is left: its user lacks permissions that a group needs")


async def test_new_day_without_redis_begins_with_a_full_share(
    new_member: NewMember, server: RedisServer, clock: Clock
) -> None:
    one = new_member(tokens_per_day=900, tokens_per_month=9000)
    assert await accepts(one, exchange(0))
    server.close()
    await run(one, 300, actual=300)
    assert not await accepts(one, exchange(1))
    clock.now += 12 * 3600 * SECOND
    assert not await accepts(one, exchange(301))
    await run(one, 300, actual=300)
    assert not await accepts(one, exchange(1))
    assert one.left("search") == {"tokens_per_day": 0, "tokens_per_month": 9000 - 1800}


async def test_budget_begins_with_the_usage_record(new_member: NewMember) -> None:
    one = new_member(tokens_per_day=1000)
    one.set_recorded("search", MONTH, Cost(5000))
    one.set_recorded("search", DAY, Cost(800))
    assert not await accepts(one, exchange(201))
    assert await accepts(one, exchange(200))


async def test_member_without_redis_has_an_equal_share_of_what_is_left(
    new_member: NewMember, server: RedisServer
) -> None:
    one, other = (new_member(tokens_per_day=1000) for _ in range(2))
    await run(one, 100, actual=100)
    await run_all_settled(one)
    assert await accepts(other, exchange(1))
    server.close()
    # A third of 900 for each, as the group has three members.
    assert await accepts(one, exchange(200))
    assert not await accepts(one, exchange(101))
    assert await accepts(one, exchange(100))
    assert await accepts(other, exchange(299))
    assert not await accepts(other, exchange(1))


async def test_what_was_spent_without_redis_is_reported_later(
    start_redis: StartRedis, server: RedisServer, new_member: NewMember
) -> None:
    one = new_member(tokens_per_day=1000)
    assert await accepts(one, exchange(1))
    server.stop()
    await run(one, 300, actual=300)
    server.start()
    await until(lambda: not one._is_away)
    other = new_member(tokens_per_day=1000)
    assert not await accepts(other, exchange(700))
    assert await accepts(other, exchange(699))


async def test_cost_of_a_client_without_budgets_is_reported_later(
    new_member: NewMember, server: RedisServer
) -> None:
    """A reload that gives it budgets does not wait."""
    one = new_member()
    one.start()
    await until(lambda: one._timer is None and one._calling is None)
    began = one._loop.time()
    for _ in range(3):
        settle(one, 1)
    assert one._timer is not None
    assert began + 5 <= one._timer.when() <= one._loop.time() + 5
    one.set_limits({"search": SpendingLimits(tokens_per_day=9)})
    await until(lambda: server.command("HGET", f"{PREFIX}search", DAY) == b"3 3000")


async def test_cost_of_a_client_without_budgets_belongs_to_the_day_in_which_it_settles(
    new_member: NewMember, server: RedisServer, clock: Clock
) -> None:
    one = new_member()
    settle(one, 3)
    clock.now += 12 * 3600 * SECOND - 1
    settle(one, 4)
    clock.now += 1
    settle(one, 5)
    await one.close()
    spent = [server.command("HGET", f"{PREFIX}search", day) for day in (DAY, "2026-11-29", MONTH)]
    assert spent == [b"7 7000", b"5 5000", b"12 12000"]


async def test_what_was_spent_during_a_call_is_reported(
    new_member: NewMember, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even by a client without budgets, about which nothing else is reported."""
    monkeypatch.setattr(spending, "TELL_LATER_AFTER_S", 0.01)
    one = new_member()
    await run(one, 0, actual=3)
    [ledger] = one._ledgers.values()
    ledger.sent, ledger.pending, ledger.number = ledger.pending, {}, 1
    await run(one, 0, actual=4)
    await until(lambda: server.command("HGET", f"{PREFIX}search", DAY) == b"3 3000")
    await until(lambda: server.command("HGET", f"{PREFIX}search", DAY) == b"7 7000")


async def test_large_amounts_are_exact(new_member: NewMember) -> None:
    one, other = (new_member(usd_per_month=9_000_000) for _ in range(2))
    amount = 8_999_999_123_456_789
    one.set_recorded("search", MONTH, Cost(0, amount))
    one.set_recorded("search", DAY, Cost(0, amount))
    await one.reserve(exchange(1))
    await other.reserve(exchange(1))
    account = other.budgets.account("search")
    assert account is not None
    assert account.spent_in(MONTH).nano_usd == amount
    assert repr(one).startswith("<GroupSpending <ClientBudgets of search>")
