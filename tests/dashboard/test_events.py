"""The event stream: one computation a second for all viewers, and none for nobody."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import pairwise

import pytest
from aiohttp import web

from rustygate.dashboard import events
from rustygate.dashboard.events import Events
from rustygate.errors import Draining
from rustygate.system.shared_counts import lone_count
from tests.conftest import StartGate
from tests.support.client import Client
from tests.support.dashboard import Viewer, get_page, page_request
from tests.support.gate import also_with_workers, captured_log
from tests.support.lateness import Lateness
from tests.support.waiting import A_SECOND_S, in_background, until, within
from tests.support.wire import Wire


async def test_state_arrives_at_once_and_then_each_second(gate: StartGate) -> None:
    lateness = Lateness()
    viewer = await Viewer.open(await gate())
    async with in_background(lateness.watch()):
        states = [await viewer.state() for _ in range(3)]
    times = [datetime.fromisoformat(state["now"]).timestamp() for state in states]
    steps = [later - earlier for earlier, later in pairwise(times)]
    late_s = lateness.worst_s
    assert all(0.9 - late_s < step < 1.1 + late_s for step in steps), steps
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
    async with within(A_SECOND_S):
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


@also_with_workers
@pytest.mark.parametrize(("connections", "most"), [(10000, 100), (30, 15), (3, 1)])
async def test_too_many_viewers_are_refused(gate: StartGate, connections: int, most: int) -> None:
    running = await gate(CONNECTION_LIMIT=connections)
    viewers = [await Viewer.open(running) for _ in range(most)]
    got = await running.request(page_request("/gate/events"))
    assert (got.status, got.reason) == (503, "too_many_connections")
    assert got.head["retry-after"] == "1"
    assert f"is reached: {most}." in got.error["message"]
    assert (await get_page(running, "/gate/state")).status == 200
    assert running.daemon.viewers == most
    viewers[0].client.disconnect()
    await until(lambda: running.daemon.viewers == most - 1)
    await (await Viewer.open(running)).state()


async def test_stream_is_served_to_an_old_client(gate: StartGate) -> None:
    client = await (await gate()).connect()
    client.send(page_request("/gate/events").replace(b"HTTP/1.1", b"HTTP/1.0"))
    head = await client.head()
    assert head.status == 200
    assert "transfer-encoding" not in head
    async with within(A_SECOND_S):
        assert (await client.wire.read_until(b"\r\n\r\n")).startswith(b'data: {"now"')


# One computation for all, with numbers as states.


class Source:
    """Computes states: their number, and some padding."""

    def __init__(self, padding: int = 0) -> None:
        self.count = 0
        self.error: Exception | None = None
        self._padding = "." * padding
        self.events = Events(self.compute, 1000, lone_count())
        self.url = ""
        self.viewers: list[Viewer] = []

    async def compute(self) -> str:
        if self.error is not None:
            raise self.error
        self.count += 1
        return f"{self.count}{self._padding}"

    async def viewer(self, *, receive_buffer: int | None = None) -> Viewer:
        wire = await Wire.connect(self.url, receive_buffer=receive_buffer)
        self.viewers.append(await Viewer.of(Client(wire)))
        return self.viewers[-1]


@asynccontextmanager
async def serving(source: Source) -> AsyncIterator[Source]:
    application = web.Application()
    application.router.add_get("/gate/events", source.events.get)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    source.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield source
    source.events.close()
    for viewer in source.viewers:
        viewer.client.disconnect()
    await runner.cleanup()


async def number(viewer: Viewer) -> int:
    return int((await viewer.text()).rstrip("."))


@pytest.mark.usefixtures("_no_task_left")
async def test_state_is_computed_once_for_all_viewers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "INTERVAL_S", 0.2)
    loop = asyncio.get_running_loop()
    async with serving(Source()) as source:
        began = loop.time()
        viewers = [await source.viewer() for _ in range(20)]
        seen = [[await number(viewer) for _ in range(4)] for viewer in viewers]
        # All of them see each state, from the one that was the latest when they came.
        assert all(later == earlier + 1 for each in seen for earlier, later in pairwise(each))
        assert max(each[-1] for each in seen) <= source.count
        assert source.count <= 2 + (loop.time() - began) / 0.2


@pytest.mark.usefixtures("_no_task_left")
async def test_nothing_is_computed_while_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "INTERVAL_S", 0.01)
    async with serving(Source()) as source:
        idle = asyncio.all_tasks()
        assert source.count == 0
        for last in (1, 2):
            viewers = [await source.viewer() for _ in range(2)]
            assert await number(viewers[0]) >= last
            for viewer in viewers:
                viewer.client.disconnect()
            await until(lambda: source.events.viewers == 0, A_SECOND_S)
            await until(lambda: asyncio.all_tasks() <= idle)
            count = source.count
            # A timer that still ran would have fired in this time.
            await asyncio.sleep(0.05)
            assert source.count == count


@pytest.mark.usefixtures("_no_task_left")
async def test_slow_viewer_misses_states_and_holds_up_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events, "INTERVAL_S", 0.05)
    # The kernel buffers a few of these.
    async with serving(Source(padding=1_000_000)) as source:
        slow = await source.viewer(receive_buffer=65536)
        slow.client.wire.pause_reading()
        quick = await source.viewer()
        seen = [await number(quick) for _ in range(12)]
        assert seen[-1] - seen[0] < 24
        slow.client.wire.resume_reading()
        late = [await number(slow)]
        while late[-1] < seen[-1]:
            late.append(await number(slow))
        assert len(late) < len(seen)


@pytest.mark.usefixtures("_no_task_left")
async def test_viewer_that_does_not_read_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "INTERVAL_S", 0.01)
    monkeypatch.setattr(events, "SEND_TIMEOUT_S", 0.1)
    async with serving(Source(padding=10_000_000)) as source:
        slow = await source.viewer(receive_buffer=4096)
        slow.client.wire.pause_reading()
        await until(lambda: source.events.viewers == 0)
        slow.client.disconnect()


@pytest.mark.usefixtures("_no_task_left")
async def test_defect_ends_the_streams_and_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "INTERVAL_S", 0.01)
    with captured_log() as log:
        async with serving(Source()) as source:
            viewer = await source.viewer()
            await viewer.text()
            source.error = ValueError("a defect")
            await viewer.client.read_rest()
            assert source.events.viewers == 0
            source.error = None
            assert await number(await source.viewer()) > 0
        [error] = log.errors
        assert "computing the live page's state failed" in error


@pytest.mark.usefixtures("_no_task_left")
async def test_streams_end_when_the_supervisor_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "INTERVAL_S", 0.01)
    with captured_log() as log:
        async with serving(Source()) as source:
            viewer = await source.viewer()
            await viewer.text()
            source.error = Draining()
            await viewer.client.read_rest()
        assert not log.text


@pytest.mark.usefixtures("_no_task_left")
async def test_viewer_after_a_defect_sees_states_though_another_has_not_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events, "INTERVAL_S", 0.01)
    with captured_log():
        async with serving(Source(padding=10_000_000)) as source:
            stuck = await source.viewer(receive_buffer=4096)
            stuck.client.wire.pause_reading()
            quick = await source.viewer()
            await quick.text()
            source.error = ValueError("a defect")
            await quick.client.read_rest()
            await until(lambda: source.events.viewers == 1)
            source.error = None
            later = await source.viewer()
            assert await number(later) < await number(later)


@pytest.mark.usefixtures("_no_task_left")
async def test_stream_that_begins_after_the_end_is_empty() -> None:
    async with serving(Source()) as source:
        source.events.close()
        assert await (await source.viewer()).client.read_rest() == b""
        assert source.count == 0
