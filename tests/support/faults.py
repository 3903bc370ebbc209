"""Every fault of a client or upstream, with the outcome of its exchanges."""

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
from tests.support.fault_testbed import FIRST, LIMITED_KEY, FaultTestbed, Outcome, Outcomes
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

# Far more than fits into the buffers between upstream and a client that does not read.
FLOOD = b"data: x\n\n" * (1 << 20)

Disconnect = Callable[[Wire], None]


DISCONNECTS: tuple[Disconnect, ...] = (Wire.abort, Wire.reset, Wire.half_close)


# Faults.


class Scenario:
    """A fault in action: its requests and calls, for a target of its own."""

    def __init__(self, testbed: FaultTestbed, target: str) -> None:
        self.testbed = testbed
        self.target = target

    @property
    def body(self) -> bytes:
        """A request for a model of its own, so that pausing its lane delays no other scenario."""
        return json.dumps({"model": self.target, "stream": True}).encode()

    async def send(self) -> Client:
        return await self.testbed.send(post(self.body, target=self.target))

    async def send_limited(self, *lines: str) -> Client:
        data = post(self.body, "X-RustyGate-Priority: batch", *lines, target=self.target)
        return await self.testbed.send(data.replace(CLIENT_KEY.encode(), LIMITED_KEY.encode()))

    async def start_body(self, length: str) -> Client:
        """Send a head; the gate then waits for the body."""
        data = request("POST", self.target, JSON, "Expect: 100-continue", length)
        client = await self.testbed.send(data)
        assert (await client.head()).raw == CONTINUE
        return client

    async def start_upload(self, first: bytes) -> tuple[Client, Call]:
        """Start an upload that is not buffered, with `first` received by upstream."""
        head = request("POST", self.target, MULTIPART, "Content-Length: 20000")
        client = await self.testbed.send(head, first)
        call = await self.call()
        await call.expect_body(first)
        return client, call

    async def start_stream(self, head: bytes = EVENT_STREAM) -> tuple[Client, Call]:
        """Start a stream, with the first event received by the client."""
        client = await self.send()
        call = await self.read_call()
        call.send(head, chunk(FIRST) if b"chunked" in head else FIRST)
        await client.head()
        await client.expect_body(FIRST)
        return client, call

    async def check_served(self) -> None:
        client = await self.send()
        await (await self.call()).respond(response(b"whole"))
        assert (await client.response()).body == b"whole"

    async def call(self) -> Call:
        return await self.testbed.call(self.target)

    async def read_call(self) -> Call:
        """The next call, with its body read."""
        call = await self.call()
        await call.read_rest()
        return call

    @asynccontextmanager
    async def handle_calls(self, handle: Callable[[Call], object]) -> AsyncIterator[None]:
        """Handle every call in this way while the block runs."""

        async def loop() -> None:
            while True:
                handle(await self.read_call())

        async with in_background(loop()):
            yield


Fault = Callable[[Scenario], Coroutine[Any, Any, None]]

# Each fault, with the outcomes of its exchanges.
FAULTS: dict[Fault, Outcomes] = {}

# These affect every exchange without an upstream connection, so they run one at a time.
EXCLUSIVE_FAULTS: dict[Fault, Outcomes] = {}


def ends_with(
    outcome: str,
    status: int | None = None,
    reason: str | None = None,
    attempts: int = 1,
    times: int = 1,
    faults: dict[Fault, Outcomes] = FAULTS,
) -> Callable[[Fault], Fault]:
    """Registers a fault with the outcome of its exchanges; several add up."""

    def register(fault: Fault) -> Fault:
        faults.setdefault(fault, Counter())[Outcome(outcome, status, reason, attempts)] += times
        return fault

    return register


def no_exchange(fault: Fault) -> Fault:
    FAULTS[fault] = Counter()
    return fault


def check_refusal(received: Response, status: int, reason: str) -> None:
    assert (received.status, received.reason) == (status, reason)


# Upstream, before the response head.


@ends_with("upstream_error", 502, "upstream_unreachable", faults=EXCLUSIVE_FAULTS)
async def upstream_refuses(scenario: Scenario) -> None:
    async with scenario.testbed.upstream.refusing():
        check_refusal(await (await scenario.send()).response(), 502, "upstream_unreachable")


