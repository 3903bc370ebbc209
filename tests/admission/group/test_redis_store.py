"""The store in Redis, against real servers of each kind that is installed."""

import asyncio
import select
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from rustygate.admission.group import redis_connector, redis_store
from rustygate.admission.group.call_limit import CALL_LIMIT_S
from rustygate.admission.group.redis_protocol import ErrorReply
from rustygate.admission.group.redis_session import RedisSession
from rustygate.admission.group.redis_store import RedisStore, group_keys, load_script
from rustygate.admission.group.store import (
    StoreRefused,
    StoreUnavailable,
    StoreUnready,
    SyncFailed,
)
from rustygate.config.redis_url import parse_redis_url
from tests.conftest import StartRedis
from tests.support.certificates import Authority
from tests.support.group_calls import call as group_call
from tests.support.group_calls import demand
from tests.support.redis import (
    NO_TLS,
    NONE_INSTALLED,
    SERVERS,
    Cluster,
    RedisServer,
    Sentinel,
    has_tls,
)
from tests.support.waiting import SOON_S, soon, until, within

pytestmark = pytest.mark.skipif(not SERVERS, reason=NONE_INSTALLED)

# Counts its calls, and fails in each way that a call asks for.
SCRIPT = b"""
local call = cjson.decode(ARGV[1])
if call.fail then error('broken: ' .. call.fail) end
if call.text then return call.text end
if call.number then return 1 end
while call.spin do end
local count = redis.call('INCR', KEYS[1])
return cjson.encode({seq = call.seq, count = count, keys = KEYS, rest = ARGV[2]})
"""

GROUP = "team"
TIMEOUT = r"no answer within 100 ms"

MakeStore = Callable[..., RedisStore]


@pytest.fixture
async def make_store(_no_task_left: None) -> AsyncIterator[MakeStore]:
    """Makes stores for a URL."""
    stores: list[RedisStore] = []

    def make(url: str, script: bytes = SCRIPT, ca_file: Path | None = None) -> RedisStore:
        authority = None if ca_file is None else str(ca_file)
        stores.append(RedisStore(parse_redis_url(url), GROUP, script, authority))
        return stores[-1]

    yield make
    for store in stores:
        await store.close()


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let connections wait for a busy machine."""
    monkeypatch.setattr(redis_connector, "CONNECT_LIMIT_S", SOON_S)
    monkeypatch.setattr(redis_connector, "_LOCATE_LIMIT_S", SOON_S)
    monkeypatch.setattr(redis_store, "OPEN_LIMIT_S", SOON_S)


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server for tests that leave it as it is."""
    server = RedisServer(tmp_path_factory.mktemp("shared"))
    yield server
    server.close()


async def sync(store: RedisStore, call: dict[str, Any], limit_s: float = SOON_S) -> Any:
    """A call that waits for a busy machine, unless a limit is given."""
    return await store.sync(call, limit_s)


async def count(store: RedisStore) -> Any:
    """The number of calls so far, this one included."""
    async with soon():
        return (await sync(store, {"seq": 1}))["count"]


async def failure(
    store: RedisStore,
    kind: type[Exception] = StoreUnavailable,
    call: dict[str, Any] | None = None,
    limit_s: float = SOON_S,
) -> str:
    """The reason for which a call fails."""
    with pytest.raises(kind) as caught:
        await sync(store, call or {"seq": 1}, limit_s)
    assert type(caught.value) is kind
    return str(caught.value)


async def eventually(store: RedisStore) -> Any:
    """The first count, however many calls fail before."""
    async with soon():
        while True:
            try:
                return (await sync(store, {"seq": 1}))["count"]
            except StoreUnavailable:
                await asyncio.sleep(0.01)


# Calls.


@pytest.mark.parametrize("program", SERVERS.values(), ids=SERVERS)
async def test_call_returns_what_the_script_returns(
    make_store: MakeStore, start_redis: StartRedis, program: str
) -> None:
    store = make_store(start_redis(program=program).url)
    reply = await sync(store, {"seq": 7, "name": 'a "client", über all'})
    assert reply == {"seq": 7, "count": 1, "keys": list(group_keys(GROUP)), "rest": ""}
    assert await count(store) == 2
    assert repr(store).endswith(" group=team connected>")


