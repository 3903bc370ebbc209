"""Every fault of a client or upstream, and how its exchanges end."""

import asyncio
import json
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
)
from contextlib import asynccontextmanager
from typing import Any

from tests.support.client import Client
from tests.support.fault_stage import FIRST, NARROW_KEY, Endings, Ends, Stage
from tests.support.http import (
    CLIENT_KEY,
    CONTINUE,
    EVENT_STREAM,
    LAST_CHUNK,
    Response,
    chunk,
    post,
    request,
    response,
    response_head,
)
from tests.support.upstream import Call
from tests.support.waiting import in_background
from tests.support.wire import Wire

MULTIPART = "Content-Type: multipart/form-data; boundary=x"
JSON = "Content-Type: application/json"
SECOND = b"data: second\n\n"

# Far more than fits between upstream and a client that does not read.
FLOOD = b"data: x\n\n" * (1 << 20)

Leaving = Callable[[Wire], None]


def close(wire: Wire) -> None:
    """As a process that ends."""
    wire.transport.abort()


WAYS: tuple[Leaving, ...] = (close, Wire.reset, Wire.half_close)


# Faults.


class Act:
    """A fault that happens: who asks and who is asked, for a target of its own."""

    def __init__(self, stage: Stage, target: str) -> None:
        self.stage = stage
        self.target = target

    @property
    def body(self) -> bytes:
        """Of a model of its own: what pauses its lane holds up nobody else."""
        return json.dumps({"model": self.target, "stream": True}).encode()

    async def asks(self) -> Client:
        return await self.stage.send(post(self.body, target=self.target))

    async def asks_narrowly(self, *lines: str) -> Client:
        data = post(self.body, "X-RustyGate-Priority: batch", *lines, target=self.target)
        return await self.stage.send(data.replace(CLIENT_KEY.encode(), NARROW_KEY.encode()))

    async def begins_a_body(self, length: str) -> Client:
        """The gate waits for the body."""
        data = request("POST", self.target, JSON, "Expect: 100-continue", length)
        client = await self.stage.send(data)
        assert (await client.head()).raw == CONTINUE
        return client

    async def uploads(self, first: bytes) -> tuple[Client, Call]:
        """A part of a body that is not held has come upstream."""
        head = request("POST", self.target, MULTIPART, "Content-Length: 1000")
        client = await self.stage.send(head, first)
        call = await self.call()
        await call.expect_body(first)
        return client, call

    async def streams(self, head: bytes = EVENT_STREAM) -> tuple[Client, Call]:
        """The first event has come down."""
        client = await self.asks()
        call = await self.asked()
        call.send(head, chunk(FIRST) if b"chunked" in head else FIRST)
        await client.head()
        await client.expect_body(FIRST)
        return client, call

    async def is_served(self) -> None:
        client = await self.asks()
        await (await self.call()).respond(response(b"whole"))
        assert (await client.response()).body == b"whole"

    async def call(self) -> Call:
        return await self.stage.call(self.target)

    async def asked(self) -> Call:
        """The next call, read."""
        call = await self.call()
        await call.read_rest()
        return call

    @asynccontextmanager
    async def each(self, does: Callable[[Call], object]) -> AsyncIterator[None]:
        """Upstream does so with each call in_background."""

        async def play() -> None:
            while True:
                does(await self.asked())

        async with in_background(play()):
            yield


Fault = Callable[[Act], Coroutine[Any, Any, None]]
# Each fault, and how its exchanges end.
FAULTS: dict[Fault, Endings] = {}

# These befall whoever has no connection upstream yet: they come one at a time.
EXCLUSIVE: dict[Fault, Endings] = {}


def ends(
    outcome: str,
    status: int | None = None,
    reason: str | None = None,
    attempts: int = 1,
    times: int = 1,
    among: dict[Fault, Endings] = FAULTS,
) -> Callable[[Fault], Fault]:
    """A fault whose exchanges end so; several of these add up."""

    def note(fault: Fault) -> Fault:
        among.setdefault(fault, Counter())[Ends(outcome, status, reason, attempts)] += times
        return fault

    return note


