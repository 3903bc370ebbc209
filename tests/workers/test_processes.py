"""A gate with three workers, as processes: whatever happens to one, the gate is one gate."""

import asyncio
import json
import os
import signal
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from rustygate.core.clients import hash_key
from tests.conftest import Start
from tests.support.certificates import Authority
from tests.support.client import Client
from tests.support.dashboard import page_request
from tests.support.http import (
    CLIENT_KEY,
    LAST_CHUNK,
    UPSTREAM_KEY,
    chat,
    chunk,
    get,
    request,
    response,
)
from tests.support.process import PROCESS_TIMEOUT_S, children_of
from tests.support.upstream import Call, Upstream
from tests.support.waiting import soon, until, until_refused, within
from tests.support.worker_gate import (
    WORKERS,
    WorkerGate,
    as_json,
    is_alive,
    worker_gate,
)

# The documented time after which others have what a dead or stopped worker held is 1.5 s; a busy
# machine needs longer.
TAKEN_OVER_S = 5

USAGE = json.dumps({"usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}})

OK_WITH_USAGE = response(USAGE.encode(), "Content-Type: application/json")


async def finish(client: Client, call: Call) -> None:
    """Let a stream end well."""
    call.send(chunk(b"data: [DONE]\n\n"), LAST_CHUNK)
    call.done.set()
    assert await client.read_rest() == b"data: [DONE]\n\n"


async def waiting(gate: WorkerGate, pid: int, waiters: int) -> Client:
    """A request that waits in the queue, through a certain worker."""
    client = await gate.connect(pid)
    client.send(chat())
    await gate.until_state(waiting=waiters)
    return client


async def key_is_known(client: Client, key: str) -> bool:
    data = chat().replace(CLIENT_KEY.encode(), key.encode())
    answered = await client.request(data)
    assert answered.status in (200, 401)
    return answered.status == 200


async def usage_of(name: str, client: Client) -> dict[str, Any]:
    rows = (await client.request(page_request("/gate/usage?by=client"))).json
    [row] = [row for row in rows if row["client"] == name]
    return dict(row)


def clients_file(path: Path, **keys: str) -> None:
    path.write_text(
        "".join(f'[client.{name}]\nkey_sha256 = "{hash_key(key)}"\n' for name, key in keys.items())
    )


def make_unusable(*paths: str) -> None:
    for path in paths:
        Path(path).write_text("neither a certificate nor a key")


def check_processes_show_no_key(gate: WorkerGate) -> None:
    """The supervisor was given it in its environment, and its workers by it."""
    shown = [Path(f"/proc/{pid}/environ") for pid in gate.pids]
    shown += [Path(f"/proc/{pid}/cmdline") for pid in (gate.process.pid, *gate.pids)]
    for path in shown:
        assert UPSTREAM_KEY.encode() not in path.read_bytes()


async def test_three_workers_are_one_gate(upstream: Upstream, tmp_path: Path) -> None:
    """They share what is shown, log whole lines, and show no key."""
    upstream.reply = OK_WITH_USAGE
    async with worker_gate(upstream, tmp_path, LOG_FORMAT="json") as gate:
        clients = await gate.connect_to_each()
        check_processes_show_no_key(gate)
        sent = 0
        for client in clients * 3:
            for number in range(20):
                path = f"/v1/chat/completions?{number}{'x' * 1000}"
                client.send(chat().replace(b"/v1/chat/completions", path.encode()))
            sent += 20
        for client in clients * 3:
            for _ in range(20):
                assert (await client.response()).status == 200
        await gate.until_state(in_flight=0)
        await gate.until_logged('"message":"exchange"', sent)
        exchanges = [line for line in as_json(gate.log) if line["message"] == "exchange"]
        assert len({line["id"] for line in exchanges}) == len(exchanges) == sent
        assert len({line["id"].partition("-")[0] for line in exchanges}) == WORKERS

        for path in ("/ready", "/gate/usage?by=model"):
            answers = [(await client.request(page_request(path))).body for client in clients]
            assert answers == [answers[0]] * WORKERS
        assert json.loads(answers[0])[0]["exchanges"] == sent
        states = [(await client.request(page_request("/gate/state"))).json for client in clients]
        for state in states:
            assert [each["state"] for each in state["workers"]] == ["serving"] * WORKERS
            assert [each["pid"] for each in state["workers"]] == gate.pids
            assert {each["id"] for each in state["recent"]} == {
                each["id"] for each in states[0]["recent"]
            }
        for client in clients:
            text = (await client.request(page_request("/metrics"))).body.decode()
            counts = [line for line in text.splitlines() if 'outcome="ok"' in line]
            assert sum(float(line.rpartition(" ")[2]) for line in counts) >= sent
            client.send(page_request("/gate/events"))
            assert (await client.head()).status == 200
            event = await client.read_some()
            assert f'"pid":{gate.pids[0]}'.encode() in event.replace(b" ", b"")
        gate.signal(signal.SIGTERM)
        assert await gate.ended() == 0
        as_json(gate.log)


async def test_limits_hold_over_all_workers(upstream: Upstream, tmp_path: Path) -> None:
    async with worker_gate(upstream, tmp_path, CONCURRENCY_LIMIT=2, QUEUE_LIMIT=3) as gate:
        clients = [client for _ in range(2) for client in await gate.connect_to_each()]
        for client in clients[:5]:
            client.send(chat())
        await gate.until_state(in_flight=2, waiting=3)
        refused = await clients[5].request(chat())
        assert (refused.status, refused.reason) == (429, "queue_full")
        for done in range(5):
            call = await upstream.call()
            assert len(upstream.calls) <= 2 + done
            await call.respond(response())
        responses = [await client.response() for client in clients[:5]]
        assert [(each.status, each.reason) for each in responses] == [(200, None)] * 5
        await gate.until_state(in_flight=0, waiting=0)


async def test_killed_worker_costs_only_its_own_connections(
    upstream: Upstream, tmp_path: Path
) -> None:
    async with worker_gate(upstream, tmp_path, CONCURRENCY_LIMIT=2) as gate:
        dying, other, third = gate.pids
        cut, cut_call = await gate.stream(dying)
        kept, kept_call = await gate.stream(other)
        waiter = await waiting(gate, third, waiters=1)
        os.kill(dying, signal.SIGKILL)
        async with within(TAKEN_OVER_S):
            await (await upstream.call()).respond(response())
        assert (await waiter.response()).status == 200
        assert await cut.read_until_cut() == b""
        await cut_call.ended()
        await finish(kept, kept_call)
        end = rf"ERROR .*worker 1 \(pid {dying}\) was killed by SIGKILL, (.*) cut off"
        assert await gate.until_logged(end) == ["1 exchange"]
        [line] = [line for line in gate.log.splitlines() if "outcome=aborted" in line]
        assert "reason=internal_error" in line
        await until(lambda: len(gate.pids) == WORKERS and dying not in gate.pids)
        await gate.until_state(in_flight=0, waiting=0)
        [replaced] = set(gate.pids) - {other, third}
        client = await gate.connect(replaced)
        client.send(chat())
        await (await upstream.call()).respond(response())
        assert (await client.response()).status == 200

        # SIGTERM drains one worker alone.
        stream, call = await gate.stream(other)
        os.kill(other, signal.SIGTERM)
        idle = await gate.connect(third)
        assert (await idle.request(get("/ready"))).json == {"status": "ready"}
        await finish(stream, call)
        assert await stream.ended() == "closed"
        await gate.until_logged(rf"INFO .*\(pid {other}\) has drained, 0 exchanges cut off")
        await until(lambda: len(gate.pids) == WORKERS and other not in gate.pids)
        assert third in gate.pids


async def test_gate_drains_on_the_first_signal_and_stops_on_the_second(
    upstream: Upstream, tmp_path: Path
) -> None:
    async with worker_gate(upstream, tmp_path, CONCURRENCY_LIMIT=2) as gate:
        pids = gate.pids
        first, first_call = await gate.stream(pids[0])
        second, _ = await gate.stream(pids[1])
        waiter = await waiting(gate, pids[2], waiters=1)
        # Of a worker that goes on while it has a stream.
        idle = await gate.connect(pids[0])
        gate.signal(signal.SIGTERM)
        refused = await waiter.response()
        assert (refused.status, refused.reason) == (503, "draining")
        assert (await idle.request(get("/ready"))).status == 503
        await until_refused(gate.url)
        await finish(first, first_call)
        assert is_alive(pids[1])
        gate.signal(signal.SIGTERM)
        await second.read_until_cut()
        assert await gate.ended() == 0
        await until(lambda: not any(map(is_alive, pids)))
        assert "ERROR" not in gate.log
        assert "draining: 2 exchanges left" in gate.log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_signal_to_all_processes_while_they_start_ends_the_gate_cleanly(
    upstream: Upstream, tmp_path: Path, number: signal.Signals
) -> None:
    """As a terminal sends it, or `timeout`."""
    async with worker_gate(upstream, tmp_path, starts=False) as gate:
        await until(lambda: len(gate.pids) == WORKERS, 60)
        for pid in (*gate.pids, gate.process.pid):
            os.kill(pid, number)
        assert await gate.ended() == 0
        assert " ERROR " not in gate.log


async def test_workers_end_with_their_supervisor(upstream: Upstream, tmp_path: Path) -> None:
    """What is in flight may finish."""
    async with worker_gate(upstream, tmp_path, CONCURRENCY_LIMIT=1) as gate:
        pids = gate.pids
        stream, call = await gate.stream(pids[0])
        waiter = await waiting(gate, pids[1], waiters=1)
        gate.signal(signal.SIGKILL)
        refused = await waiter.response()
        assert (refused.status, refused.reason) == (503, "draining")
        await until(lambda: not is_alive(pids[2]))
        call.send(chunk(b"data: second\n\n"))
        await stream.expect_body(b"data: second\n\n")
        await until_refused(gate.url)
        await finish(stream, call)
        await gate.ended()
        await until(lambda: not any(map(is_alive, pids)))
        assert gate.log.count("the supervisor has ended: this worker drains") == WORKERS


async def test_reload_reaches_all_workers_and_those_that_come_later(
    upstream: Upstream, tmp_path: Path, authority: Authority
) -> None:
    upstream.reply = response()
    old, new, bad = "rg-key-of-the-old-client", "rg-key-of-the-new-client", "rg-key-of-a-bad-file"
    path = tmp_path / "clients.toml"
    clients_file(path, old=old)
    tls = authority.client_context()
    settings: dict[str, Any] = {"CLIENTS_FILE": path, **authority.issue("127.0.0.1")}
    async with worker_gate(upstream, tmp_path, **settings) as gate:

        async def until_known(keys: dict[str, bool]) -> None:
            """Wait until each worker knows some of these keys and not the others."""
            async with soon():
                for client in await gate.connect_to_each(tls=tls):
                    while {key: await key_is_known(client, key) for key in keys} != keys:
                        pass

        async def certificates() -> set[str]:
            clients = await gate.connect_to_each(tls=tls)
            shown = [each.wire.transport.get_extra_info("ssl_object") for each in clients]
            return {each.getpeercert()["serialNumber"] for each in shown}

        await until_known({old: True, new: False})
        [before] = await certificates()
        clients_file(path, new=new)
        authority.issue("127.0.0.1")
        gate.signal(signal.SIGHUP)
        await gate.until_logged("TLS certificate reloaded")
        # A worker may read what it was told a moment after the log has said so.
        await until_known({old: False, new: True})
        async with soon():
            while before in (shown := await certificates()):
                pass
        assert len(shown) == 1

        path.write_text(f"[client.bad]\nkey_sha256 = '{hash_key(bad)}'\nmistake = 1\n")
        gate.signal(signal.SIGHUP)
        await gate.until_logged("TLS certificate reloaded", 2)
        assert gate.log.count("previous clients stay in force") == 1
        make_unusable(settings["TLS_CERT_FILE"], settings["TLS_KEY_FILE"])
        dead = gate.pids[0]
        os.kill(dead, signal.SIGKILL)
        await until(lambda: len(gate.pids) == WORKERS and dead not in gate.pids)
        await until_known({bad: False, new: True})
        assert await certificates() == shown
        assert len(await gate.until_logged("ERROR", 2)) == 2


async def test_data_and_budgets_are_shared_and_survive_a_restart(
    upstream: Upstream, tmp_path: Path
) -> None:
    upstream.reply = OK_WITH_USAGE
    path, key = tmp_path / "clients.toml", "rg-key-of-a-limited-client"
    path.write_text(
        f'[client.limited]\nkey_sha256 = "{hash_key(key)}"\ntokens_per_day = 48\n'
        f'[client.free]\nkey_sha256 = "{hash_key(CLIENT_KEY)}"\n'
    )
    settings: dict[str, Any] = {
        "CLIENTS_FILE": path,
        "DATA_DIR": tmp_path / "data",
        "RATE_LIMIT": 0.001,
        "RATE_LIMIT_BURST": 8,
        "RATE_LIMIT_TIMEOUT": 1,
    }
    body = json.dumps({"model": "m", "messages": [], "max_tokens": 5}).encode()
    limited = request(
        "POST", "/v1/chat/completions", "Content-Type: application/json", body=body
    ).replace(CLIENT_KEY.encode(), key.encode())
    async with worker_gate(upstream, tmp_path, **settings) as gate:
        clients = await gate.connect_to_each()
        left = [await client.request(limited) for client in clients]
        assert [each.status for each in left] == [200] * WORKERS
        shown = [each.head["x-rustygate-budget-remaining"] for each in left]
        assert len(set(shown)) == WORKERS
        await gate.until_state(in_flight=0)
        refused = 0
        for client in (clients * 2)[:4]:
            answer = await client.request(limited)
            refused += (answer.status, answer.reason) == (429, "budget_exceeded")
            # What it cost is known once its worker has said so.
            await gate.until_state(in_flight=0)
        assert refused == 3
        gate.signal(signal.SIGTERM)
        assert await gate.ended() == 0
    async with worker_gate(upstream, tmp_path, **settings) as gate:
        clients = await gate.connect_to_each()
        for number, client in enumerate(clients):
            # The last exchange of another worker may be counted a moment after its response.
            async with asyncio.timeout(PROCESS_TIMEOUT_S):
                row = await usage_of("limited", client)
                while row["exchanges"] < 7 + number:
                    row = await usage_of("limited", client)
            assert (row["exchanges"], row["refused"]) == (7 + number, 3 + number)
            assert row["tokens_out"] == 4 * 5
            assert (await client.request(limited)).reason == "budget_exceeded"
        # Of the burst of 8, four are left.
        statuses = [(await client.request(chat())).status for client in (clients * 2)[:5]]
        assert statuses == [200] * 4 + [429]


async def test_unix_socket_belongs_to_the_supervisor(upstream: Upstream, tmp_path: Path) -> None:
    upstream.reply = response()
    path = tmp_path / "gate.sock"
    async with worker_gate(upstream, tmp_path, BIND_ADDRESS=f"unix:{path}") as gate:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert (await (await gate.connect()).request(chat())).status == 200
        os.kill(gate.pids[0], signal.SIGTERM)
        await gate.until_logged("has drained")
        assert path.exists()
        gate.signal(signal.SIGTERM)
        assert await gate.ended() == 0
    assert not path.exists()


def test_inherited_socket_is_shared_and_stays_open(start: Start, upstream: Upstream) -> None:
    with socket.create_server(("127.0.0.1", 0)) as inherited:
        port = inherited.getsockname()[1]
        process = start(
            sockets=[inherited], OPENAI_API_KEY=UPSTREAM_KEY, WORKERS="3", RUST_LOG="info"
        )
        assert process.listening_url() == f"http://127.0.0.1:{port}"
        pids = children_of(process.pid)
        assert len(pids) == WORKERS
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(get("/health"))
            assert client.recv(15) == b"HTTP/1.1 200 OK"
        process.signal()
        assert process.exit_code() == 0
        assert not any(map(is_alive, pids))
        with socket.create_connection(("127.0.0.1", port)):
            pass


# Ends each process of a worker as it starts, if a file says so.
_ENDS_AT_ONCE = """
import os, sys
if "rustygate.workers" in sys.orig_argv and os.path.exists({path!r}):
    os._exit(7)
"""


async def test_workers_that_end_at_once_are_replaced_after_growing_delays(
    upstream: Upstream, tmp_path: Path
) -> None:
    flag, directory = tmp_path / "flag", tmp_path / "site"
    directory.mkdir()
    (directory / "sitecustomize.py").write_text(_ENDS_AT_ONCE.format(path=str(flag)))
    path = f"{directory}{os.pathsep}{Path(__file__).parents[2]}"
    flag.touch()
    async with worker_gate(upstream, tmp_path, starts=False, PYTHONPATH=path) as gate:
        assert await gate.ended() == 1
        last = gate.log.splitlines()[-1]
        assert last.startswith("rustygate: ")
        assert "the workers did not start" in last
        assert "ended with exit code 7" in gate.log
    flag.unlink()
    async with worker_gate(upstream, tmp_path, PYTHONPATH=path) as gate:
        flag.touch()
        os.kill(gate.pids[0], signal.SIGKILL)
        ends = r"another starts in ([\d.]+) s"
        assert (await gate.until_logged(ends, 4))[:4] == ["0.1", "0.2", "0.4", "0.8"]
        assert (await (await gate.connect()).request(get("/ready"))).status == 200
        flag.unlink()
        await until(lambda: len(gate.pids) == WORKERS)