def test_keys_of_a_group_have_one_hash_tag_and_a_version() -> None:
    keys = group_keys("team")
    assert all(key.startswith("rustygate:{team}:1:") for key in keys)
    assert len(set(keys)) == len(keys)


async def test_large_calls_and_replies_are_passed(
    make_store: MakeStore, shared_server: RedisServer
) -> None:
    text = "ä" * 300_000
    store = make_store(shared_server.url)
    reply = await sync(store, {"text": f'{{"text": "{text}"}}'})
    assert reply == {"text": text}


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ({"fail": "é\n"}, r"broken: "),
        ({"text": "not JSON"}, "its reply is not a JSON object"),
        ({"text": "[]"}, "its reply is not a JSON object"),
        ({"number": True}, "its reply is not a string"),
        ({"text": '{"error": "a\\nfault"}'}, r"^a\\nfault$"),
    ],
)
async def test_failure_of_the_script_is_not_an_outage(
    make_store: MakeStore, shared_server: RedisServer, call: dict[str, Any], reason: str
) -> None:
    store = make_store(shared_server.url)
    with pytest.raises(SyncFailed, match=reason) as caught:
        await sync(store, call)
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()
    assert store.connected


async def test_script_that_cannot_be_compiled_is_not_an_outage(
    make_store: MakeStore, shared_server: RedisServer
) -> None:
    store = make_store(shared_server.url, b"this is no Lua")
    assert "compiling script" in await failure(store, SyncFailed)


async def test_script_is_loaded_again_after_it_was_flushed(
    make_store: MakeStore, start_redis: StartRedis
) -> None:
    server = start_redis()
    store = make_store(server.url)
    assert await count(store) == 1
    server.command("SCRIPT FLUSH")
    assert await count(store) == 2
    server.command("FLUSHALL")
    assert await count(store) == 1


# Outages.


async def test_server_that_is_not_there_is_unavailable_until_it_is(
    make_store: MakeStore, start_redis: StartRedis
) -> None:
    server = start_redis()
    store = make_store(server.url)
    server.stop()
    assert await failure(store) == "Connection refused"
    assert repr(store).endswith(" not connected>")
    server.restart()
    assert await count(store) == 1


async def test_restart_between_two_calls_fails_neither(
    make_store: MakeStore, start_redis: StartRedis
) -> None:
    server = start_redis()
    store = make_store(server.url)
    assert await count(store) == 1
    server.restart()
    assert await count(store) == 1


async def test_idle_connection_that_the_server_closed_is_replaced(
    make_store: MakeStore, start_redis: StartRedis
) -> None:
    server = start_redis()
    store = make_store(server.url)
    await count(store)
    server.command("CLIENT KILL", "TYPE", "normal", "SKIPME", "yes")
    assert await count(store) == 2


async def test_hanging_server_fails_a_call_after_its_limit(
    make_store: MakeStore, start_redis: StartRedis
) -> None:
    server = start_redis()
    store = make_store(server.url)
    await count(store)
    server.pause()
    began = time.monotonic()
    async with within(5):
        assert await failure(store, limit_s=CALL_LIMIT_S) == TIMEOUT
    assert time.monotonic() - began >= 0.1
    assert not store.connected
    server.resume()
    # The call that timed out has run as well.
    assert await eventually(store) == 3


async def test_connection_that_takes_longer_than_a_call_is_used_by_a_later_one(
    make_store: MakeStore, start_redis: StartRedis
) -> None:
    server = start_redis("requirepass hidden")
    store = make_store(f"redis://:hidden@127.0.0.1:{server.port}")
    server.pause()
    assert await failure(store, limit_s=CALL_LIMIT_S) == TIMEOUT
    connecting = store._connecting
    assert await failure(store, limit_s=CALL_LIMIT_S) == TIMEOUT
    assert store._connecting is connecting
    server.resume()
    assert await eventually(store) == 1


