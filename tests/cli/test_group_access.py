"""The Redis of a group as `check` and `serve` find it."""

import re
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.cli.processes import SECRET, get, serve
from tests.conftest import Start, StartRedis
from tests.support.process import PROCESS_TIMEOUT_S, ROOT
from tests.support.redis import SERVERS, Cluster, RedisServer, Sentinel

USER, PASSWORD = "canary-user-51c7", "canary-password-a90e"
REFUSED = "expected a Redis or Valkey that serves this gate"


def check(start: Start, url: str, **environ: str) -> tuple[int, str, str]:
    return start("check", OPENAI_API_KEY=SECRET, REDIS_URL=url, **environ).ended()


def found(stdout: str, group: str = "rustygate") -> str:
    """What `check` says of the group's Redis."""
    _, heading, rest = stdout.partition(f"\n# Group {group}:\n# - ")
    assert heading
    return rest.partition("\n#\n# OK\n")[0]


def until_found(start: Start, url: str, expected: str) -> None:
    """Check until this is found: a busy machine may hold up servers and members for longer than
    they are waited for."""
    end = time.monotonic() + PROCESS_TIMEOUT_S
    while expected not in (shown := check(start, url)[1]):
        assert time.monotonic() < end, shown


@pytest.mark.parametrize("kind", SERVERS)
def test_check_says_what_it_found(start: Start, start_redis: StartRedis, kind: str) -> None:
    server = start_redis(program=SERVERS[kind])
    code, stdout, stderr = check(start, server.url, GATE_GROUP="team")
    assert (code, stderr) == (0, "")
    product = "Valkey" if kind == "valkey" else "Redis"
    line = found(stdout, "team")
    server_and_latency = rf"{product} \d+\.\d+\.\d+, standalone; a call takes \d+\.\d\d ms"
    assert re.fullmatch(rf"{server_and_latency}\n# - 0 members", line)
    assert f"\nREDIS_URL={server.url}  # environment\n" in stdout
    assert "\nGATE_GROUP=team  # environment\n" in stdout


def test_check_counts_the_members(start: Start, start_redis: StartRedis) -> None:
    server = start_redis()
    gates = [serve(start, REDIS_URL=server.url, RUST_LOG="info") for _ in range(2)]
    for gate in gates:
        gate.wait_for_line(gate.stderr, "joined group rustygate")
    until_found(start, server.url, "\n# - 2 members\n")
    gates[0].signal()
    assert gates[0].ended()[0] == 0
    until_found(start, server.url, "\n# - 1 member\n")


def test_check_leaves_nothing_behind(start: Start, start_redis: StartRedis) -> None:
    server = start_redis()
    assert check(start, server.url)[0] == 0
    assert server.command("DBSIZE") == 0


def test_check_finds_the_servers_of_sentinels_and_clusters(
    start: Start, start_redis: StartRedis, tmp_path: Path
) -> None:
    master = start_redis()
    sentinel = Sentinel(tmp_path / "sentinel", master)
    cluster = Cluster(tmp_path / "cluster")
    try:
        sentinels = f"redis+sentinel://127.0.0.1:{sentinel.port}/main"
        until_found(start, sentinels, ", standalone; a call takes ")
        until_found(start, cluster.url, ", cluster; a call takes ")
        code, _, stderr = check(start, sentinel.url)
        assert code == 2
        assert "(the server is a sentinel: REDIS_URL=redis+sentinel://host:26379/name" in stderr
    finally:
        sentinel.close()
        cluster.close()


DOCUMENTED = re.search(
    r"^ *ACL SETUSER (\S+) on >(\S+) (.*)$", (ROOT / "docs/many-gates.md").read_text(), re.M
)


@pytest.mark.parametrize("kind", SERVERS)
def test_documented_user_is_allowed_enough(
    start: Start, start_redis: StartRedis, kind: str
) -> None:
    assert DOCUMENTED
    user, password, rules = DOCUMENTED.groups()
    server = start_redis(f"user {user} on >{password} {rules}", program=SERVERS[kind])
    code, stdout, _ = check(start, f"redis://{user}:{password}@127.0.0.1:{server.port}/1")
    assert code == 0
    assert found(stdout)


@pytest.mark.parametrize("kind", SERVERS)
def test_documented_user_can_join_a_group(
    start: Start, start_redis: StartRedis, kind: str
) -> None:
    assert DOCUMENTED
    user, password, rules = DOCUMENTED.groups()
    server = start_redis(f"user {user} on >{password} {rules}", program=SERVERS[kind])
    url = f"redis://{user}:{password}@127.0.0.1:{server.port}"
    gate = serve(start, REDIS_URL=url, RUST_LOG="info")
    gate.wait_for_line(gate.stderr, "joined group rustygate")


