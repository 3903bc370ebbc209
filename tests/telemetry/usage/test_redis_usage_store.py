"""The usage record of a group, in a real Redis."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rustygate.config.redis_url import parse_redis_url
from rustygate.core.usage_rows import COLUMNS, UsageKey, UsageQuery, UsageTotals
from rustygate.plan import virtual_clock
from rustygate.telemetry.usage import redis_usage_store
from rustygate.telemetry.usage.redis_usage_store import (
    DAY_EXPIRES_AFTER_S,
    NUMBER_EXPIRES_AFTER_S,
    RedisUsageStore,
)
from rustygate.telemetry.usage.selection import select
from rustygate.telemetry.usage.store import UsageStoreError
from tests.conftest import StartGate, StartRedis
from tests.support.gate import Gate
from tests.support.http import chat, response
from tests.support.redis import SERVERS, Cluster, RedisServer
from tests.support.upstream import Upstream
from tests.support.waiting import SOON_S, until
from tests.telemetry.usage.samples import EVER, batch

GROUP = "team"
DAY = datetime.now(UTC).date().isoformat()
BY_CLIENT = UsageQuery(DAY, DAY, ("client",))

MakeStore = Callable[[str], RedisUsageStore]


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let calls wait for a busy machine."""
    monkeypatch.setattr(redis_usage_store, "ADD_LIMIT_S", SOON_S)
    monkeypatch.setattr(redis_usage_store, "READ_LIMIT_S", SOON_S)


@pytest.fixture
async def make_store(_no_task_left: None) -> AsyncIterator[MakeStore]:
    stores: list[RedisUsageStore] = []

    def make(url: str) -> RedisUsageStore:
        stores.append(RedisUsageStore(parse_redis_url(url), GROUP))
        return stores[-1]

    yield make
    for store in stores:
        await store.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("usage"))
    yield server
    server.close()


@pytest.fixture(autouse=True)
def _empty(server: RedisServer) -> None:
    server.command("FLUSHALL")


def today(client: str = "a", model: str = "m", **amounts: int) -> dict[UsageKey, UsageTotals]:
    return batch(client, model, DAY, **amounts)


@pytest.mark.parametrize("program", SERVERS.values(), ids=SERVERS)
async def test_totals_of_members_are_added_up(
    make_store: MakeStore, start_redis: StartRedis, program: str
) -> None:
    url = start_redis(program=program).url
    members = [make_store(url) for _ in range(3)]
    totals = UsageTotals(*range(1, 11))
    for member in members:
        for _ in range(2):
            await member.add({UsageKey(DAY, "a", "m"): totals})
    await members[0].add(today("b"))
    found = dict(await members[1].rows_by(BY_CLIENT))
    assert found["a",].values() == tuple(6 * amount for amount in range(1, 11))
    assert found["b",] == UsageTotals(exchanges=1)


async def test_large_amounts_are_exact(make_store: MakeStore, server: RedisServer) -> None:
    store = make_store(server.url)
    odd = (1 << 51) + 1
    for _ in range(3):
        await store.add(today(cost_nano_usd=odd, queued_us=1))
    [(_, totals)] = await store.rows_by(BY_CLIENT)
    assert (totals.cost_nano_usd, totals.queued_us) == (3 * odd, 3)


async def test_reports_are_grouped_over_days(make_store: MakeStore, server: RedisServer) -> None:
    store = make_store(server.url)
    usage: dict[UsageKey, UsageTotals] = {}
    for number in range(100):
        day = (datetime.now(UTC).date() - timedelta(days=number)).isoformat()
        usage |= batch(f"c{number % 3}", f"m{number % 2}", day, tokens_in=number)
    await store.add(usage)
    first = (datetime.now(UTC).date() - timedelta(days=63)).isoformat()
    for by in (("client",), COLUMNS, ("day", "model")):
        for client in (None, "c1"):
            query = UsageQuery(first, "9999-12-31", by, client)
            assert await store.rows_by(query) == select(query, usage)
    assert len(await store.rows_by(EVER)) == 100


