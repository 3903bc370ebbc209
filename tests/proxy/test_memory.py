"""Memory: what an exchange takes is had again when it is over, and at once."""

import gc
import json
import tracemalloc
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

import rustygate
from rustygate.aiohttp_internals.client import UpstreamConnection
from tests.conftest import StartGate
from tests.support.client import Client
from tests.support.gate import Gate
from tests.support.http import EVENT_STREAM, LAST_CHUNK, chat, chunk, get, post, response
from tests.support.upstream import Upstream
from tests.support.waiting import until

USAGE = b'{"usage": {"prompt_tokens": 11, "completion_tokens": 7}}'
JSON = "Content-Type: application/json"
STREAM = EVENT_STREAM + chunk(b"data: x\n\n") + LAST_CHUNK

# As many as bring about all that is remembered, and as many as would show a leak.
AT_FIRST, MORE = 250, 300


def made_up(number: int) -> bytes:
    """By a client and for a model that nobody heard of before."""
    body = json.dumps({"model": f"model-{number}", "user": f"user-{number}"}).encode()
    return post(body, f"X-RustyGate-Client: client-{number}")


Ask = Callable[[int], bytes]

ASKED: dict[str, tuple[Ask, bytes]] = {
    "answered": (lambda _: chat(), response(USAGE, JSON)),
    "streamed": (lambda _: chat(stream=True), STREAM),
    "refused": (lambda _: get("/nothing"), b""),
    "made up": (made_up, response(status="404 Not Found")),
}
each = pytest.mark.parametrize(("ask", "reply"), ASKED.values(), ids=ASKED)


async def asks(client: Client, ask: Ask, numbers: range) -> None:
    for number in numbers:
        await client.request(ask(number))
        client.wire.discard_read()


async def held_by_the_gate(running: Gate, upstream: Upstream, exchanges: int) -> int:
    """Bytes that our code has taken and not given back when so many exchanges have settled; the
    tests' own records are let go."""
    await until(lambda: len(running.log.exchanges) >= exchanges)
    running.log.exchanges.clear()
    upstream.calls.clear()
    gc.collect()
    code = str(Path(rustygate.__file__).parent / "*")
    taken = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, code)])
    return sum(trace.size for trace in taken.traces)


@each
async def test_exchanges_that_are_over_hold_no_memory(
    gate: StartGate, upstream: Upstream, ask: Ask, reply: bytes
) -> None:
    upstream.reply = reply
    running = await gate()
    client = await running.connect()
    tracemalloc.start()
    try:
        await asks(client, ask, range(AT_FIRST))
        before = await held_by_the_gate(running, upstream, AT_FIRST)
        await asks(client, ask, range(AT_FIRST, AT_FIRST + MORE))
        assert await held_by_the_gate(running, upstream, MORE) - before < 10 * MORE
    finally:
        tracemalloc.stop()


async def test_answer_that_nobody_reads_any_more_waits_for_no_collection(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate()
    client = await running.send(chat(stream=True))
    call = await upstream.call()
    call.send(EVENT_STREAM, chunk(b"data: x\n\n"))
    await client.head()
    gc.collect()
    [wire] = [
        weakref.ref(each) for each in gc.get_objects() if isinstance(each, UpstreamConnection)
    ]
    gc.disable()
    try:
        client.disconnect()
        await call.ended()
        await until(lambda: wire() is None)
    finally:
        gc.enable()


@each
async def test_exchanges_that_are_over_wait_for_no_collection(
    gate: StartGate, upstream: Upstream, ask: Ask, reply: bytes
) -> None:
    """Collections are seldom, for an exchange leaves nothing to be collected."""
    upstream.reply = reply
    client = await (await gate()).connect()
    await asks(client, ask, range(1))
    gc.collect()
    gc.disable()
    try:
        await asks(client, ask, range(1, 101))
        found = gc.collect()
    finally:
        gc.enable()
    assert found < 100