async def test_connection_that_is_never_made_fails(
    make_store: MakeStore, start_redis: StartRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_connector, "CONNECT_LIMIT_S", 0.02)
    server = start_redis("requirepass hidden")
    store = make_store(f"redis://:hidden@127.0.0.1:{server.port}")
    server.pause()
    assert await failure(store) == "no answer in time"


async def test_busy_event_loop_does_not_end_a_call_that_was_answered(
    make_store: MakeStore, shared_server: RedisServer
) -> None:
    store = make_store(shared_server.url)
    before = await count(store)
    assert store._session is not None
    answered = store._session._transport.get_extra_info("socket").fileno()
    call = asyncio.create_task(sync(store, {"seq": 1}, CALL_LIMIT_S))
    await asyncio.sleep(0)
    # The loop must not run.
    time.sleep(2 * CALL_LIMIT_S)  # noqa: ASYNC251
    assert select.select([answered], [], [], SOON_S)[0]
    assert (await call)["count"] == before + 1


async def test_busy_server_is_unavailable(make_store: MakeStore, start_redis: StartRedis) -> None:
    server = start_redis("lua-time-limit 10")
    store = make_store(server.url)
    await count(store)
    with pytest.raises(StoreUnavailable, match=TIMEOUT):
        await sync(store, {"spin": True}, CALL_LIMIT_S)
    assert await failure(store, StoreUnready) == "the server is busy with another script"
    server.command("SCRIPT KILL")
    assert await eventually(store) == 2


async def test_script_that_was_killed_is_an_outage(
    make_store: MakeStore, start_redis: StartRedis
) -> None:
    server = start_redis("lua-time-limit 1")
    store = make_store(server.url)
    await count(store)
    call = asyncio.create_task(sync(store, {"spin": True}))
    await until(lambda: _accepts(server, "SCRIPT KILL"))
    with pytest.raises(StoreUnavailable, match="the script was ended from outside"):
        await call


def _accepts(server: RedisServer, *command: str) -> bool:
    with suppress(redis.ResponseError):
        server.command(*command)
        return True
    return False


@pytest.mark.parametrize("program", SERVERS.values(), ids=SERVERS)
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("maxmemory 1",), "the server has no memory left (maxmemory)"),
        (
            ("min-replicas-to-write 1",),
            "the server has too few replicas, so it accepts no writes",
        ),
        (("replicaof 127.0.0.1 1",), "the server is a replica, which cannot be written to"),
        (
            ("replicaof 127.0.0.1 1", "replica-serve-stale-data no"),
            "the server is a replica without its master",
        ),
    ],
    ids=["memory", "replicas", "replica", "stale replica"],
)
async def test_server_that_takes_no_writes_is_unavailable(
    make_store: MakeStore,
    start_redis: StartRedis,
    options: tuple[str, ...],
    reason: str,
    program: str,
) -> None:
    url = start_redis(*options, program=program).url
    assert await failure(make_store(url), StoreUnready) == reason
    # The group's own script, which catches errors and returns their text.
    store = make_store(url, load_script())
    assert await failure(store, StoreUnready, group_call("a")) == reason


@pytest.mark.parametrize("program", SERVERS.values(), ids=SERVERS)
async def test_refused_write_changes_nothing_and_is_distinguished(
    make_store: MakeStore, start_redis: StartRedis, program: str
) -> None:
    server = start_redis("user gate on >hidden ~* +@all", program=program)
    store = make_store(f"redis://gate:hidden@127.0.0.1:{server.port}", load_script())
    await sync(store, group_call("a", demand=[demand(30)]))
    before = [server.command("DUMP", key) for key in group_keys(GROUP)]
    outages = [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0", StoreUnready, "no memory left"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE", StoreUnready, "is a replica"),
        ("ACL SETUSER gate -@read", "ACL SETUSER gate +@all", StoreRefused, "lacks permissions"),
        ("ACL SETUSER gate -@write", "ACL SETUSER gate +@all", StoreRefused, "lacks permissions"),
    ]
    for begin, end, kind, reason in outages:
        server.command(*begin.split())
        for seq in (2, 3):
            assert reason in await failure(store, kind, group_call("a", seq))
        server.command(*end.split())
        assert [server.command("DUMP", key) for key in group_keys(GROUP)] == before
    assert (await sync(store, group_call("a", 2)))["waiting"] > 0


