"""Attempts at upstream: ways in which they fail, and the gate's record of them."""

import pytest

from rustygate.aiohttp_internals.client import UpstreamConnection
from tests.support.client import Client
from tests.support.gate import Gate
from tests.support.http import CHAT, LAST_CHUNK, Response, chat, chunk, get, request, response
from tests.support.upstream import Call, Upstream

EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
MULTIPART = "Content-Type: multipart/form-data; boundary=x"

# Requests whose body is not buffered, so that it can be sent only once, and the settings for that.
STREAMED_BODIES = {
    "large form": (
        request("POST", "/v1/files", MULTIPART, body=b"--x--"),
        {"MAX_BUFFERED_BODY": 4},
    ),
    "large": (chat(), {"MAX_BUFFERED_BODY": 10}),
    "chunked and large": (
        request("POST", CHAT, "Transfer-Encoding: chunked") + chunk(bytes(1 << 20)) + LAST_CHUNK,
        {"MAX_BUFFERED_BODY": 10},
    ),
    "buffer budget spent": (chat(), {"QUEUE_BYTES": 0}),
}
with_streamed_bodies = pytest.mark.parametrize(
    ("sent", "settings"), STREAMED_BODIES.values(), ids=STREAMED_BODIES
)
close_or_reset = pytest.mark.parametrize("how", ["close", "reset"])


async def disconnect(upstream: Upstream, how: str, *sent: bytes) -> Call:
    """Upstream reads a request, sends these bytes, and ends the connection."""
    call = await upstream.call()
    await call.read_rest()
    call.send(*sent)
    call.close() if how == "close" else call.reset()
    return call


async def fail_all(upstream: Upstream, how: str) -> None:
    """Upstream ends the connection of each request."""
    while True:
        await disconnect(upstream, how)


def end_before_request(patch: pytest.MonkeyPatch, calls: list[Call], how: str) -> None:
    """Upstream ends each of these pooled connections just before the gate sends the next request
    over it, so that the gate has not seen the end yet."""
    is_reusable = UpstreamConnection.is_reusable
    wires = {call.wire.transport.get_extra_info("peername"): call.wire for call in calls}

    def end_first(connection: UpstreamConnection) -> bool:
        assert connection.transport is not None
        wire = wires.pop(connection.transport.get_extra_info("sockname"), None)
        if wire is not None:
            wire.end_at_once(how)
        return is_reusable(connection)

    patch.setattr(UpstreamConnection, "is_reusable", end_first)


async def expect_success(running: Gate, client: Client, attempts: int, lines: int = 1) -> Response:
    """Upstream's response, after this many attempts by its header and by the last log line."""
    got = await client.response()
    assert (got.status, got.reason) == (200, None)
    assert got.head["x-rustygate-attempts"] == str(attempts)
    line = (await running.settled(lines))[-1]
    assert (line["outcome"], line["attempts"]) == ("ok", attempts)
    return got


async def expect_failure(
    running: Gate, client: Client, reason: str, attempts: int, lines: int = 1
) -> Response:
    """The gate's own response, after this many attempts by its header and by the last log line."""
    got = await client.response()
    assert (got.status, got.reason) == (504 if reason == "upstream_timeout" else 502, reason)
    assert got.head["x-rustygate-attempts"] == str(attempts)
    line = (await running.settled(lines))[-1]
    assert (line["outcome"], line["attempts"]) == ("upstream_error", attempts)
    assert (line["status"], line["reason"]) == (got.status, reason)
    return got


async def fill_pool(running: Gate, upstream: Upstream, count: int = 1) -> list[Call]:
    """Serve a request on each of `count` connections, which are then pooled."""
    clients = [await running.send(get()) for _ in range(count)]
    calls = [await upstream.call() for _ in clients]
    for client, call in zip(clients, calls, strict=True):
        await call.respond(response())
        assert (await client.response()).status == 200
    return calls