def test_documented_user_needs_one_more_rule_in_a_cluster(start: Start, tmp_path: Path) -> None:
    assert DOCUMENTED
    user, password, rules = DOCUMENTED.groups()
    cluster = Cluster(tmp_path / "cluster")
    url = cluster.url.replace("//", f"//{user}:{password}@")
    try:
        for more, expected in ("", 2), (" +cluster|slots", 0):
            for node in cluster.nodes:
                given = f"{user} on >{password} {rules}{more}".split()
                node.command("ACL SETUSER", *given)
            assert check(start, url)[0] == expected
    finally:
        cluster.close()


def with_password(start_redis: StartRedis) -> RedisServer:
    return start_redis(f"requirepass {PASSWORD}")


@pytest.mark.parametrize("command", ["check", "serve"])
def test_wrong_password_is_bad_configuration(
    start: Start, start_redis: StartRedis, command: str
) -> None:
    url = f"redis://{USER}:{PASSWORD}@127.0.0.1:{with_password(start_redis).port}"
    process = start(command, OPENAI_API_KEY=SECRET, REDIS_URL=url, PORT="0", RUST_LOG="trace")
    code, stdout, stderr = process.ended()
    shown = url.replace(f"{USER}:{PASSWORD}", "********")
    assert (code, stderr) == (
        2,
        f"rustygate: REDIS_URL={shown}: {REFUSED} (wrong user or password)\n",
    )
    assert "canary" not in stdout


@pytest.mark.parametrize("command", ["check", "serve"])
@pytest.mark.parametrize("kind", SERVERS)
def test_missing_password_is_told_apart_from_a_wrong_one(
    start: Start, start_redis: StartRedis, command: str, kind: str
) -> None:
    server = start_redis(f"requirepass {PASSWORD}", program=SERVERS[kind])
    process = start(command, OPENAI_API_KEY=SECRET, REDIS_URL=server.url, PORT="0")
    code, _, stderr = process.ended()
    assert (code, stderr) == (
        2,
        f"rustygate: REDIS_URL={server.url}: {REFUSED} (the server requires a password)\n",
    )


def test_check_fails_without_the_server(start: Start) -> None:
    code, stdout, stderr = check(start, f"redis://:{PASSWORD}@127.0.0.1:1")
    assert code == 2
    assert stderr == (
        f"rustygate: REDIS_URL=redis://********@127.0.0.1:1: {REFUSED} (Connection refused)\n"
    )
    assert "\n# OK" not in stdout
    assert "canary" not in stdout


def test_check_gives_up_on_a_silent_server(start: Start, start_redis: StartRedis) -> None:
    server = start_redis()
    server.pause()
    code, _, stderr = check(start, server.url)
    assert code == 2
    assert "(no answer in time)" in stderr


def test_check_says_that_the_server_does_not_speak_the_redis_protocol(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_answer_as_a_web_server, args=(listener,)).start()
        code, _, stderr = check(start, f"redis://127.0.0.1:{listener.getsockname()[1]}")
    assert code == 2
    assert "(the server does not speak the Redis protocol)" in stderr


def _answer_as_a_web_server(listener: socket.socket) -> None:
    client, _ = listener.accept()
    with client:
        client.recv(1000)
        client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        client.recv(1000)


@pytest.mark.parametrize("url", [f"redis://{USER}:{PASSWORD}@127.0.0.1:1", "hanging"])
def test_gate_starts_without_its_redis_and_never_shows_the_password(
    start: Start, start_redis: StartRedis, url: str
) -> None:
    if url == "hanging":
        server = with_password(start_redis)
        server.pause()
        url = f"redis://{USER}:{PASSWORD}@127.0.0.1:{server.port}"
    gate = serve(start, REDIS_URL=url, RUST_LOG="trace", PYTHONASYNCIODEBUG="1")
    assert get(gate.listening_url(), "/ready")[0] == 200
    gate.signal()
    code, stdout, stderr = gate.ended()
    assert code == 0
    assert "canary" not in stdout + stderr


def test_demo_is_in_no_group(start: Start, start_redis: StartRedis) -> None:
    """A demo has its own quota, whatever the environment says."""
    server = with_password(start_redis)
    url = f"redis://{USER}:wrong@127.0.0.1:{server.port}"
    demo = start("demo", REDIS_URL=url, PORT="0", RUST_LOG="info")
    demo.listening_url()
    demo.signal()
    assert demo.ended()[0] == 0
