"""Tasks that nobody waits for."""

import asyncio
import gc
import itertools
import weakref

import pytest

from rustygate.plan import virtual_clock
from rustygate.system import background
from rustygate.system.background import RETRY_S, repeat, start_task
from tests.support.gate import captured_log
from tests.support.waiting import soon


async def fail() -> None:
    raise RuntimeError("secret")


async def test_failure_is_logged_while_the_task_is_kept() -> None:
    with captured_log() as log:
        task = start_task("the thing", fail())
        await asyncio.wait((task,))
        await asyncio.sleep(0)
        [error] = log.errors
        assert "the thing failed" in error
        assert "RuntimeError" in error
        del task
        gc.collect()
    assert len(log.errors) == 1


async def test_end_and_cancellation_are_no_failures() -> None:
    assert not background._running
    with captured_log() as log:
        ended = start_task("one", asyncio.sleep(0))
        cancelled = start_task("other", asyncio.sleep(1))
        cancelled.cancel()
        await asyncio.wait((ended, cancelled))
        await asyncio.sleep(0)
    assert not log.text
    assert not background._running


async def test_task_is_kept_until_it_ends() -> None:
    done = asyncio.Event()
    start_task("one", _set_after_collection(done))
    async with soon():
        await done.wait()


async def _set_after_collection(done: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    # Only this task refers to the future, and only the future to the task.
    waiting = loop.create_future()
    loop.call_soon(_collect_and_end, weakref.ref(waiting))
    await waiting
    done.set()


def _collect_and_end(reference: "weakref.ref[asyncio.Future[None]]") -> None:
    gc.collect()
    waiting = reference()
    assert waiting is not None
    waiting.set_result(None)


def test_step_that_fails_is_repeated_after_a_pause() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        began, times = loop.time(), []

        async def step() -> bool:
            await asyncio.sleep(0.25)
            times.append(loop.time() - began)
            if len(times) in (2, 3):
                raise RuntimeError
            return len(times) < 5

        await repeat("a step", step)
        pauses = [after - before for before, after in itertools.pairwise(times)]
        assert pauses == pytest.approx([0.25, 0.25 + RETRY_S, 0.25 + RETRY_S, 0.25])

    with captured_log() as log:
        virtual_clock.run(main)
    assert len(log.errors) == 2
    assert "a step failed, next try in 1 s" in log.errors[0]


def test_cancelled_step_is_not_repeated() -> None:
    async def main() -> None:
        task = asyncio.ensure_future(repeat("a step", lambda: asyncio.sleep(5, True)))
        await asyncio.sleep(7)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    virtual_clock.run(main)