def is_no_exchange(fault: Fault) -> Fault:
    FAULTS[fault] = Counter()
    return fault


def is_refused(got: Response, status: int, reason: str) -> None:
    assert (got.status, got.reason) == (status, reason)


# Upstream's, before its head.


@ends("upstream_error", 502, "upstream_unreachable", 3, among=EXCLUSIVE)
async def upstream_refuses(act: Act) -> None:
    async with act.stage.upstream.refusing():
        is_refused(await (await act.asks()).response(), 502, "upstream_unreachable")


@ends("upstream_error", 502, "upstream_disconnected", among=EXCLUSIVE)
async def upstream_breaks_connections_at_once(act: Act) -> None:
    act.stage.upstream.breaks = True
    is_refused(await (await act.asks()).response(), 502, "upstream_disconnected")
    act.stage.upstream.breaks = False


@ends("upstream_error", 502, "upstream_disconnected")
async def upstream_resets_in_an_upload(act: Act) -> None:
    client, call = await act.uploads(b"half")
    call.reset()
    is_refused(await client.response(), 502, "upstream_disconnected")


@ends("upstream_error", 502, "upstream_disconnected")
async def upstream_resets_before_its_head(act: Act) -> None:
    async with act.each(Call.reset):
        is_refused(await (await act.asks()).response(), 502, "upstream_disconnected")


@ends("upstream_error", 502, "upstream_disconnected")
async def upstream_closes_before_its_head(act: Act) -> None:
    async with act.each(Call.close):
        is_refused(await (await act.asks()).response(), 502, "upstream_disconnected")


@ends("ok", 200, attempts=2)
async def upstream_resets_and_recovers(act: Act) -> None:
    """One attempt fails, the next one does not."""
    client = await act.stage.send(request("PUT", act.target, JSON, body=act.body))
    call = await act.asked()
    call.reset()
    # If it was a kept one, it is asked again at once, which does not count.
    again = await act.asked()
    if len([each for each in act.stage.upstream.calls if each.wire is call.wire]) > 1:
        again.reset()
        again = await act.asked()
    await again.respond(response(b"whole"))
    assert (await client.response()).body == b"whole"


@ends("upstream_error", 504, "upstream_timeout")
async def upstream_stalls_before_its_head(act: Act) -> None:
    client = await act.asks()
    call = await act.asked()
    is_refused(await client.response(), 504, "upstream_timeout")
    await call.ended()


@ends("upstream_error", 502, "upstream_disconnected", times=2)
async def upstream_leaves_in_its_head(act: Act) -> None:
    for leave in (Call.reset, Call.close):
        client = await act.asks()
        call = await act.asked()
        call.send(b"HTTP/1.1 200 OK\r\nX-")
        leave(call)
        is_refused(await client.response(), 502, "upstream_disconnected")


@ends("upstream_error", 504, "upstream_timeout")
async def upstream_stalls_in_its_head(act: Act) -> None:
    client = await act.asks()
    call = await act.asked()
    call.send(b"HTTP/1.1 200 OK\r\nX-")
    is_refused(await client.response(), 504, "upstream_timeout")
    await call.ended()


@ends("upstream_error", 502, "upstream_disconnected")
async def upstream_sends_garbage(act: Act) -> None:
    client = await act.asks()
    call = await act.asked()
    call.send(b"\x16\x03\x01\x02\x00\x01nonsense\r\n\r\n")
    is_refused(await client.response(), 502, "upstream_disconnected")
    await call.ended()


# Upstream's, in its body.


@ends("upstream_error", 502, "upstream_disconnected", times=2)
async def upstream_leaves_after_its_head(act: Act) -> None:
    for leave in (Call.reset, Call.close):
        client = await act.asks()
        call = await act.asked()
        call.send(EVENT_STREAM)
        leave(call)
        is_refused(await client.response(), 502, "upstream_disconnected")


