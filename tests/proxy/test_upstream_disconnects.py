"""When upstream disconnects, the exchange fails or is cut, depending on its phase."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from tests.conftest import StartGate
from tests.support.gate import IDLE
from tests.support.http import (
    EVENT_STREAM,
    get,
    post,
)
from tests.support.phases import (
    BODY,
    RESPONDING,
    Disconnect,
    Phase,
    Scene,
    check_next_request,
    either_way,
    in_each,
    sent_request,
    uploading,
    uploading_to_stalled_upstream,
)
from tests.support.upstream import Upstream, loopback_socket, url_of
from tests.support.waiting import A_SECOND_S
from tests.support.wire import Wire


async def partial_response_head(gate: StartGate, upstream: Upstream) -> Scene:
    scene = await sent_request(gate, upstream)
    assert scene.call is not None
    scene.call.send(b"HTTP/1.1 200 OK\r\nX-")
    return scene


async def response_head_only(gate: StartGate, upstream: Upstream) -> Scene:
    scene = await sent_request(gate, upstream)
    assert scene.call is not None
    scene.call.send(EVENT_STREAM)
    return scene


BEFORE_RESPONSE = {
    "uploading": uploading,
    "uploading to stalled upstream": uploading_to_stalled_upstream,
    "sent": sent_request,
    "partial response head": partial_response_head,
    "response head only": response_head_only,
}


@asynccontextmanager
async def closing_at_once(disconnect: Disconnect) -> AsyncIterator[str]:
    """The base URL of an upstream that ends each connection at once."""

    class ClosedWire(Wire):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            disconnect(self)

    sock = loopback_socket()
    async with await asyncio.get_running_loop().create_server(ClosedWire, sock=sock):
        yield url_of(sock)


@either_way
async def test_upstream_that_ends_connections_at_once_gets_a_post_once(
    gate: StartGate, upstream: Upstream, disconnect: Disconnect
) -> None:
    async with closing_at_once(disconnect) as url:
        running = await gate(OPENAI_BASE_URL=url)
        received = await running.request(post(BODY))
        assert (received.status, received.reason) == (502, "upstream_disconnected")
        await running.wait_until(**IDLE)
        [line] = await running.settled()
        assert (line["outcome"], line["attempts"]) == ("upstream_error", 1)


@either_way
async def test_upstream_that_ends_connections_at_once_gets_a_get_again(
    gate: StartGate, upstream: Upstream, disconnect: Disconnect
) -> None:
    async with closing_at_once(disconnect) as url:
        running = await gate(OPENAI_BASE_URL=url)
        received = await running.request(get())
        assert (received.status, received.reason) == (502, "upstream_disconnected")
        await running.wait_until(**IDLE)
        [line] = await running.settled()
        assert (line["outcome"], line["attempts"]) == ("upstream_error", 3)


@either_way
@in_each(BEFORE_RESPONSE)
async def test_upstream_disconnect_before_its_response_is_502(
    gate: StartGate, upstream: Upstream, phase: Phase, disconnect: Disconnect
) -> None:
    scene = await phase(partial(gate, UPSTREAM_RETRIES=0), upstream)
    assert scene.call is not None
    disconnect(scene.call.wire)
    received = await scene.client.response()
    assert (received.status, received.reason) == (502, "upstream_disconnected")
    await scene.call.ended(A_SECOND_S)
    await scene.gate.wait_until(**IDLE)
    [line] = await scene.gate.settled()
    assert (line["outcome"], line["attempts"]) == ("upstream_error", 1)
    await check_next_request(scene.gate, upstream)


@either_way
@in_each(RESPONDING)
async def test_upstream_disconnect_during_its_response_cuts_it(
    gate: StartGate, upstream: Upstream, phase: Phase, disconnect: Disconnect
) -> None:
    scene = await phase(gate, upstream)
    assert scene.call is not None
    disconnect(scene.call.wire)
    scene.client.wire.resume_reading()
    await scene.client.read_until_cut()
    await scene.call.ended(A_SECOND_S)
    await scene.gate.wait_until(**IDLE)
    [line] = await scene.gate.settled()
    assert (line["outcome"], line["status"]) == ("aborted", 200)
    await check_next_request(scene.gate, upstream)