def test_report_has_one_limit_for_all_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_usage_store, "READ_LIMIT_S", 5.0)
    parts: list[int] = []

    async def evaluate(_: object, keys: Sequence[str], *__: object) -> list[list[bytes]]:
        parts.append(len(keys))
        await asyncio.sleep(0.9)
        return [[] for _ in keys]

    async def main() -> float:
        loop = asyncio.get_running_loop()
        store = RedisUsageStore(parse_redis_url("redis://redis"), GROUP)
        monkeypatch.setattr(store._redis, "evaluate", evaluate)
        began = loop.time()
        with pytest.raises(UsageStoreError, match=r"^Redis: no answer within 5000 ms$"):
            await store.rows_by(EVER)
        return loop.time() - began

    assert virtual_clock.run(main) == pytest.approx(5)
    assert parts == [31] * 6


@pytest.mark.parametrize(
    ("kept", "expected"),
    [("5", "5 0 7"), (" ".join(map(str, range(1, 14))), "1 2 10 4 5 6 7 8 9 10 11 12 13")],
    ids=["fewer amounts", "more amounts"],
)
async def test_amounts_of_another_version_are_kept(
    make_store: MakeStore, server: RedisServer, kept: str, expected: str
) -> None:
    store, key = make_store(server.url), f"rustygate:{{{GROUP}}}:usage:1:{DAY}"
    server.command("HSET", key, '["a","m"]', kept)
    await store.add(today(exchanges=0, tokens_in=7))
    assert server.command("HGET", key, '["a","m"]').decode().startswith(expected)
    [(_, totals)] = await store.rows_by(BY_CLIENT)
    assert totals.tokens_in == int(expected.split()[2])


@pytest.mark.parametrize("field", [("x", "1"), ('["a","m"]', "1 x")], ids=["names", "amounts"])
async def test_damaged_key_is_named(
    make_store: MakeStore, server: RedisServer, field: tuple[str, str]
) -> None:
    key = f"rustygate:{{{GROUP}}}:usage:1:{DAY}"
    server.command("HSET", key, *field)
    with pytest.raises(UsageStoreError) as caught:
        await make_store(server.url).rows_by(EVER)
    assert str(caught.value) == f"the key {key} is damaged: delete it"


@pytest.mark.parametrize("name", ['a","b', "\0", "ü\u202e", "[]", "x" * 999])
async def test_any_label_is_kept(make_store: MakeStore, server: RedisServer, name: str) -> None:
    store = make_store(server.url)
    await store.add(today(name, name))
    assert [key for key, _ in await store.rows_by(EVER)] == [(DAY, name, name)]


async def test_keys_expire_and_have_the_hash_tag_of_the_group(
    make_store: MakeStore, server: RedisServer
) -> None:
    await make_store(server.url).add(today())
    keys = {key.decode() for key in server.command("KEYS", "*")}
    day = f"rustygate:{{{GROUP}}}:usage:1:{DAY}"
    assert day in keys
    assert len(keys) == 2
    for key in keys:
        expected = DAY_EXPIRES_AFTER_S if key == day else NUMBER_EXPIRES_AFTER_S
        assert expected - 60 <= server.command("TTL", key) <= expected


def first_amount(server: RedisServer) -> bytes:
    """The exchanges of the only row of today."""
    [amounts] = server.command("HVALS", f"rustygate:{{{GROUP}}}:usage:1:{DAY}")
    return bytes(amounts.split()[0])


