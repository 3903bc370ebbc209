"""When a client disconnects, the gate releases everything, in each phase of the exchange."""

import gc

import pytest

from rustygate import retry
from tests.conftest import StartGate
from tests.support.gate import IDLE, WORKERS, also_with_workers, one_process
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
    ENDLESS_UPLOAD,
    PHASES,
    Disconnect,
    Phase,
    check_next_request,
    either_way,
    in_each,
    open_files,
    queued,
    send_until_stalled,
    uploading_to_stalled_upstream,
)
from tests.support.upstream import Upstream
from tests.support.waiting import A_SECOND_S, until


@pytest.fixture(autouse=True)
def _long_retry_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test does between two attempts comes before the second, on a busy machine, too."""
    monkeypatch.setattr(retry, "RETRY_PAUSE_S", 20.0)


def files_before() -> int:
    """How many files are open, without those that earlier tests left to garbage collection."""
    gc.collect()
    return open_files()


@either_way
async def test_disconnect_during_the_head_is_no_exchange(
    gate: StartGate, upstream: Upstream, disconnect: Disconnect
) -> None:
    running = await gate()
    before = files_before()
    client = await running.send(post(BODY)[:50])
    await running.request(get("/health"))
    disconnect(client.wire)
    # Both ends of the other connection are still open.
    await until(lambda: open_files() == before + 2, A_SECOND_S)
    await check_next_request(running, upstream)
    assert len(upstream.calls) == len(await running.settled()) == 1


@also_with_workers
@either_way
@in_each(PHASES)
async def test_client_disconnect_releases_everything(
    gate: StartGate, upstream: Upstream, phase: Phase, disconnect: Disconnect
) -> None:
    scene = await phase(gate, upstream)
    sent = len(upstream.calls)
    disconnect(scene.client.wire)
    await scene.gate.wait_until(**scene.snapshot_after)
    if scene.call is not None:
        await scene.call.ended(A_SECOND_S)
    [line] = await scene.gate.settled()
    assert line["outcome"] == "client_left"
    if scene.holder is not None:
        await scene.holder.respond(response())
    await check_next_request(scene.gate, upstream)
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
async def test_disconnect_after_the_last_byte_is_ok(
    gate: StartGate, upstream: Upstream, reply: bytes, disconnect: Disconnect
) -> None:
    upstream.reply = reply
    running = await gate()
    client = await running.connect()
    await client.request(post(BODY))
    disconnect(client.wire)
    await running.wait_until(**IDLE)
    [line] = await running.settled()
    assert line["outcome"] == "ok"
    await check_next_request(running, upstream)
    # Each worker has connections of its own.
    assert len(upstream.wires) <= max(1, WORKERS)


@one_process
async def test_reset_of_a_stalled_upload_closes_the_upstream_connection(
    gate: StartGate, upstream: Upstream
) -> None:
    """Neither unread data nor the rest of the body keeps the connection open."""
    before = files_before()
    scene = await uploading_to_stalled_upstream(gate, upstream)
    # The gate's listener and both ends of both connections.
    assert open_files() == before + 5
    scene.client.reset()
    await scene.gate.wait_until(**IDLE)
    # The listener and upstream's own end.
    await until(lambda: open_files() == before + 2, A_SECOND_S)
    assert (await scene.gate.settled())[0]["outcome"] == "client_left"
    await check_next_request(scene.gate, upstream)


@pytest.mark.xfail(
    strict=True,
    reason="TCP does not deliver a close behind unread data: getsockopt(TCP_INFO) still says "
    "ESTABLISHED, and a client that keeps sending fills a window of any size",
)
async def test_client_close_behind_a_full_socket_is_noticed(
    gate: StartGate, upstream: Upstream
) -> None:
    scene = await queued(gate, upstream, ENDLESS_UPLOAD)
    await send_until_stalled(scene.client.wire)
    scene.client.wire.abort()
    try:
        await scene.gate.wait_until(**scene.snapshot_after)
    finally:
        assert scene.holder is not None
        await scene.holder.respond(response())