@ends_with("upstream_error", 502, "upstream_disconnected", faults=EXCLUSIVE_FAULTS)
async def upstream_closes_connections_at_once(scenario: Scenario) -> None:
    scenario.testbed.upstream.closes_connections = True
    check_refusal(await (await scenario.send()).response(), 502, "upstream_disconnected")
    scenario.testbed.upstream.closes_connections = False


@ends_with("upstream_error", 502, "upstream_disconnected")
async def upstream_resets_in_an_upload(scenario: Scenario) -> None:
    client, call = await scenario.start_upload(b"half")
    call.reset()
    check_refusal(await client.response(), 502, "upstream_disconnected")


@ends_with("upstream_error", 502, "upstream_disconnected")
async def upstream_resets_before_its_head(scenario: Scenario) -> None:
    async with scenario.handle_calls(Call.reset):
        check_refusal(await (await scenario.send()).response(), 502, "upstream_disconnected")


@ends_with("upstream_error", 502, "upstream_disconnected")
async def upstream_closes_before_its_head(scenario: Scenario) -> None:
    async with scenario.handle_calls(Call.close):
        check_refusal(await (await scenario.send()).response(), 502, "upstream_disconnected")


@ends_with("ok", 200, attempts=2)
async def upstream_resets_and_recovers(scenario: Scenario) -> None:
    """One attempt fails, the next one succeeds."""
    client = await scenario.testbed.send(request("PUT", scenario.target, JSON, body=scenario.body))
    call = await scenario.read_call()
    call.reset()
    # On a reused connection the gate sends again at once, which is not another attempt.
    again = await scenario.read_call()
    if len([each for each in scenario.testbed.upstream.calls if each.wire is call.wire]) > 1:
        again.reset()
        again = await scenario.read_call()
    await again.respond(response(b"whole"))
    assert (await client.response()).body == b"whole"


@ends_with("upstream_error", 504, "upstream_timeout")
async def upstream_stalls_before_its_head(scenario: Scenario) -> None:
    client = await scenario.send()
    call = await scenario.read_call()
    check_refusal(await client.response(), 504, "upstream_timeout")
    await call.ended()


@ends_with("upstream_error", 502, "upstream_disconnected", times=2)
async def upstream_disconnects_in_its_head(scenario: Scenario) -> None:
    for disconnect in (Call.reset, Call.close):
        client = await scenario.send()
        call = await scenario.read_call()
        call.send(b"HTTP/1.1 200 OK\r\nX-")
        disconnect(call)
        check_refusal(await client.response(), 502, "upstream_disconnected")


@ends_with("upstream_error", 504, "upstream_timeout")
async def upstream_stalls_in_its_head(scenario: Scenario) -> None:
    client = await scenario.send()
    call = await scenario.read_call()
    call.send(b"HTTP/1.1 200 OK\r\nX-")
    check_refusal(await client.response(), 504, "upstream_timeout")
    await call.ended()


@ends_with("upstream_error", 502, "upstream_disconnected")
async def upstream_sends_garbage(scenario: Scenario) -> None:
    client = await scenario.send()
    call = await scenario.read_call()
    call.send(b"\x16\x03\x01\x02\x00\x01nonsense\r\n\r\n")
    check_refusal(await client.response(), 502, "upstream_disconnected")
    await call.ended()


# Upstream, in the response body.


@ends_with("upstream_error", 502, "upstream_disconnected", times=2)
async def upstream_disconnects_after_its_head(scenario: Scenario) -> None:
    for disconnect in (Call.reset, Call.close):
        client = await scenario.send()
        call = await scenario.read_call()
        call.send(EVENT_STREAM)
        disconnect(call)
        check_refusal(await client.response(), 502, "upstream_disconnected")


@ends_with("aborted", 200, "upstream_timeout")
async def upstream_stalls_after_its_head(scenario: Scenario) -> None:
    client = await scenario.send()
    (await scenario.read_call()).send(EVENT_STREAM)
    assert (await client.head()).status == 200
    assert b"upstream_timeout" in await client.read_until_cut()