@ends("aborted", 200, "upstream_timeout")
async def upstream_stalls_after_its_head(act: Act) -> None:
    client = await act.asks()
    (await act.asked()).send(EVENT_STREAM)
    assert (await client.head()).status == 200
    assert b"upstream_timeout" in await client.read_until_cut()


@ends("aborted", 200, "upstream_disconnected", times=2)
async def upstream_leaves_between_events(act: Act) -> None:
    for leave in (Call.reset, Call.close):
        client, call = await act.streams()
        leave(call)
        assert b"upstream_disconnected" in await client.read_until_cut()


@ends("aborted", 200, "upstream_disconnected", times=2)
async def upstream_leaves_in_an_event(act: Act) -> None:
    for leave in (Call.reset, Call.close):
        client, call = await act.streams()
        call.send(chunk(SECOND[:-3]))
        await client.expect_body(SECOND[:-3])
        leave(call)
        assert await client.read_until_cut() == b""


@ends("aborted", 200, "upstream_timeout")
async def upstream_stalls_in_its_body(act: Act) -> None:
    client, call = await act.streams()
    assert b"upstream_timeout" in await client.read_until_cut()
    await call.ended()


@ends("aborted", 200, "upstream_disconnected")
async def upstream_sends_garbage_for_a_chunk(act: Act) -> None:
    client, call = await act.streams()
    call.send(b"nonsense\r\n")
    await client.read_until_cut()
    await call.ended()


@ends("aborted", 200, "upstream_disconnected")
async def upstream_sends_less_than_it_said(act: Act) -> None:
    client, call = await act.streams(response_head(JSON, "Content-Length: 100"))
    call.close()
    assert await client.read_until_cut() == b""


@ends("ok", 200)
async def upstream_sends_more_than_it_said(act: Act) -> None:
    """Nobody is answered with what is too much."""
    client = await act.asks()
    call = await act.asked()
    call.send(response(b"whole"), response(b"too much"))
    assert (await client.response()).body == b"whole"
    await call.ended()


@ends("ok", 200)
async def upstream_drips(act: Act) -> None:
    client = await act.asks()
    call = await act.asked()
    for byte in EVENT_STREAM + chunk(FIRST) + LAST_CHUNK:
        await call.wire.send_all(bytes([byte]))
        await asyncio.sleep(0)
    call.done.set()
    assert (await client.response()).body == FIRST


# Upstream's, by its own word.


@ends("ok", 500, times=3)
@ends("ok", 502, times=3)
@ends("ok", 503, times=3)
@ends("ok", 504, times=3)
async def upstream_fails_again_and_again(act: Act) -> None:
    for status in (500, 502, 503, 504) * 3:
        client = await act.asks()
        await (await act.call()).respond(response(b"{}", status=f"{status} No"))
        got = await client.response()
        assert (got.status, got.reason) == (status, None)


def too_many(code: str, *lines: str, status: str = "429 Too Many Requests") -> bytes:
    body = json.dumps({"error": {"code": code}}).encode()
    return response(body, JSON, *lines, status=status)


@ends("ok", 200, attempts=5)
async def upstream_has_no_room(act: Act) -> None:
    client = await act.asks()
    for _ in range(4):
        await (await act.call()).respond(too_many("rate_limit_exceeded", "retry-after-ms: 20"))
    await (await act.call()).respond(response(b"whole"))
    assert (await client.response()).body == b"whole"


@ends("ok", 429, times=2)
async def upstream_has_no_room_for_long(act: Act) -> None:
    for told in (
        too_many("insufficient_quota"),
        too_many("rate_limit_exceeded", "Retry-After: 60"),
    ):
        client = await act.asks()
        await (await act.call()).respond(told)
        assert (await client.response()).status == 429


@ends("ok", 200, attempts=3)
async def upstream_is_overloaded_for_a_while(act: Act) -> None:
    client = await act.asks()
    status = "503 Service Unavailable"
    told = too_many("server_is_overloaded", "retry-after-ms: 20", status=status)
    await (await act.call()).respond(told)
    await (await act.call()).respond(too_many("slow_down", "retry-after-ms: 20"))
    await (await act.call()).respond(response(b"whole"))
    assert (await client.response()).body == b"whole"


