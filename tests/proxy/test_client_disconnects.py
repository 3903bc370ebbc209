"""A client that disconnects takes everything with it, in each phase of its exchange."""

import pytest

from tests.conftest import StartGate
from tests.support.gate import IDLE
from tests.support.http import (
    EVENT_STREAM,
    LAST_CHUNK,
    chunk,
    get,
    post,
    response,
    response_head,
)
from tests.support.phases import (
    BODY,
    ENDLESS,
    PHASES,
    Leaving,
    Phase,
    close,
    either_way,
    in_each,
    open_files,
    serves_the_next,
    until_stalled,
    uploads_to_nobody,
    waits,
)
from tests.support.upstream import Upstream
from tests.support.waiting import A_SECOND_S, until


@either_way
async def test_client_that_leaves_in_its_head_leaves_no_trace(
    gate: StartGate, upstream: Upstream, leave: Leaving
) -> None:
    running = await gate()
    before = open_files()
    client = await running.send(post(BODY)[:50])
    await running.request(get("/health"))
    leave(client.wire)
    # The other one's two ends are open still.
    await until(lambda: open_files() == before + 2, A_SECOND_S)
    await serves_the_next(running, upstream)
    assert len(upstream.calls) == len(await running.settled()) == 1


@either_way
@in_each(PHASES)
async def test_client_that_leaves_takes_everything_with_it(
    gate: StartGate, upstream: Upstream, phase: Phase, leave: Leaving
) -> None:
    scene = await phase(gate, upstream)
    sent = len(upstream.calls)
    leave(scene.client.wire)
    await scene.gate.wait_until(**scene.numbers)
    if scene.call is not None:
        await scene.call.ended(A_SECOND_S)
    [line] = await scene.gate.settled()
    assert line["outcome"] == "client_left"
    if scene.holder is not None:
        await scene.holder.respond(response())
    await serves_the_next(scene.gate, upstream)
    assert len(upstream.calls) == sent + 1


@either_way
@pytest.mark.parametrize(
    "reply",
    [
        response(b"whole"),
        response_head("Transfer-Encoding: chunked") + chunk(b"whole") + LAST_CHUNK,
        EVENT_STREAM + chunk(b"data: [DONE]\n\n") + LAST_CHUNK,
    ],
    ids=["length", "chunked", "stream"],
)
async def test_client_that_leaves_after_the_last_byte_had_it_all(
    gate: StartGate, upstream: Upstream, reply: bytes, leave: Leaving
) -> None:
    upstream.reply = reply
    running = await gate()
    client = await running.connect()
    await client.request(post(BODY))
    leave(client.wire)
    await running.wait_until(**IDLE)
    [line] = await running.settled()
    assert line["outcome"] == "ok"
    await serves_the_next(running, upstream)
    assert len(upstream.wires) == 1


async def test_client_that_breaks_a_stalled_upload_frees_the_way_upstream(
    gate: StartGate, upstream: Upstream
) -> None:
    """What upstream does not read keeps no connection open, nor the rest of the body."""
    before = open_files()
    scene = await uploads_to_nobody(gate, upstream)
    # The gate's listener, and both ends of both connections.
    assert open_files() == before + 5
    scene.client.reset()
    await scene.gate.wait_until(**IDLE)
    # The listener, and upstream's own end.
    await until(lambda: open_files() == before + 2, A_SECOND_S)
    assert (await scene.gate.settled())[0]["outcome"] == "client_left"
    await serves_the_next(scene.gate, upstream)


@pytest.mark.xfail(
    strict=True,
    reason="TCP delivers no end behind bytes that nobody takes: getsockopt(TCP_INFO) says "
    "ESTABLISHED too, and however wide the window, a client that goes on sending fills it",
)
async def test_client_that_closes_behind_a_full_socket_is_missed(
    gate: StartGate, upstream: Upstream
) -> None:
    scene = await waits(gate, upstream, ENDLESS)
    await until_stalled(scene.client.wire)
    close(scene.client.wire)
    try:
        await scene.gate.wait_until(**scene.numbers)
    finally:
        assert scene.holder is not None
        await scene.holder.respond(response())
