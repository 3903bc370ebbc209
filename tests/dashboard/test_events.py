"""The event stream: one computation a second for all viewers, and none for nobody."""

import asyncio
from datetime import datetime
from itertools import pairwise

from tests.conftest import StartGate
from tests.support.dashboard import Viewer, get_page, page_request
from tests.support.waiting import A_SECOND_S, until


async def test_state_arrives_at_once_and_then_each_second(gate: StartGate) -> None:
    viewer = await Viewer.open(await gate())
    states = [await viewer.state() for _ in range(3)]
    times = [datetime.fromisoformat(state["now"]).timestamp() for state in states]
    steps = [later - earlier for earlier, later in pairwise(times)]
    assert all(0.9 < step < 1.5 for step in steps), steps
    assert [state["state"] for state in states] == ["serving"] * 3


async def test_event_names_the_time_to_reconnect(gate: StartGate) -> None:
    viewer = await Viewer.open(await gate())
    assert (await viewer.event()).endswith(b"\r\nretry: 1000")


async def test_head_request_opens_no_stream(gate: StartGate) -> None:
    running = await gate()
    got = await get_page(running, "/gate/events", method="HEAD")
    assert (got.status, got.head["content-type"]) == (200, "text/event-stream")
    assert running.daemon.viewers == 0


async def test_stream_ends_with_the_gate(gate: StartGate) -> None:
    running = await gate()
    viewer = await Viewer.open(running)
    await viewer.state()
    await running.daemon.stop()
    await viewer.client.read_rest()
    assert await viewer.client.ended() == "closed"


async def test_drain_is_shown_and_not_held_up(gate: StartGate) -> None:
    running = await gate()
    viewer = await Viewer.open(running)
    await viewer.state()
    async with asyncio.timeout(A_SECOND_S):
        await running.daemon.drain()
    assert (await viewer.state())["state"] == "draining"


async def test_viewer_that_leaves_frees_everything(gate: StartGate) -> None:
    running = await gate()
    viewers = [await Viewer.open(running) for _ in range(3)]
    for viewer in viewers:
        await viewer.state()
    assert running.daemon.viewers == 3
    for viewer in viewers:
        viewer.client.disconnect()
    await until(lambda: running.daemon.viewers == 0, A_SECOND_S)


async def test_too_many_viewers_are_refused(gate: StartGate) -> None:
    running = await gate()
    for _ in range(100):
        await Viewer.open(running)
    got = await running.request(page_request("/gate/events"))
    assert (got.status, got.reason) == (503, "too_many_connections")
    assert got.head["retry-after"] == "1"
    assert "100 viewers" in got.error["message"]