async def test_full_server_is_unavailable(make_store: MakeStore, start_redis: StartRedis) -> None:
    server = start_redis("maxclients 1")
    store, other = make_store(server.url), make_store(server.url)
    await eventually(store)
    # Redis closes the connection at once, which may lose its last words.
    with pytest.raises(StoreUnavailable) as caught:
        await sync(other, {"seq": 1})
    assert str(caught.value).partition("; ")[0] in (
        "the server has no connections left (maxclients)",
        "the connection was lost",
        "Connection reset by peer",
    )


async def test_unknown_host_is_unavailable(make_store: MakeStore) -> None:
    reason = await failure(make_store("redis://none.invalid"))
    assert reason == "no answer in time" or "not known" in reason or "name resolution" in reason


# Access.


@pytest.mark.parametrize("program", SERVERS.values(), ids=SERVERS)
@pytest.mark.parametrize(
    ("options", "credentials", "reason"),
    [
        (("requirepass hidden",), "", "the server requires a password"),
        (("requirepass hidden",), ":wrong@", "wrong user or password"),
        (("requirepass hidden",), "other:hidden@", "wrong user or password"),
        ((), ":hidden@", "REDIS_URL has a password, but the server has none set"),
        (
            ("user gate on >hidden ~* +ping",),
            "gate:hidden@",
            "its user lacks permissions that a group needs",
        ),
        (
            ("user gate on >hidden ~other +@all",),
            "gate:hidden@",
            "its user lacks permissions that a group needs",
        ),
        (
            ("user gate on >hidden ~* +@scripting",),
            "gate:hidden@",
            "its user lacks permissions that a group needs",
        ),
    ],
    ids=[
        *("no password", "wrong password", "wrong user", "password where none is"),
        *("no scripts", "no keys", "no commands"),
    ],
)
async def test_refused_access_is_distinguished(
    make_store: MakeStore,
    start_redis: StartRedis,
    program: str,
    options: tuple[str, ...],
    credentials: str,
    reason: str,
) -> None:
    server = start_redis(*options, program=program)
    store = make_store(f"redis://{credentials}127.0.0.1:{server.port}")
    assert await failure(store, StoreRefused) == reason
    assert await failure(store, StoreRefused) == reason


@pytest.mark.parametrize("credentials", ["gate:p%40ss%2F", ":hidden"])
async def test_user_and_password_are_sent(
    make_store: MakeStore, start_redis: StartRedis, credentials: str
) -> None:
    server = start_redis("requirepass hidden", "user gate on >p@ss/ ~rustygate:* +@all")
    assert await count(make_store(f"redis://{credentials}@127.0.0.1:{server.port}")) == 1


@pytest.mark.parametrize("url", ["redis://:@127.0.0.1:{}", "redis://127.0.0.1:{}?password="])
async def test_empty_password_is_none(
    make_store: MakeStore, start_redis: StartRedis, url: str
) -> None:
    assert await count(make_store(url.format(start_redis().port))) == 1


@pytest.mark.parametrize("program", SERVERS.values(), ids=SERVERS)
async def test_server_without_the_command_that_names_connections_is_used(
    make_store: MakeStore, start_redis: StartRedis, program: str
) -> None:
    server = start_redis('rename-command CLIENT ""', program=program)
    assert await count(make_store(server.url)) == 1


class _Refuses(RedisSession):
    """Answers each command with an error."""

    def __init__(self, answer: str) -> None:
        super().__init__()
        self._answer_text = answer

    async def ask(self, *command: str | bytes | int) -> Any:
        raise ErrorReply(self._answer_text)


@pytest.mark.parametrize(
    "answer",
    [
        "NOPERM this user has no permissions to run the 'client' command",
        "unknown command 'CLIENT', with args beginning with: 'SETNAME'",
        "unknown subcommand 'SETNAME'. Try CLIENT HELP.",
        "Unsupported command: CLIENT",
    ],
)
async def test_connection_needs_no_name(answer: str) -> None:
    await redis_connector._set_name(_Refuses(answer))


