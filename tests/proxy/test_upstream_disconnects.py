"""An upstream that disconnects fails or cuts the exchange, depending on its phase."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from tests.conftest import StartGate
from tests.support.gate import IDLE
from tests.support.http import (
    EVENT_STREAM,
    post,
)
from tests.support.phases import (
    ANSWERED,
    BODY,
    Leaving,
    Phase,
    Scene,
    either_way,
    has_been_sent,
    in_each,
    serves_the_next,
    uploads,
    uploads_to_nobody,
)
from tests.support.upstream import Upstream, loopback_socket, url_of
from tests.support.waiting import A_SECOND_S
from tests.support.wire import Wire


async def is_answered_in_part(gate: StartGate, upstream: Upstream) -> Scene:
    scene = await has_been_sent(gate, upstream)
    assert scene.call is not None
    scene.call.send(b"HTTP/1.1 200 OK\r\nX-")
    return scene


async def is_answered_by_a_head(gate: StartGate, upstream: Upstream) -> Scene:
    scene = await has_been_sent(gate, upstream)
    assert scene.call is not None
    scene.call.send(EVENT_STREAM)
    return scene


UNANSWERED = {
    "uploads": uploads,
    "uploads to nobody": uploads_to_nobody,
    "has been sent": has_been_sent,
    "is answered in part": is_answered_in_part,
    "is answered by a head": is_answered_by_a_head,
}


@asynccontextmanager
async def slamming(leave: Leaving) -> AsyncIterator[str]:
    """An upstream that ends each connection at once; its base URL."""

    class Slammed(Wire):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            leave(self)

    sock = loopback_socket()
    async with await asyncio.get_running_loop().create_server(Slammed, sock=sock):
        yield url_of(sock)


@either_way
async def test_upstream_that_leaves_before_it_reads_is_tried_again_and_given_up(
    gate: StartGate, upstream: Upstream, leave: Leaving
) -> None:
    async with slamming(leave) as url:
        running = await gate(OPENAI_BASE_URL=url)
        got = await running.request(post(BODY))
        assert (got.status, got.reason) == (502, "upstream_disconnected")
        await running.wait_until(**IDLE)
        [line] = await running.settled()
        assert (line["outcome"], line["attempts"]) == ("upstream_error", 3)


@either_way
@in_each(UNANSWERED)
async def test_upstream_that_leaves_before_its_answer_is_a_failure(
    gate: StartGate, upstream: Upstream, phase: Phase, leave: Leaving
) -> None:
    scene = await phase(partial(gate, UPSTREAM_RETRIES=0), upstream)
    assert scene.call is not None
    leave(scene.call.wire)
    got = await scene.client.response()
    assert (got.status, got.reason) == (502, "upstream_disconnected")
    await scene.call.ended(A_SECOND_S)
    await scene.gate.wait_until(**IDLE)
    [line] = await scene.gate.settled()
    assert (line["outcome"], line["attempts"]) == ("upstream_error", 1)
    await serves_the_next(scene.gate, upstream)


@either_way
@in_each(ANSWERED)
async def test_upstream_that_leaves_in_its_answer_cuts_it(
    gate: StartGate, upstream: Upstream, phase: Phase, leave: Leaving
) -> None:
    scene = await phase(gate, upstream)
    assert scene.call is not None
    leave(scene.call.wire)
    scene.client.wire.resume_reading()
    await scene.client.read_until_cut()
    await scene.call.ended(A_SECOND_S)
    await scene.gate.wait_until(**IDLE)
    [line] = await scene.gate.settled()
    assert (line["outcome"], line["status"]) == ("aborted", 200)
    await serves_the_next(scene.gate, upstream)
