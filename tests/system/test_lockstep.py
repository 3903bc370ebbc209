"""Exchanges that continue in the same turn of the event loop write one right after another."""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from rustygate.aiohttp_internals.response import RawResponse
from rustygate.relay import pipe
from rustygate.running import RunningExchanges
from rustygate.system.lockstep import Lockstep
from rustygate.upstream.client import UpstreamClient
from tests.conftest import StartGate
from tests.support.gate import one_process
from tests.support.http import get, response
from tests.support.upstream import Upstream

CLIENTS = 5

Method = tuple[object, str]


# The lockstep itself.


async def in_lockstep(*names: str, lockstep: Lockstep) -> list[str]:
    """What connections do whose data arrives in the same turn."""
    did: list[str] = []

    async def act(name: str) -> None:
        lockstep.arrive(name)
        did.append(f"{name} continues")
        if lockstep.has_others:
            await lockstep.wait_for_others()
        did.append(f"{name} writes")

    for name in names:
        lockstep.expect(name)
    await asyncio.gather(*map(act, names))
    return did


async def test_writes_follow_each_other_in_their_order() -> None:
    lockstep = Lockstep()
    for _ in range(2):
        assert await in_lockstep("a", "b", "c", lockstep=lockstep) == [
            *("a continues", "b continues", "c continues"),
            *("a writes", "b writes", "c writes"),
        ]
        assert not lockstep.has_others


async def test_connection_alone_writes_at_once() -> None:
    lockstep = Lockstep()
    lockstep.expect("a")
    lockstep.arrive("a")
    assert not lockstep.has_others


async def test_connection_that_ended_is_not_waited_for() -> None:
    lockstep = Lockstep()
    lockstep.expect("a")
    lockstep.expect("gone")
    assert repr(lockstep) == "<Lockstep 2 expected>"
    lockstep.arrive("gone")
    lockstep.arrive("a")
    lockstep.arrive("a")
    assert not lockstep.has_others


async def test_no_write_overtakes_those_that_wait() -> None:
    lockstep, did = Lockstep(), list[str]()

    async def write(name: str) -> None:
        if lockstep.has_others:
            await lockstep.wait_for_others()
        did.append(name)

    async def first() -> None:
        await lockstep.wait_for_others()
        did.append("first")
        # Before the second one, which waits too.
        await write("third")

    await asyncio.gather(first(), write("second"))
    assert did == ["first", "second", "third"]


async def test_cancelled_write_holds_up_no_later_one() -> None:
    lockstep = Lockstep()
    waiting = asyncio.create_task(lockstep.wait_for_others())
    await asyncio.sleep(0)
    assert lockstep.has_others
    waiting.cancel()
    await asyncio.wait((waiting,))
    assert not lockstep.has_others


# In the gate.


@pytest.fixture
async def on_unix_socket(gate: StartGate, upstream: Upstream, tmp_path: Path) -> StartGate:
    """Gates through whose sockets data arrives at once."""
    upstream.reply = response(b"body")
    return partial(gate, BIND_ADDRESS=f"unix:{tmp_path / 'gate.sock'}")


def record_calls(
    monkeypatch: pytest.MonkeyPatch, calls: list[str], owner: object, name: str
) -> None:
    as_usual: Callable[..., object] = getattr(owner, name)

    def recorded(*arguments: object) -> object:
        calls.append(name)
        return as_usual(*arguments)

    monkeypatch.setattr(owner, name, recorded)


@one_process
@pytest.mark.parametrize(
    ("step", "write"),
    [
        ((RunningExchanges, "begin"), (UpstreamClient, "send")),
        ((pipe, "_stamp"), (RawResponse, "send")),
    ],
    ids=["requests", "responses"],
)
async def test_what_arrives_together_is_handled_before_any_of_it_is_sent(
    on_unix_socket: StartGate, monkeypatch: pytest.MonkeyPatch, step: Method, write: Method
) -> None:
    gate = await on_unix_socket()
    clients = await gate.idle_clients(CLIENTS)
    calls: list[str] = []
    record_calls(monkeypatch, calls, *step)
    record_calls(monkeypatch, calls, *write)
    for client in clients:
        client.send(get())
    for client in clients:
        assert (await client.response()).body == b"body"
    assert calls == [step[1]] * CLIENTS + [write[1]] * CLIENTS


@one_process
async def test_request_on_its_own_waits_for_no_other(
    on_unix_socket: StartGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = await on_unix_socket()
    (client,) = await gate.idle_clients(1)
    calls: list[str] = []
    record_calls(monkeypatch, calls, Lockstep, "wait_for_others")
    assert (await client.request(get())).body == b"body"
    # Two requests on one connection are handled one after the other.
    client.send(get(), get())
    assert (await client.response()).body == (await client.response()).body == b"body"
    assert calls == []


@one_process
async def test_pipelined_request_holds_up_no_other_client(
    on_unix_socket: StartGate, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = await on_unix_socket()
    pipelining, other = await gate.idle_clients(2)
    calls: list[str] = []
    record_calls(monkeypatch, calls, Lockstep, "wait_for_others")
    upstream.reply = None
    pipelining.send(get())
    call = await upstream.call()
    pipelining.send(get())
    upstream.reply = response(b"body")
    assert (await other.request(get())).body == b"body"
    await call.respond(response(b"body"))
    for _ in range(2):
        assert (await pipelining.response()).body == b"body"
    assert calls == []


@one_process
async def test_response_that_arrives_in_parts_holds_up_no_other_client(
    on_unix_socket: StartGate, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = await on_unix_socket()
    slow, other = await gate.idle_clients(2)
    calls: list[str] = []
    record_calls(monkeypatch, calls, Lockstep, "wait_for_others")
    upstream.reply = None
    slow.send(get())
    call = await upstream.call()
    upstream.reply = response(b"body")
    call.send(b"HTTP/1.1 200 OK\r\n")
    assert (await other.request(get())).body == b"body"
    call.send(b"Content-Length: 4\r\n\r\nbo")
    await slow.head()
    await slow.expect_body(b"bo")
    call.send(b"d")
    await slow.expect_body(b"d")
    assert (await other.request(get())).body == b"body"
    await call.respond(b"y")
    await slow.expect_body(b"y")
    assert calls == []


@one_process
async def test_client_that_leaves_while_its_request_waits_for_others_leaves_its_units(
    on_unix_socket: StartGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = await on_unix_socket(RATE_LIMIT="0.001", RATE_LIMIT_BURST="1")
    leaving = await gate.connect()
    with monkeypatch.context() as patched:
        patched.setattr(Lockstep, "has_others", True)
        patched.setattr(Lockstep, "wait_for_others", lambda _: asyncio.sleep(3600))
        leaving.send(get())
        await gate.wait_until(in_flight=1)
        leaving.disconnect()
        await gate.wait_until(in_flight=0)
    assert (await (await gate.connect()).request(get())).status == 200