@pytest.mark.parametrize(
    "answer", ["NOAUTH Authentication required.", "max number of clients reached", "LOADING"]
)
async def test_other_errors_end_the_connection(answer: str) -> None:
    with pytest.raises(ErrorReply, match=answer):
        await redis_connector._set_name(_Refuses(answer))


async def test_group_is_in_the_database_of_the_url(
    make_store: MakeStore, start_redis: StartRedis
) -> None:
    server = start_redis()
    assert await count(make_store(f"{server.url}/3")) == 1
    assert server.command("EXISTS", group_keys(GROUP)[0], db=3) == 1
    assert server.command("EXISTS", group_keys(GROUP)[0]) == 0


async def test_missing_database_is_refused(
    make_store: MakeStore, shared_server: RedisServer
) -> None:
    store = make_store(f"{shared_server.url}/16")
    assert await failure(store, StoreRefused) == "the server has no such database"


@pytest.mark.parametrize("credentials", ["", "gate:hidden@"])
async def test_unix_socket(
    make_store: MakeStore, start_redis: StartRedis, tmp_path: Path, credentials: str
) -> None:
    path = tmp_path / "redis.sock"
    start_redis(f"unixsocket {path}", "user gate on >hidden ~* +@all")
    assert await count(make_store(f"unix://{credentials}{path}?db=2")) == 1


async def test_wrong_password_at_a_unix_socket_is_refused(
    make_store: MakeStore, start_redis: StartRedis, tmp_path: Path
) -> None:
    path = tmp_path / "redis.sock"
    start_redis(f"unixsocket {path}", "requirepass hidden")
    store = make_store(f"unix://:wrong@{path}")
    assert await failure(store, StoreRefused) == "wrong user or password"
    store = make_store(f"unix://:hidden@{path}?db=99")
    assert await failure(store, StoreRefused) == "the server has no such database"