@ends_with("aborted", 200, "upstream_disconnected", times=2)
async def upstream_disconnects_between_events(scenario: Scenario) -> None:
    for disconnect in (Call.reset, Call.close):
        client, call = await scenario.start_stream()
        disconnect(call)
        assert b"upstream_disconnected" in await client.read_until_cut()


@ends_with("aborted", 200, "upstream_disconnected", times=2)
async def upstream_disconnects_in_an_event(scenario: Scenario) -> None:
    for disconnect in (Call.reset, Call.close):
        client, call = await scenario.start_stream()
        call.send(chunk(SECOND[:-3]))
        await client.expect_body(SECOND[:-3])
        disconnect(call)
        assert await client.read_until_cut() == b""


@ends_with("aborted", 200, "upstream_timeout")
async def upstream_stalls_in_its_body(scenario: Scenario) -> None:
    client, call = await scenario.start_stream()
    assert b"upstream_timeout" in await client.read_until_cut()
    await call.ended()


@ends_with("aborted", 200, "upstream_disconnected")
async def upstream_sends_a_malformed_chunk(scenario: Scenario) -> None:
    client, call = await scenario.start_stream()
    call.send(b"nonsense\r\n")
    await client.read_until_cut()
    await call.ended()


@ends_with("aborted", 200, "upstream_disconnected")
async def upstream_sends_less_than_its_length(scenario: Scenario) -> None:
    client, call = await scenario.start_stream(response_head(JSON, "Content-Length: 100"))
    call.close()
    assert await client.read_until_cut() == b""


@ends_with("ok", 200)
async def upstream_sends_more_than_its_length(scenario: Scenario) -> None:
    """The surplus is not used as a response."""
    client = await scenario.send()
    call = await scenario.read_call()
    call.send(response(b"whole"), response(b"too much"))
    assert (await client.response()).body == b"whole"
    await call.ended()


@ends_with("ok", 200)
async def upstream_sends_byte_by_byte(scenario: Scenario) -> None:
    client = await scenario.send()
    call = await scenario.read_call()
    for byte in EVENT_STREAM + chunk(FIRST) + LAST_CHUNK:
        await call.wire.send_all(bytes([byte]))
        await asyncio.sleep(0)
    call.done.set()
    assert (await client.response()).body == FIRST


# Upstream, with an error response.


@ends_with("upstream_error", 500, times=3)
@ends_with("upstream_error", 502, times=3)
@ends_with("upstream_error", 503, times=3)
@ends_with("upstream_error", 504, times=3)
async def upstream_returns_5xx(scenario: Scenario) -> None:
    for status in (500, 502, 503, 504) * 3:
        client = await scenario.send()
        await (await scenario.call()).respond(response(b"{}", status=f"{status} No"))
        received = await client.response()
        assert (received.status, received.reason) == (status, None)


def rate_limit_error(code: str, *lines: str, status: str = "429 Too Many Requests") -> bytes:
    body = json.dumps({"error": {"code": code}}).encode()
    return response(body, JSON, *lines, status=status)


@ends_with("ok", 200, attempts=5)
async def upstream_returns_429(scenario: Scenario) -> None:
    client = await scenario.send()
    for _ in range(4):
        await (await scenario.call()).respond(
            rate_limit_error("rate_limit_exceeded", "retry-after-ms: 20")
        )
    await (await scenario.call()).respond(response(b"whole"))
    assert (await client.response()).body == b"whole"


@ends_with("upstream_error", 429, times=2)
async def upstream_returns_429_for_a_long_time(scenario: Scenario) -> None:
    for reply in (
        rate_limit_error("insufficient_quota"),
        rate_limit_error("rate_limit_exceeded", "Retry-After: 60"),
    ):
        client = await scenario.send()
        await (await scenario.call()).respond(reply)
        assert (await client.response()).status == 429


@ends_with("ok", 200, attempts=3)
async def upstream_is_overloaded_for_a_while(scenario: Scenario) -> None:
    client = await scenario.send()
    status = "503 Service Unavailable"
    reply = rate_limit_error("server_is_overloaded", "retry-after-ms: 20", status=status)
    await (await scenario.call()).respond(reply)
    await (await scenario.call()).respond(rate_limit_error("slow_down", "retry-after-ms: 20"))
    await (await scenario.call()).respond(response(b"whole"))
    assert (await client.response()).body == b"whole"


