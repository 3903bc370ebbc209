"""The group's scheduler in Redis gives the same replies as the one in Python."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from rustygate.admission.group import redis_store
from rustygate.admission.group.redis_store import SCRIPT_PARTS, load_script
from rustygate.core.group_call import CallError
from rustygate.core.group_scheduler import GroupScheduler
from tests.conftest import StartRedis
from tests.support.group_traces import MINUTE, MS, SECOND, Call, Trace
from tests.support.redis import NONE_INSTALLED, SERVERS, RedisServer
from tests.support.sync_script import SyncScript, first_difference

pytestmark = pytest.mark.skipif(not SERVERS, reason=NONE_INSTALLED)

DAMAGED = (
    "the group's data is damaged, or another program's: delete the keys "
    "rustygate:{rustygate}:1:*, and the group begins again"
)

SCRIPT_FOLDER = Path(redis_store.__file__).parent / "sync"


@pytest.fixture(scope="module")
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RedisServer]:
    program = SERVERS[getattr(request, "param", next(iter(SERVERS)))]
    server = RedisServer(tmp_path_factory.mktemp("redis"), program=program)
    yield server
    server.close()


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    # A call that is repeated after a time-out gets another reply.
    with redis.Redis(port=server.port, socket_timeout=None) as client:
        client.flushall()
        yield client


@pytest.fixture
def script(client: redis.Redis) -> SyncScript:
    return SyncScript(client)


def a_call(member: str = "a", seq: int = 1, **changed: Any) -> Call:
    return {
        "member": member,
        "known": int(seq > 1),
        "seq": seq,
        "ack": seq - 1,
        "elapsed": 0,
        "limits": [SECOND // 10, 2, -1, -1, -1],
        "demand": [],
        "news": [],
        "float": [],
        "slots": [0, [], []],
        "levels": [-1, -1],
        **changed,
    }


def demand(count: int, client: str = "app", lane: str = "gpt") -> list[Any]:
    return [lane, 1, client, 1.0, [10] * min(count, 8), max(0, count - 8), 0, 0]


# 10,000 steps; `scripts/group_traces` runs more. In the last trace, the state goes back at the end
# of its time.
@pytest.mark.parametrize("seed", [*range(24), 425936])
def test_random_traces_get_equal_replies(script: SyncScript, seed: int) -> None:
    assert first_difference(script, seed, 400) is None


@pytest.mark.parametrize("server", sorted(SERVERS), indirect=True)
def test_each_server_gives_the_same_replies(script: SyncScript) -> None:
    assert [first_difference(script, seed, 200) for seed in range(100, 103)] == [None] * 3


def test_traces_try_what_can_happen() -> None:
    seen: Counter[str] = Counter()
    for seed in range(25):
        trace, scheduler = Trace(seed), GroupScheduler()
        last: dict[str, int] = {}
        for call, clock, member in trace.calls(400):
            reply = scheduler.sync(call, clock)
            seen.update({name for name in ("stale", "ignored", "left") if name in reply})
            parts = ("grants", "floats", "clients", "flows")
            seen.update(name for name in parts if reply.get(name))
            seen.update(event[0] for event in call["news"])
            seen["ahead"] += any(grant[4] for grant in reply.get("grants", ()))
            seen["repeated"] += member.repeats is call
            seen["lost"] += call["known"] and call["ack"] > last.get(call["member"], call["seq"])
            last[call["member"]] = call["seq"]
            trace.take(member, call, reply)
    rare = {name for name, count in seen.items() if count < 5}
    assert not rare
    assert seen.keys() >= {
        "stale", "ignored", "left", "grants", "floats", "clients", "flows", "ahead", "repeated",
        "lost",
        "charge", "float_used", "settle", "give_back", "waive", "refund", "answer", "release",
        "known", "learn", "teach", "pause", "slow_down", "pace",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("part", "broken"),
    [
        (b"{16, 4, 1}", b"{16, 5, 1}"),
        (b"DEMAND_LEASE = 200 ", b"DEMAND_LEASE = 201 "),
        (b"flow.served < other.served", b"flow.served > other.served"),
        (b"HORIZON = 25 ", b"HORIZON = 24 "),
    ],
    ids=["class weights", "lease", "turns of lanes", "horizon"],
)
def test_a_script_that_differs_is_noticed(client: redis.Redis, part: bytes, broken: bytes) -> None:
    assert load_script().count(part) == 1
    script = SyncScript(client, load_script().replace(part, broken))
    assert any(first_difference(script, seed, 400) for seed in range(60))


def test_large_group_is_spaced_equally(script: SyncScript) -> None:
    """Three rounds of calls, after which most members have nothing waiting."""
    scheduler, replies = GroupScheduler(), []
    for seq in range(1, 4):
        for number in range(40):
            flows = [demand(100 if seq == 1 else 50 * (number % 8 == 0), f"app-{number}")]
            sent = a_call(f"m{number}", seq, demand=flows, limits=[5 * MS, 2, -1, -1, -1])
            clock = seq * 30 * MS + number * MS
            replies.append(script.sync(sent, clock))
            assert replies[-1] == scheduler.sync(sent, clock)
    assert {reply["spacing"] for reply in replies} > {21 * MS, 40 * 21 * MS / 16}
    assert sum(len(reply["grants"]) for reply in replies) >= 8


def test_first_registration_brings_clients_and_their_slots(script: SyncScript) -> None:
    """As after the server has restarted empty; random traces rarely try this."""
    call = a_call(
        clients=[["app", 1.0, -1, -1, -1, 2]], clients_version=1,
        slots=[2, [["gpt", 2]], [["app", 2]]], demand=[demand(1)],
    )  # fmt: skip
    reply = script.sync(call, 0)
    assert reply == GroupScheduler().sync(call, 0)
    assert (reply["grants"], reply["waiting"]) == ([], 1)


def test_long_running_group_restarts_its_time(script: SyncScript) -> None:
    scheduler = GroupScheduler()
    clock, limits = 2**51 - SECOND, [SECOND // 10, 2, -1, -1, -1]
    for seq in range(1, 60):
        call = a_call(
            seq=seq,
            elapsed=50 * MS,
            limits=limits,
            demand=[demand(30)] if seq == 1 else [],
            news=[["pause", "gpt", 3 * SECOND]] if seq == 15 else [],
        )
        clock += 50 * MS
        assert script.sync(call, clock) == scheduler.sync(call, clock), seq
    assert clock > 2**51 + SECOND


@pytest.mark.parametrize(
    ("reports", "level"),
    [
        ([[60, 10, 1, 0]], 0),
        ([[60, 10, 1, 4 * SECOND]], -4),
        ([[60, 10, 1, 10 * SECOND]], -10),
        ([[60, 10, 1, 10 * SECOND + 1]], 0),
        ([[60, -5, 500, 0]], -5),
        ([[60, -500, 500, 0]], -60),
        ([[60, 40, 500, 0], [600, 5, 1, SECOND // 2 + 1]], 40),
        ([[60, 40, 500, 0], [60, 20, 490, SECOND // 2]], 10),
        ([[600, -500, 500, 0], [60, 50, 501, 0]], -60),
        ([[60, 50, 495, MS], [60, 40, 490, 0], [60, 50, 500, MS]], 30),
    ],
    ids=[
        "refused", "refilled", "just fresh", "late", "left to others", "debt", "far behind",
        "overtaken", "smaller limit", "out of order",
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", [0, 1], ids=["requests", "tokens"])
def test_debts_of_a_lane_are_the_same(
    script: SyncScript, kind: int, reports: list[list[int]], level: int
) -> None:
    """See tests/core/test_group_learning.py."""
    news: list[list[Any]] = [["known", "gpt"]]
    news += [["charge", "gpt", "app", kind], ["answer", "gpt"], ["release", "app"]] * 500
    for limit, left, mark, age in reports:
        news.append(["learn", "gpt", kind, limit, left, mark, MINUTE // limit, age])
    call = a_call(news=news, demand=[demand(0)])
    reply = script.sync(call, 0)
    assert reply == GroupScheduler().sync(call, 0)
    assert reply["lanes"][0][2 + kind][1] == level


@pytest.mark.parametrize(
    ("left", "level"), [(0, -2), (11, -1), (3002, 2990), (3003, 3001)], ids=str
)
@pytest.mark.parametrize(("kind", "unit"), [(0, 1), (1, 10)], ids=["requests", "tokens"])
def test_script_and_scheduler_agree_on_requests_under_way(
    script: SyncScript, kind: int, unit: int, left: int, level: int
) -> None:
    """Two that were granted ahead, and ten unanswered."""
    scheduler, limit = GroupScheduler(), 6000 * unit
    learn = ["learn", "gpt", kind, limit, 0, 10 * unit, MINUTE // limit, 0]
    news = [["known", "gpt"], *[["charge", "gpt", "app", 10]] * 10, learn]
    call = a_call(limits=[-1] * 5, news=news, demand=[demand(9)])
    reply = script.sync(call, 0)
    assert reply == scheduler.sync(call, 0)
    assert [grant[4] for grant in reply["grants"]] == [10 * MS, 20 * MS]
    learn = ["learn", "gpt", kind, limit, left * unit, 10 * unit, MINUTE // limit, 0]
    call = a_call(seq=2, limits=[-1] * 5, news=[learn], demand=[demand(0)])
    reply = script.sync(call, 0)
    assert reply == scheduler.sync(call, 0)
    assert reply["lanes"][0][2 + kind][1] == level * unit


@pytest.mark.parametrize("used", [0, 40, 95])
@pytest.mark.parametrize("kind", [0, 1], ids=["requests", "tokens"])
def test_float_larger_than_a_learned_limit_is_owed_the_same(
    script: SyncScript, kind: int, used: int
) -> None:
    """See tests/core/test_group_learning.py."""
    scheduler, levels = GroupScheduler(), []
    learned = ["learn", "gpt", kind, 60, 30, 0, SECOND, 0]
    news = [[], [learned], [["float_used", "gpt", "app", 1]] * used, []]
    for seq, (events, held) in enumerate(zip(news, [100, 100, 100 - used, 0], strict=True), 1):
        floats = [["gpt", held, 1]] * bool(held)
        call = a_call(seq=seq, limits=[-1] * 5, news=events, float=floats, demand=[demand(0)])
        reply = script.sync(call, 0)
        assert reply == scheduler.sync(call, 0)
        levels.append(reply["lanes"][0][2 + kind][1])
    assert levels[0::3] == [0, max(-60, 30 - used)]


def test_debt_that_a_member_brings_is_the_same(script: SyncScript) -> None:
    scheduler = GroupScheduler()
    for seq, (left, level) in enumerate([(-20, -20), (-5000, -60)], start=1):
        news = [["teach", "gpt", 0, 60, left, SECOND]]
        call = a_call(seq=seq, news=news, demand=[demand(0)])
        reply = script.sync(call, 0)
        assert reply == scheduler.sync(call, 0)
        assert reply["lanes"][0][2][1] == level


def test_float_larger_than_a_new_limit_blocks_the_same_grants(script: SyncScript) -> None:
    scheduler, granted = GroupScheduler(), []
    for seq, held in enumerate([1, 1, 1, 0], start=1):
        clock, floats = seq * 40 * MS, [["gpt", held, 10]] * held
        for call in (
            a_call("one", seq, limits=[-1] * 5, float=floats),
            a_call("two", seq, limits=[25 * MS, 1, -1, -1, -1], demand=[demand(20)]),
        ):
            reply = script.sync(call, clock)
            assert reply == scheduler.sync(call, clock)
        granted.append(len(reply["grants"]))
    assert granted == [0, 0, 0, 2]


def test_server_clock_is_used(script: SyncScript) -> None:
    first = script.sync(a_call(demand=[demand(5)]))
    assert [grant[4] for grant in first["grants"]] == [0, 0]
    assert 0 < first["next"] <= SECOND // 10


def test_a_group_has_three_keys_that_expire(script: SyncScript, client: redis.Redis) -> None:
    odd = "client:{x}\n\0 é"
    script.sync(a_call("m:1", demand=[demand(5, odd, "lane *"), demand(3, "", "")]), 0)
    assert sorted(client.keys()) == sorted(key.encode() for key in script.keys)
    assert all(590 < client.ttl(key) <= 600 for key in script.keys)
    reply = script.sync(a_call("m:1", 2), SECOND)
    assert [odd in grant for grant in reply["grants"]].count(True) >= 1


def test_idle_group_keeps_no_flows(script: SyncScript, client: redis.Redis) -> None:
    script.sync(a_call(demand=[demand(1, f"client-{number}") for number in range(100)]), 0)
    assert client.hlen(script.keys[2]) > 100
    gone = [demand(0, f"client-{number}") for number in range(100)]
    assert script.sync(a_call(seq=2, demand=gone), MS)["waiting"] == 0
    assert client.exists(script.keys[2]) == 0


def test_silent_member_without_demand_does_not_read_all_flows(
    script: SyncScript, client: redis.Redis
) -> None:
    script.sync(a_call("idle"), 0)
    client.config_resetstat()
    for seq in range(1, 10):
        script.sync(a_call("busy", seq, demand=[demand(50)]), seq * 100 * MS)
    assert "cmdstat_hkeys" not in client.info("commandstats")
    script.sync(a_call("other"), 9 * 100 * MS + 201 * MS)
    assert client.info("commandstats")["cmdstat_hkeys"]["calls"] == 1


@pytest.mark.parametrize("key", [1, 2], ids=["members", "flows"])
def test_lost_key_makes_members_register_again(
    script: SyncScript, client: redis.Redis, key: int
) -> None:
    script.sync(a_call(demand=[demand(50)]), 0)
    client.delete(script.keys[key])
    assert script.sync(a_call(seq=2), MS) == {"stale": 1}
    again = script.sync(a_call("b", demand=[demand(50)]), 2 * MS)
    assert (again["waiting"], len(again["grants"])) == (48, 2)


def test_state_that_went_back_is_forgotten(script: SyncScript, client: redis.Redis) -> None:
    """As after a failover that loses the last calls."""
    script.sync(a_call(demand=[demand(50)]), 0)
    script.sync(a_call("b", demand=[demand(5)]), 0)
    before = {key: client.dump(key) for key in script.keys}
    script.sync(a_call(seq=2), MS)
    for key, value in before.items():
        assert isinstance(value, bytes)
        client.restore(key, 0, value, replace=True)
    assert script.sync(a_call(seq=3), 2 * MS) == {"stale": 1}
    assert client.keys() == [script.keys[0].encode()]
    assert script.sync(a_call("b", seq=2), 3 * MS) == {"stale": 1}
    assert script.sync(a_call("c"), 4 * MS)["members"] == 1


@pytest.mark.parametrize(
    ("key", "content"),
    [(0, b"garbage"), (0, b"\x00"), (0, b"\x94\xb1rustygate group 0\x90\x90\x90")],
    ids=["text", "number", "foreign version"],
)
def test_garbage_in_a_key_is_an_error_and_stays(
    script: SyncScript, client: redis.Redis, key: int, content: bytes
) -> None:
    client.set(script.keys[key], content)
    reply = script.sync(a_call(demand=[demand(5)]), 0)
    assert reply == {"error": DAMAGED, "detail": "another format"}
    assert client.keys() == [script.keys[key].encode()]
    assert client.get(script.keys[key]) == content


@pytest.mark.parametrize(("key", "prefix"), [(1, b"m"), (2, b"f"), (2, b"s")])
@pytest.mark.parametrize("content", [b"garbage", b"\x91\x01"], ids=["text", "list"])
def test_damaged_field_is_an_error_and_stays(
    script: SyncScript, client: redis.Redis, key: int, prefix: bytes, content: bytes
) -> None:
    script.sync(a_call(demand=[demand(50)]), 0)
    fields: Any = client.hkeys(script.keys[key])
    field = next(each for each in fields if each.startswith(prefix))
    client.hset(script.keys[key], field, content)
    before = client.hgetall(script.keys[key])
    reply = script.sync(a_call(seq=2, demand=[demand(20)], news=[["release", "app"]]), MS)
    assert reply["error"] == DAMAGED
    assert reply["detail"]
    assert client.hgetall(script.keys[key]) == before
    script.forget()
    assert script.sync(a_call("b", demand=[demand(5)]), 2 * MS)["members"] == 1


@pytest.mark.parametrize("program", SERVERS.values(), ids=SERVERS)
def test_replica_says_itself_that_it_accepts_no_writes(
    start_redis: StartRedis, program: str
) -> None:
    """A failover is followed because of that."""
    server = start_redis("replicaof 127.0.0.1 1", program=program)
    with (
        redis.Redis(port=server.port) as other,
        pytest.raises(redis.ResponseError, match=r"READONLY|read only"),
    ):
        SyncScript(other).sync(a_call(demand=[demand(5)]))


@pytest.mark.parametrize("key", [0, 1, 2], ids=["head", "members", "flows"])
def test_key_of_another_type_is_an_error_and_stays(
    script: SyncScript, client: redis.Redis, key: int
) -> None:
    client.rpush(script.keys[key], "garbage")
    reply = script.sync(a_call(demand=[demand(5)]), 0)
    assert reply["error"] == DAMAGED
    assert "wrong kind of value" in reply["detail"]
    assert client.keys() == [script.keys[key].encode()]


@pytest.mark.parametrize(
    "changed",
    [{"news": [["unknown", "gpt"]]}, {"demand": [["gpt", 1]]}, {"limits": None}],
    ids=["news", "demand", "limits"],
)
def test_malformed_call_is_an_error_and_changes_nothing(
    script: SyncScript, client: redis.Redis, changed: dict[str, Any]
) -> None:
    script.sync(a_call(demand=[demand(5)]), 0)
    before = [client.dump(key) for key in script.keys]
    # Nothing of it counts, also not what comes before the error.
    news = [["charge", "gpt", "app", 1], *changed.get("news", [])]
    assert "error" in script.sync(a_call("b", **{**changed, "news": news}), MS)
    assert [client.dump(key) for key in script.keys] == before


@pytest.mark.parametrize(
    "changed",
    [
        {"seq": 0, "ack": -1},
        {"ack": 1},
        {"elapsed": -1},
        {"limits": [0, 1, -1, -1, -1]},
        {"limits": [SECOND, -1, -1, -1, -1]},
        {"limits": [SECOND, 1, -1, -1]},
        {"demand": [["gpt", 3, "app", 1, [1], 0, 0, 0]]},
        {"demand": [["gpt", 1, "app", 0, [1], 0, 0, 0]]},
        {"demand": [["gpt", 1, "app", 1, [-1], 0, 0, 0]]},
        {"demand": [["gpt", 1, "app", 1, [], 0, 5, 0]]},
        {"demand": [["gpt", 1, "app", 1, [], 1.5, 5, 0]]},
        {"clients": [["app", 0, -1, -1, -1, -1]], "clients_version": 1},
        {"clients": [["app", 1, 0, 1, -1, -1]], "clients_version": 1},
    ],
    ids=str,
)
def test_harmful_call_is_refused_by_both(
    script: SyncScript, client: redis.Redis, changed: dict[str, Any]
) -> None:
    call = a_call(**changed)
    with pytest.raises(CallError):
        GroupScheduler().sync(call, 0)
    assert "call" in script.sync(call, 0)["error"]
    assert client.keys() == []


def test_all_parts_of_the_script_are_joined() -> None:
    assert {path.stem for path in SCRIPT_FOLDER.iterdir()} == set(SCRIPT_PARTS)
    assert all(path.read_text().count("\n") < 500 for path in SCRIPT_FOLDER.iterdir())