async def test_batch_whose_reply_is_lost_counts_once(
    make_store: MakeStore, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(server.url)
    await store.add(today())
    monkeypatch.setattr(redis_usage_store, "ADD_LIMIT_S", 0.1)
    server.pause()
    try:
        with pytest.raises(UsageStoreError) as raised:
            await store.add(today(tokens_in=5))
    finally:
        server.resume()
    assert str(raised.value) == "Redis: no answer within 100 ms"
    monkeypatch.setattr(redis_usage_store, "ADD_LIMIT_S", SOON_S)
    await until(lambda: first_amount(server) == b"2")
    await store.add(today(tokens_in=5))
    await store.add(today(tokens_in=1))
    assert await store.rows_by(BY_CLIENT) == [(("a",), UsageTotals(exchanges=3, tokens_in=6))]


async def test_batch_is_added_after_a_restart_of_redis(
    make_store: MakeStore, start_redis: StartRedis
) -> None:
    own = start_redis()
    store = make_store(own.url)
    await store.add(today())
    own.stop()
    with pytest.raises(UsageStoreError, match="Redis: Connection refused"):
        await store.add(today("b"))
    own.start()
    await store.add(today("b"))
    assert [key for key, _ in await store.rows_by(BY_CLIENT)] == [("b",)]


async def test_record_goes_on_after_flushall(make_store: MakeStore, server: RedisServer) -> None:
    store = make_store(server.url)
    await store.add(today())
    server.command("FLUSHALL")
    await store.add(today("b"))
    assert await store.rows_by(EVER) == [((DAY, "b", "m"), UsageTotals(exchanges=1))]


async def test_full_redis_keeps_a_batch_out_as_a_whole(
    make_store: MakeStore, start_redis: StartRedis
) -> None:
    own = start_redis("maxmemory-policy noeviction")
    store = make_store(own.url)
    await store.add(today())
    own.command("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(UsageStoreError, match="no memory left"):
        await store.add(today("b") | today("c"))
    assert [key for key, _ in await store.rows_by(BY_CLIENT)] == [("a",)]
    own.command("CONFIG", "SET", "maxmemory", "0")
    await store.add(today("b") | today("c"))
    assert len(await store.rows_by(BY_CLIENT)) == 3


async def test_cluster_takes_a_batch_of_several_days(
    make_store: MakeStore, tmp_path: Path
) -> None:
    cluster = Cluster(tmp_path)
    try:
        store = make_store(cluster.url)
        yesterday = (datetime.now(UTC).date() - timedelta(days=1)).isoformat()
        await store.add(today() | batch(day=yesterday))
        assert len(await store.rows_by(EVER)) == 2
    finally:
        cluster.close()


# Gates.


async def record(running: Gate) -> dict[str, int]:
    rows = await running.daemon.usage.rows_by(EVER)
    return {key[1]: totals.exchanges for key, totals in rows}


async def test_three_gates_have_one_record(
    gate: StartGate, upstream: Upstream, start_redis: StartRedis, tmp_path: Path
) -> None:
    upstream.reply = response(b"{}")
    own = start_redis()
    gates = [await gate(REDIS_URL=own.url, DATA_DIR=tmp_path / "unused") for _ in range(3)]
    for running in gates:
        for client in ("a", "b"):
            await running.request(chat(f"X-RustyGate-Client: {client}"))
    await gates[0].settled(6)
    await until(lambda: all(each.daemon.usage.unwritten == 0 for each in gates))
    for running in gates:
        assert await record(running) == {"a": 3, "b": 3}
    assert not (tmp_path / "unused").exists()


async def test_usage_waits_for_redis_and_loss_is_logged(
    gate: StartGate, upstream: Upstream, start_redis: StartRedis
) -> None:
    upstream.reply = response(b"{}")
    own = start_redis()
    running = await gate(REDIS_URL=own.url)
    own.stop()
    for _ in range(2):
        await running.request(chat())
    await until(lambda: "cannot write usage (Redis: " in running.log.text)
    assert running.daemon.usage.unwritten == 2
    own.start()
    await until(lambda: "usage is written again" in running.log.text)
    assert await record(running) == {"127.0.0.1": 2}
    own.stop()
    await running.request(chat())
    await running.close()
    assert "usage of 1 exchange with " in running.log.text
    assert "is lost: it could not be written (Redis: " in running.log.text