async def test_missing_unix_socket_is_unavailable(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(f"unix://{tmp_path}/none.sock")
    assert await failure(store) == "No such file or directory"


# TLS.

WITH_TLS = {name: program for name, program in SERVERS.items() if has_tls(program)}
needs_tls = pytest.mark.skipif(not WITH_TLS, reason=NO_TLS)


@pytest.fixture
def tls_server(start_redis: StartRedis, authority: Authority) -> RedisServer:
    """A server that only speaks TLS."""
    issued = authority.issue("127.0.0.1")
    return start_redis(
        f"tls-cert-file {issued['TLS_CERT_FILE']}",
        f"tls-key-file {issued['TLS_KEY_FILE']}",
        f"tls-ca-cert-file {authority.file}",
        "tls-auth-clients no",
        program=next(iter(WITH_TLS.values())),
        plain_port=False,
    )


@needs_tls
async def test_tls_with_a_private_authority(
    make_store: MakeStore, tls_server: RedisServer, authority: Authority
) -> None:
    url = f"rediss://127.0.0.1:{tls_server.port}"
    store = make_store(url, ca_file=authority.file)
    assert await eventually(store) == 1
    assert await count(store) == 2


@needs_tls
async def test_certificate_of_an_unknown_authority_is_not_accepted(
    make_store: MakeStore, tls_server: RedisServer
) -> None:
    store = make_store(f"rediss://127.0.0.1:{tls_server.port}")
    reason = await failure(store)
    assert reason.startswith("TLS failed: certificate verify failed: ")


@needs_tls
async def test_certificate_for_another_name_is_not_accepted(
    make_store: MakeStore, tls_server: RedisServer, authority: Authority
) -> None:
    store = make_store(f"rediss://localhost:{tls_server.port}", ca_file=authority.file)
    reason = await failure(store)
    assert reason.startswith("TLS failed: certificate verify failed: ")


async def test_connections_share_the_authorities(
    make_store: MakeStore, authority: Authority
) -> None:
    one, other = (make_store("rediss://redis", ca_file=authority.file) for _ in range(2))
    assert one._connector._tls is other._connector._tls is not None
    assert make_store("rediss://redis")._connector._tls is not one._connector._tls


async def test_tls_at_a_server_without_it_is_unavailable(
    make_store: MakeStore, shared_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It waits for the end of a line.
    monkeypatch.setattr(redis_connector, "CONNECT_LIMIT_S", 0.1)
    store = make_store(f"rediss://127.0.0.1:{shared_server.port}")
    expected = "no answer in time; if the server has no TLS, use redis://"
    assert await failure(store) == expected


@needs_tls
async def test_plain_connection_to_a_server_with_tls_is_unavailable(
    make_store: MakeStore, tls_server: RedisServer
) -> None:
    store = make_store(f"redis://127.0.0.1:{tls_server.port}")
    reason, _, hint = (await failure(store)).partition("; ")
    assert reason in ("the connection was lost", "Connection reset by peer")
    assert hint == "if the server requires TLS, use rediss://"


# Sentinel.


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[Callable[..., Sentinel]]:
    """Starts sentinels of a master."""
    started: list[Sentinel] = []

    def start(master: RedisServer, *options: str) -> Sentinel:
        started.append(Sentinel(tmp_path / f"sentinel{len(started)}", master, *options))
        return started[-1]

    yield start
    for sentinel in started:
        sentinel.close()


async def test_sentinel_names_the_server(
    make_store: MakeStore, start_redis: StartRedis, sentinels: Callable[..., Sentinel]
) -> None:
    master = start_redis("requirepass hidden")
    sentinel = sentinels(master, "sentinel auth-pass main hidden", "requirepass second")
    url = (
        f"redis+sentinel://:hidden@127.0.0.1:1,127.0.0.1:{sentinel.port}/main/2"
        "?sentinel_password=second"
    )
    assert await count(make_store(url)) == 1
    assert master.command("EXISTS", group_keys(GROUP)[0], db=2, password="hidden") == 1


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("other", StoreUnavailable, "the sentinels know no master with that name"),
        ("main?sentinel_password=wrong", StoreRefused, "wrong user or password"),
    ],
)
async def test_sentinel_that_names_no_server(
    make_store: MakeStore,
    start_redis: StartRedis,
    sentinels: Callable[..., Sentinel],
    name: str,
    kind: type[StoreUnavailable],
    reason: str,
) -> None:
    sentinel = sentinels(start_redis(), "requirepass second")
    name = name if "?" in name else f"{name}?sentinel_password=second"
    store = make_store(f"redis+sentinel://127.0.0.1:{sentinel.port}/{name}")
    assert await failure(store, kind) == reason


async def test_server_that_is_no_sentinel_is_refused(
    make_store: MakeStore, shared_server: RedisServer
) -> None:
    store = make_store(f"redis+sentinel://127.0.0.1:{shared_server.port}/main")
    assert await failure(store, StoreRefused) == "the server is of another kind"


async def test_failover_is_followed(
    make_store: MakeStore, start_redis: StartRedis, sentinels: Callable[..., Sentinel]
) -> None:
    master = start_redis()
    replica = start_redis(f"replicaof 127.0.0.1 {master.port}")
    await until(lambda: replica.command("INFO", "replication")["master_link_status"] == "up")
    sentinel = sentinels(master)
    store = make_store(f"redis+sentinel://127.0.0.1:{sentinel.port}/main")
    assert await count(store) == 1
    await until(lambda: replica.command("EXISTS", group_keys(GROUP)[0]) == 1)
    master.stop()
    await until(lambda: replica.command("ROLE")[0] == b"master")
    assert await eventually(store) == 2
    assert replica.command("EXISTS", group_keys(GROUP)[0]) == 1


# Cluster.


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of three masters."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.close()


async def test_cluster_node_with_the_keys_is_found(
    make_store: MakeStore, cluster: Cluster
) -> None:
    store = make_store(cluster.url)
    before = await count(store)
    assert await count(store) == before + 1
    owner = cluster.owner(group_keys(GROUP)[0])
    assert owner.command("EXISTS", group_keys(GROUP)[0]) == 1


async def test_keys_that_move_to_another_node_are_followed(
    make_store: MakeStore, cluster: Cluster
) -> None:
    store = make_store(cluster.url)
    await count(store)
    key = group_keys(GROUP)[0]
    owner = cluster.owner(key)
    owner.command("FLUSHALL")
    cluster.move(key)
    assert await eventually(store) == 1
    assert cluster.owner(key) is not owner