@ends_with("upstream_error", 413)
async def upstream_rejects_an_upload_early(scenario: Scenario) -> None:
    client, call = await scenario.start_upload(b"half")
    call.send(response(b"enough", "Connection: close", status="413 Content Too Large"))
    call.close()
    assert (await client.response()).body == b"enough"


# The client.


@no_exchange
async def client_disconnects_in_its_head(scenario: Scenario) -> None:
    for disconnect in DISCONNECTS:
        client = await scenario.testbed.send(post(scenario.body, target=scenario.target)[:50])
        disconnect(client.wire)


@no_exchange
async def client_sends_garbage(scenario: Scenario) -> None:
    check_refusal(
        await (await scenario.testbed.send(b"\x16\x03\x01\r\n\r\n")).response(), 400, "bad_request"
    )


@ends_with("client_left", attempts=0, times=3)
async def client_disconnects_in_its_body(scenario: Scenario) -> None:
    for disconnect in DISCONNECTS:
        client = await scenario.start_body("Content-Length: 1000")
        client.send(b"{")
        disconnect(client.wire)


@ends_with("client_left", times=3)
async def client_disconnects_in_an_upload(scenario: Scenario) -> None:
    for disconnect in DISCONNECTS:
        client, call = await scenario.start_upload(b"half")
        disconnect(client.wire)
        await call.ended()


@ends_with("refused", 413, "body_too_large", attempts=0)
@ends_with("refused", 400, "bad_request", attempts=0)
async def client_sends_a_bad_body(scenario: Scenario) -> None:
    large = request("POST", scenario.target, JSON, "Content-Length: 200000")
    check_refusal(await (await scenario.testbed.send(large)).response(), 413, "body_too_large")
    client = await scenario.start_body("Transfer-Encoding: chunked")
    client.send(b"nonsense\r\n")
    check_refusal(await client.response(), 400, "bad_request")


@ends_with("client_left", attempts=0, times=3)
@ends_with("refused", 429, "queue_timeout", attempts=0)
@ends_with("ok", 200, times=2)
async def client_disconnects_in_the_queue(scenario: Scenario) -> None:
    """One exchange holds the slot; the last waiter gets it next."""
    holder = await scenario.send_limited()
    call = await scenario.read_call()
    waiters = [await scenario.send_limited() for _ in range(4)]
    await scenario.testbed.wait_for_waiters(4)
    impatient = await scenario.send_limited("x-stainless-read-timeout: 0.2")
    check_refusal(await impatient.response(), 429, "queue_timeout")
    for disconnect, waiter in zip(DISCONNECTS, waiters[:3], strict=True):
        disconnect(waiter.wire)
    await scenario.testbed.wait_for_waiters(1)
    await call.respond(response(b"first"))
    assert (await holder.response()).body == b"first"
    await (await scenario.call()).respond(response(b"last"))
    assert (await waiters[3].response()).body == b"last"


@ends_with("client_left", times=3)
async def client_disconnects_before_the_response(scenario: Scenario) -> None:
    for disconnect in DISCONNECTS:
        client = await scenario.send()
        call = await scenario.read_call()
        disconnect(client.wire)
        await call.ended()


@ends_with("client_left", 200, times=3)
async def client_disconnects_in_the_response(scenario: Scenario) -> None:
    for disconnect in DISCONNECTS:
        client, call = await scenario.start_stream()
        disconnect(client.wire)
        await call.ended()


async def _stall(scenario: Scenario) -> tuple[Client, Call]:
    """The client stops reading while upstream keeps sending."""
    client, call = await scenario.start_stream()
    client.wire.pause_reading()
    call.send(chunk(FLOOD))
    return client, call


@ends_with("client_left", 200, times=2)
async def client_stalls_and_disconnects(scenario: Scenario) -> None:
    for disconnect in (Wire.abort, Wire.reset):
        client, call = await _stall(scenario)
        disconnect(client.wire)
        await call.ended()


@ends_with("ok", 200)
async def client_stalls_and_resumes(scenario: Scenario) -> None:
    client, call = await _stall(scenario)
    client.wire.resume_reading()
    call.send(LAST_CHUNK)
    assert await client.read_rest() == FLOOD
    call.done.set()
