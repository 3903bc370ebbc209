"""The warning about refused requests: once a minute, how many and why."""

import asyncio
import re
from collections import Counter
from collections.abc import Iterator

import pytest
from loguru import logger

from rustygate.plan import virtual_clock
from rustygate.telemetry import refusal_log
from rustygate.telemetry.refusal_log import INTERVAL_S, RefusalLog
from tests.conftest import StartGate
from tests.support.gate import Gate, Log
from tests.support.http import get, response
from tests.support.upstream import Upstream
from tests.support.waiting import until


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """The messages logged at the level warning."""
    messages: list[str] = []
    sink = logger.add(
        lambda text: messages.append(text.strip()), level="WARNING", format="{message}"
    )
    yield messages
    logger.remove(sink)


def test_refusals_of_a_minute_become_one_line(warnings: list[str]) -> None:
    async def scenario() -> None:
        refusals = RefusalLog()
        for reason in ("queue_full", "queue_timeout", "queue_timeout"):
            refusals.count(reason)
            await asyncio.sleep(INTERVAL_S / 4)
        assert warnings == []
        await asyncio.sleep(INTERVAL_S / 4 + 0.1)
        assert warnings == ["refused 3 requests within 60 s: 2 queue_timeout, 1 queue_full"]

    virtual_clock.run(scenario)


def test_quiet_minutes_have_no_line_and_later_refusals_a_new_one(warnings: list[str]) -> None:
    async def scenario() -> None:
        refusals = RefusalLog()
        await asyncio.sleep(10 * INTERVAL_S)
        assert warnings == []
        refusals.count("queue_full")
        await asyncio.sleep(10 * INTERVAL_S)
        refusals.count("not_found")
        await asyncio.sleep(10 * INTERVAL_S)
        assert warnings == [
            "refused 1 request within 60 s: 1 queue_full",
            "refused 1 request within 60 s: 1 not_found",
        ]

    virtual_clock.run(scenario)


def test_end_writes_what_is_pending_once(warnings: list[str]) -> None:
    async def scenario() -> None:
        refusals = RefusalLog()
        refusals.count("draining")
        assert repr(refusals) == "<RefusalLog {'draining': 1}>"
        for _ in range(2):
            refusals.flush()
        await asyncio.sleep(2 * INTERVAL_S)
        assert warnings == ["refused 1 request within 60 s: 1 draining"]

    virtual_clock.run(scenario)


async def serve_and_refuse(running: Gate, upstream: Upstream) -> None:
    upstream.reply = response(b"{}", status="404 Not Found")
    await running.request(get())
    for target in ("/nothing", "/v1/../x", "/nothing"):
        await running.request(get(target))


async def test_gate_logs_only_its_own_refusals(
    gate: StartGate, upstream: Upstream, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusal_log, "INTERVAL_S", 0.2)
    await serve_and_refuse(await gate(), upstream)
    # On a busy machine, they may be in several lines.
    await until(lambda: logged_refusals(log).total() >= 3)
    assert logged_refusals(log) == {"not_found": 2, "bad_request": 1}
    assert re.search(r"refused [123] requests? within 0\.2 s: ", log.text)


def logged_refusals(log: Log) -> Counter[str]:
    """How many were logged, by reason."""
    found: Counter[str] = Counter()
    for line in re.findall(r"refused \d+ requests? within [\d.]+ s: (.*)", log.text):
        for count, reason in re.findall(r"(\d+) (\w+)", line):
            found[reason] += int(count)
    return found


async def test_stopping_gate_logs_the_last_refusals(
    gate: StartGate, upstream: Upstream, log: Log
) -> None:
    running = await gate()
    await serve_and_refuse(running, upstream)
    assert "refused 3 requests" not in log.text
    await running.daemon.stop()
    assert "refused 3 requests within 60 s: 2 not_found, 1 bad_request" in log.text