async def test_first_node_of_a_cluster_may_be_away(
    make_store: MakeStore, cluster: Cluster
) -> None:
    port = cluster.nodes[1].port
    assert await count(make_store(f"redis+cluster://127.0.0.1:1,127.0.0.1:{port}")) >= 1


async def test_node_of_a_cluster_as_a_single_server_is_refused(
    make_store: MakeStore, cluster: Cluster
) -> None:
    owner = cluster.owner(group_keys(GROUP)[0])
    other = next(node for node in cluster.nodes if node is not owner)
    reason = await failure(make_store(other.url), StoreRefused)
    assert reason == "the server belongs to a cluster: use REDIS_URL=redis+cluster://..."


async def test_single_server_as_a_cluster_is_refused(
    make_store: MakeStore, shared_server: RedisServer
) -> None:
    store = make_store(f"redis+cluster://127.0.0.1:{shared_server.port}")
    reason = await failure(store, StoreRefused)
    assert reason == "the server belongs to no cluster: REDIS_URL=redis://..."


# Opening, closing, and secrets.


async def test_opened_store_is_connected_before_the_first_call(
    make_store: MakeStore, shared_server: RedisServer
) -> None:
    store = make_store(shared_server.url)
    await store.open()
    assert store.connected


async def test_store_without_a_server_is_opened_in_vain(
    make_store: MakeStore, start_redis: StartRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_redis("requirepass hidden")
    store = make_store(f"redis://:hidden@127.0.0.1:{server.port}")
    server.pause()
    monkeypatch.setattr(redis_store, "OPEN_LIMIT_S", 0.02)
    await store.open()
    assert not store.connected
    server.resume()
    assert await count(store) == 1
    store = make_store("redis://127.0.0.1:1")
    await store.open()
    assert not store.connected


async def test_store_can_be_closed_while_it_connects(
    make_store: MakeStore, start_redis: StartRedis
) -> None:
    server = start_redis("requirepass hidden")
    store = make_store(f"redis://:hidden@127.0.0.1:{server.port}")
    server.pause()
    await failure(store, limit_s=CALL_LIMIT_S)
    assert store._connecting is not None
    await store.close()
    assert store._connecting is None


async def test_closed_store_does_not_wait_for_a_server_that_hangs(
    make_store: MakeStore, start_redis: StartRedis
) -> None:
    server = start_redis()
    store = make_store(server.url)
    await count(store)
    session = store._session
    assert session is not None
    server.pause()
    # More than the kernel buffers.
    session._transport.write(bytes(32 << 20))
    async with soon():
        await store.close()
        await session.wait_closed()
    server.resume()


async def test_two_that_wait_for_a_connection_get_the_same_one(
    make_store: MakeStore, shared_server: RedisServer
) -> None:
    store = make_store(shared_server.url)
    one, other = await asyncio.gather(*(store._connect(SOON_S) for _ in range(2)))
    assert one is other
    assert store._connecting is None


async def test_cancelled_call_leaves_no_reply_for_the_next_one(
    make_store: MakeStore, shared_server: RedisServer
) -> None:
    store = make_store(shared_server.url)
    await count(store)
    call = asyncio.create_task(sync(store, {"seq": 77}))
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.wait((call,))
    assert (await sync(store, {"seq": 78}))["seq"] == 78


async def test_no_error_and_no_repr_has_user_or_password(
    make_store: MakeStore, start_redis: StartRedis
) -> None:
    server = start_redis("user canary-user on >canary-password ~none +@all")
    url = f"redis://canary-user:canary-password@127.0.0.1:{server.port}"
    store = make_store(url)
    with pytest.raises(StoreRefused) as caught:
        await sync(store, {})
    shown = [repr(store), repr(store._session), repr(store._connector)]
    error: BaseException | None = caught.value
    while error is not None:
        shown.append(f"{error!r} {error}")
        error = error.__cause__ or error.__context__
    assert "canary" not in " ".join(shown)
