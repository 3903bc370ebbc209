"""A few requests begin in each turn of the event loop."""

import asyncio
from pathlib import Path

import pytest

from rustygate.aiohttp_internals.server import ServerConnection
from rustygate.downstream.request_pace import REQUESTS_PER_TURN, RequestPace
from rustygate.running import RunningExchanges
from tests.conftest import StartGate
from tests.support.gate import Gate, one_process
from tests.support.http import get, response
from tests.support.loop_turns import LoopTurns, counting_turns
from tests.support.upstream import Upstream

CROWD = 2 * REQUESTS_PER_TURN + 3


class Requests:
    """Requests that ask all at once."""

    def __init__(self, pace: RequestPace, turns: LoopTurns) -> None:
        self.pace = pace
        self.turns = turns
        self.begun: list[int] = []

    async def run(self, number: int) -> None:
        if (turn := self.pace.wait_for_turn()) is not None:
            await turn
        self.begun.append(number)
        self.turns.record()


async def test_a_crowd_begins_in_several_turns_in_its_order() -> None:
    pace = RequestPace()
    with counting_turns() as turns:
        requests = Requests(pace, turns)
        await asyncio.gather(*map(requests.run, range(CROWD)))
    assert requests.begun == [*range(CROWD)]
    assert turns.counts == [REQUESTS_PER_TURN, REQUESTS_PER_TURN, 3]
    assert repr(pace) == "<RequestPace 0 waiting>"


async def test_a_tenth_of_a_large_crowd_begins_in_a_turn() -> None:
    pace = RequestPace()
    with counting_turns() as turns:
        requests = Requests(pace, turns)
        await asyncio.gather(*map(requests.run, range(16 + 200)))
    assert turns.counts == [16, 20, 18, *[16] * 10, 2]


async def test_requests_one_after_another_never_wait() -> None:
    pace = RequestPace()
    for _ in range(3 * REQUESTS_PER_TURN):
        assert pace.wait_for_turn() is None
        await asyncio.sleep(0)


async def test_a_client_that_left_takes_no_turn() -> None:
    pace = RequestPace()
    with counting_turns() as turns:
        requests = Requests(pace, turns)
        tasks = [asyncio.create_task(requests.run(number)) for number in range(CROWD)]
        await asyncio.sleep(0)
        assert len(pace) == CROWD - REQUESTS_PER_TURN
        gone = tasks[REQUESTS_PER_TURN : REQUESTS_PER_TURN + 3]
        for task in gone:
            task.cancel()
        await asyncio.wait(tasks)
    assert turns.counts == [REQUESTS_PER_TURN, REQUESTS_PER_TURN]
    assert all(task.cancelled() for task in gone)


@pytest.fixture
async def crowded(gate: StartGate, upstream: Upstream, tmp_path: Path) -> Gate:
    """A gate on a unix socket, through which data arrives at once."""
    upstream.reply = response(b"body")
    return await gate(BIND_ADDRESS=f"unix:{tmp_path / 'gate.sock'}")


@one_process
@pytest.mark.parametrize(
    ("owner", "method"),
    [(ServerConnection, "_parse"), (RunningExchanges, "begin")],
    ids=["parsed", "begun"],
)
async def test_requests_on_open_connections_are_parsed_and_begin_in_several_turns(
    crowded: Gate, monkeypatch: pytest.MonkeyPatch, owner: type, method: str
) -> None:
    clients = await crowded.idle_clients(3 * REQUESTS_PER_TURN)
    with counting_turns() as turns:

        def recorded(*arguments: object) -> None:
            turns.record()
            as_usual(*arguments)

        as_usual = getattr(owner, method)
        monkeypatch.setattr(owner, method, recorded)
        for client in clients:
            client.send(get())
        for client in clients:
            assert (await client.response()).body == b"body"
    assert turns.counts == [REQUESTS_PER_TURN] * 3


async def test_requests_that_wait_for_their_turn_are_answered_by_a_draining_gate(
    crowded: Gate,
) -> None:
    clients = await crowded.idle_clients(4 * REQUESTS_PER_TURN)
    for client in clients:
        client.send(get())
    await crowded.daemon.drain()
    await crowded.daemon.stop()
    for client in clients:
        got = await client.response()
        assert got.status in (200, 503)
        if got.status == 503:
            assert got.reason == "draining"
