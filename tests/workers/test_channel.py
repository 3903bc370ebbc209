"""Messages and questions between a supervisor and a worker."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rustygate.errors import BudgetExceeded, Refusal
from rustygate.workers.channel import Answerer, Channel, ChannelLost
from tests.support.channels import Link, Pipe, make_channel
from tests.support.gate import Log, captured_log
from tests.support.waiting import soon, until

MESSAGES = [("name", 1, "two", None), ("name",), ("name", b"x" * 1000, {"key": [1.5]})]


@pytest.fixture
def log() -> Iterator[Log]:
    with captured_log() as log:
        yield log


@asynccontextmanager
async def asked(**answerers: Answerer) -> AsyncIterator[tuple[Channel, Link]]:
    """A channel to ask at, whose other end has these answers."""
    asking, answering = make_channel(), make_channel(answerers=answerers)
    yield asking, Link(answering, asking)
    assert not asking._questions
    await until(lambda: not answering._answering)


async def frames_of(*messages: tuple[Any, ...]) -> bytes:
    """What a channel writes for each of these messages."""
    channel, pipe = make_channel(), Pipe()
    channel.connection_made(pipe)
    for message in messages:
        channel.tell(*message)
        channel.flush()
    assert len(pipe.writes) == len(messages)
    return b"".join(pipe.writes)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 64, 1001, 10_000])
async def test_messages_arrive_however_their_bytes_are_cut(size: int) -> None:
    received: list[tuple[Any, ...]] = []
    channel = make_channel({"name": lambda *rest: received.append(("name", *rest))})
    channel.connection_made(Pipe())
    data = await frames_of(*MESSAGES)
    for start in range(0, len(data), size):
        channel.data_received(data[start : start + size])
    assert received == MESSAGES
    assert not channel._received


async def test_a_cut_frame_is_not_handled_before_its_last_byte() -> None:
    received: list[int] = []
    channel = make_channel({"name": received.append})
    channel.connection_made(Pipe())
    data = await frames_of(("name", 1), ("name", 2))
    channel.data_received(data[:-1])
    assert received == [1]
    channel.data_received(data[-1:])
    assert received == [1, 2]


async def test_what_is_told_in_one_turn_is_written_at_once_and_in_order() -> None:
    received: list[int] = []
    worker, supervisor = make_channel(), make_channel({"name": received.append})
    link = Link(supervisor, worker)
    for number in range(100):
        worker.tell("name", number)
    assert link.to_supervisor.writes == []
    await until(lambda: len(received) == 100)
    assert received == list(range(100))
    assert len(link.to_supervisor.writes) == 1
    worker.tell("name", 100)
    await until(lambda: len(received) == 101)
    assert len(link.to_supervisor.writes) == 2


async def test_what_is_told_while_messages_are_handled_is_written_in_the_same_turn() -> None:
    worker, pipe = make_channel({"name": lambda: worker.tell("back")}), Pipe()
    worker.connection_made(pipe)
    worker.data_received(await frames_of(("name",)))
    assert len(pipe.writes) == 1


async def test_defect_in_one_message_does_not_stop_the_next(log: Log) -> None:
    received: list[int] = []
    channel = make_channel({"name": received.append})
    channel.connection_made(Pipe())
    channel.data_received(
        await frames_of(("name",), ("unknown", "sk-secret"), ("name", 1, 2), ("name", 3))
    )
    assert received == [3]
    assert [line.split(" {}")[0] for line in log.errors] == [
        "message name failed",
        "message unknown failed",
        "message name failed",
    ]


async def test_question_is_answered_with_its_arguments() -> None:
    async def add(*numbers: int) -> int:
        return sum(numbers)

    async def repeat(text: str) -> str:
        await asyncio.sleep(0)
        return text

    async with asked(add=add, repeat=repeat) as (channel, _), soon():
        assert await channel.ask("add", 1, 2) == 3
        questions = [channel.ask("repeat", "slow"), channel.ask("add"), channel.ask("add", 5)]
        assert await asyncio.gather(*questions) == ["slow", 0, 5]


async def test_refusal_of_a_question_is_raised_with_its_values() -> None:
    async def refuse() -> None:
        raise BudgetExceeded("Budget tokens_per_day is used up.", 17)

    async with asked(refuse=refuse) as (channel, _), soon():
        with pytest.raises(BudgetExceeded, match="used up") as raised:
            await channel.ask("refuse")
    assert raised.value.retry_after_s == 17


async def test_defect_of_an_answer_is_logged_where_it_is_and_raised_without_its_values(
    log: Log,
) -> None:
    async def fail() -> None:
        raise ValueError("sk-secret")

    async with asked(fail=fail) as (channel, _), soon():
        with pytest.raises(RuntimeError, match=r"^the other process failed to answer$"):
            await channel.ask("fail")
        with pytest.raises(RuntimeError, match=r"^the other process failed to answer$"):
            await channel.ask("unknown")
    assert [line.split(" {}")[0] for line in log.errors] == [
        "question fail failed",
        "question unknown failed",
    ]


async def test_withdrawn_question_is_cancelled_where_it_is_answered() -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with asked(wait=wait) as (channel, _), soon():
        question = asyncio.create_task(channel.ask("wait"))
        await began.wait()
        question.cancel()
        await ended.wait()
        assert question.cancelled()


async def test_answer_that_comes_after_the_question_was_withdrawn_is_ignored(log: Log) -> None:
    async def answer() -> int:
        return 1

    async def refuse() -> None:
        raise Refusal("no")

    async with asked(answer=answer, refuse=refuse) as (channel, link), soon():
        link.to_worker.is_held = True
        questions = [asyncio.create_task(channel.ask(name)) for name in ("answer", "refuse")]
        await until(lambda: bool(link.to_worker.writes))
        for question in questions:
            question.cancel()
        await asyncio.wait(questions)
        link.to_worker.release()
        assert await channel.ask("answer") == 1
    assert not log.errors


async def test_lost_channel_ends_all_questions_and_answers() -> None:
    began, ended, lost = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    asking = Channel({}, {}, lost.set)
    answering = make_channel(answerers={"wait": wait})
    Link(answering, asking)
    question = asyncio.create_task(asking.ask("wait"))
    async with soon():
        await began.wait()
        asking.connection_lost(None)
        answering.connection_lost(None)
        with pytest.raises(ChannelLost):
            await question
        await ended.wait()
        with pytest.raises(ChannelLost):
            await asking.ask("wait")
    assert lost.is_set()
    assert repr(asking) == "<Channel closed>"
    # Sending to a closed channel is no error.
    asking.tell("name")
    asking.flush()


async def test_heard_at_is_when_something_arrived_last() -> None:
    channel = make_channel({"name": lambda: None})
    channel.connection_made(Pipe())
    channel.heard_at -= 100
    before = asyncio.get_running_loop().time()
    channel.data_received((await frames_of(("name",)))[:1])
    assert before <= channel.heard_at <= asyncio.get_running_loop().time()


async def opened(channel: Channel) -> socket.socket:
    """Open a channel on a socket; returns the other one."""
    ours, theirs = socket.socketpair()
    await channel.open(ours)
    return theirs


async def test_closing_writes_what_was_told_before() -> None:
    received: list[int] = []
    telling, lost = make_channel(), asyncio.Event()
    hearing = Channel({"name": received.append}, {}, lost.set)
    await hearing.open(await opened(telling))
    assert repr(telling) == "<Channel open>"
    for number in range(100):
        telling.tell("name", number)
    async with soon():
        await telling.close(limit_s=3600)
        await lost.wait()
    assert received == list(range(100))
    assert repr(telling) == "<Channel closed>"


async def test_closing_waits_only_so_long_for_a_reader_that_is_stuck() -> None:
    channel = make_channel()
    theirs = await opened(channel)
    channel.tell("name", bytes(10_000_000))
    async with soon():
        await channel.close(limit_s=0.01)
    theirs.close()
    await until(lambda: repr(channel) == "<Channel closed>")


async def test_closing_twice_is_harmless() -> None:
    channel = make_channel()
    theirs = await opened(channel)
    async with soon():
        await channel.close(limit_s=3600)
        await channel.close(limit_s=3600)
    theirs.close()