@ends("ok", 413)
async def upstream_has_enough_of_an_upload(act: Act) -> None:
    client, call = await act.uploads(b"half")
    call.send(response(b"enough", "Connection: close", status="413 Content Too Large"))
    call.close()
    assert (await client.response()).body == b"enough"


# The client's.


@is_no_exchange
async def client_leaves_in_its_head(act: Act) -> None:
    for leave in WAYS:
        client = await act.stage.send(post(act.body, target=act.target)[:50])
        leave(client.wire)


@is_no_exchange
async def client_sends_garbage(act: Act) -> None:
    is_refused(
        await (await act.stage.send(b"\x16\x03\x01\r\n\r\n")).response(), 400, "bad_request"
    )


@ends("client_left", attempts=0, times=3)
async def client_leaves_in_its_body(act: Act) -> None:
    for leave in WAYS:
        client = await act.begins_a_body("Content-Length: 1000")
        client.send(b"{")
        leave(client.wire)


@ends("client_left", times=3)
async def client_leaves_in_an_upload(act: Act) -> None:
    for leave in WAYS:
        client, call = await act.uploads(b"half")
        leave(client.wire)
        await call.ended()


@ends("refused", 413, "body_too_large", attempts=0)
@ends("refused", 400, "bad_request", attempts=0)
async def client_sends_a_body_that_will_not_do(act: Act) -> None:
    large = request("POST", act.target, JSON, "Content-Length: 200000")
    is_refused(await (await act.stage.send(large)).response(), 413, "body_too_large")
    client = await act.begins_a_body("Transfer-Encoding: chunked")
    client.send(b"nonsense\r\n")
    is_refused(await client.response(), 400, "bad_request")


@ends("client_left", attempts=0, times=3)
@ends("refused", 429, "queue_timeout", attempts=0)
@ends("ok", 200, times=2)
async def client_leaves_the_queue(act: Act) -> None:
    """One has its turn, and the last one gets it after."""
    holder = await act.asks_narrowly()
    call = await act.asked()
    waiters = [await act.asks_narrowly() for _ in range(4)]
    await act.stage.waits(4)
    impatient = await act.asks_narrowly("x-stainless-read-timeout: 0.2")
    is_refused(await impatient.response(), 429, "queue_timeout")
    for leave, waiter in zip(WAYS, waiters[:3], strict=True):
        leave(waiter.wire)
    await act.stage.waits(1)
    await call.respond(response(b"first"))
    assert (await holder.response()).body == b"first"
    await (await act.call()).respond(response(b"last"))
    assert (await waiters[3].response()).body == b"last"


@ends("client_left", times=3)
async def client_leaves_before_its_answer(act: Act) -> None:
    for leave in WAYS:
        client = await act.asks()
        call = await act.asked()
        leave(client.wire)
        await call.ended()


@ends("client_left", 200, times=3)
async def client_leaves_in_its_answer(act: Act) -> None:
    for leave in WAYS:
        client, call = await act.streams()
        leave(client.wire)
        await call.ended()


async def _stalls(act: Act) -> tuple[Client, Call]:
    """The client reads no more of what upstream goes on sending."""
    client, call = await act.streams()
    client.wire.pause_reading()
    call.send(chunk(FLOOD))
    return client, call


@ends("client_left", 200, times=2)
async def client_stalls_and_leaves(act: Act) -> None:
    for leave in (close, Wire.reset):
        client, call = await _stalls(act)
        leave(client.wire)
        await call.ended()


@ends("ok", 200)
async def client_stalls_and_goes_on(act: Act) -> None:
    client, call = await _stalls(act)
    client.wire.resume_reading()
    call.send(LAST_CHUNK)
    assert await client.read_rest() == FLOOD
    call.done.set()
