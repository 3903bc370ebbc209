"""Exchanges in progress: waiting for them, and aborting the late ones."""

import asyncio

from rustygate.running import RunningExchanges
from tests.support.waiting import soon

LONG_S = 60.0


class Connection:
    """A connection's task, which outlives its exchange."""

    def __init__(self, running: RunningExchanges) -> None:
        self._running = running
        self.may_end = asyncio.Event()
        self.aborted = False
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        self._running.begin()
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.aborted = True
        finally:
            self._running.end()
        await asyncio.Event().wait()


async def open_connections(running: RunningExchanges, number: int) -> list[Connection]:
    connections = [Connection(running) for _ in range(number)]
    await asyncio.sleep(0)
    assert len(running) == number
    return connections


async def test_finish_waits_for_exchanges_but_not_for_their_connections() -> None:
    running = RunningExchanges()
    first, second = await open_connections(running, 2)
    finish = asyncio.create_task(running.finish(LONG_S))
    for connection in (first, second):
        await asyncio.sleep(0)
        assert not finish.done()
        connection.may_end.set()
    async with soon():
        await finish
    assert not running
    for connection in (first, second):
        assert not connection.aborted
        assert not connection.task.done()


async def test_finish_aborts_late_exchanges() -> None:
    running = RunningExchanges()
    ended, late = await open_connections(running, 2)
    ended.may_end.set()
    async with soon():
        await running.finish(0.01)
    assert not running
    assert (ended.aborted, late.aborted) == (False, True)


async def test_finish_returns_at_once_without_exchanges() -> None:
    running = RunningExchanges()
    async with soon():
        await running.finish(LONG_S)
        [connection] = await open_connections(running, 1)
        connection.may_end.set()
        await asyncio.sleep(0)
        await running.finish(LONG_S)


async def test_two_may_wait_for_the_same_exchanges() -> None:
    running = RunningExchanges()
    [connection] = await open_connections(running, 1)
    waits = asyncio.gather(running.finish(LONG_S), running.finish(LONG_S))
    await asyncio.sleep(0)
    connection.may_end.set()
    async with soon():
        await waits
    assert repr(running) == "<RunningExchanges 0>"
