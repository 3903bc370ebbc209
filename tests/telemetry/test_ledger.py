"""Settlement: what is counted, and when which log lines are written."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from loguru import logger

from rustygate.core.verdict import Action
from rustygate.exchange import MS, Exchange
from rustygate.plan import virtual_clock
from rustygate.telemetry.ledger import (
    LOT_LINES,
    WAIT_S,
    WAITING_LINES_LIMIT,
    Ledger,
    log_fields,
)


class Written(list[list[str]]):
    """The ids of the exchanges in each record."""

    def write(self, message: Any) -> None:
        self.append([line["id"] for line in message.record["extra"]["lines"]])


class Counted:
    """Remembers what it is to count."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def settle(self, exchange: Exchange) -> None:
        self.calls.append((exchange,))

    def count_retry(self, reason: str) -> None:
        self.calls.append((reason,))

    def count_upstream_429(self, lane: str | None, verdict: Action) -> None:
        self.calls.append((lane, verdict))

    def count_refusal(self, reason: str) -> None: ...


@pytest.fixture
def written() -> Iterator[Written]:
    found = Written()
    sink = logger.add(found.write, level="INFO", format="")
    yield found
    logger.remove(sink)


def settle(ledger: Ledger, count: int, first: int = 0) -> list[str]:
    """Settle exchanges; returns their ids."""
    ids = [f"e-{number}" for number in range(first, first + count)]
    for each in ids:
        ledger.settle(Exchange("a", "POST", "/v1/x", id=each))
    return ids


def test_lines_are_written_once_a_request_has_gone_upstream(written: Written) -> None:
    async def main() -> None:
        ledger = Ledger(Counted())
        ids = settle(ledger, LOT_LINES)
        ledger.before_sending()
        assert written == []
        await asyncio.sleep(0)
        assert written == [ids]

    virtual_clock.run(main)


def test_fewer_lines_wait_for_more_but_not_for_long(written: Written) -> None:
    async def main() -> None:
        ledger, loop = Ledger(Counted()), asyncio.get_running_loop()
        began = loop.time()
        ids = settle(ledger, LOT_LINES - 1)
        ledger.before_sending()
        await asyncio.sleep(WAIT_S - 0.001)
        assert written == []
        await asyncio.sleep(0.001)
        assert written == [ids]
        assert loop.time() - began == pytest.approx(WAIT_S)

    virtual_clock.run(main)


def test_wait_starts_again_after_lines_were_written(written: Written) -> None:
    async def main() -> None:
        ledger = Ledger(Counted())
        settle(ledger, LOT_LINES)
        await asyncio.sleep(WAIT_S / 2)
        ledger.before_sending()
        await asyncio.sleep(0)
        [late] = settle(ledger, 1, first=LOT_LINES)
        await asyncio.sleep(WAIT_S - 0.001)
        assert len(written) == 1
        await asyncio.sleep(0.001)
        assert written[1:] == [[late]]

    virtual_clock.run(main)


def test_refusals_do_not_wait_for_a_request_to_go_upstream(written: Written) -> None:
    async def main() -> None:
        ledger = Ledger(Counted())
        ids = settle(ledger, WAITING_LINES_LIMIT - 1)
        await asyncio.sleep(0)
        assert written == []
        ids += settle(ledger, 1, first=WAITING_LINES_LIMIT - 1)
        await asyncio.sleep(0)
        assert written == [ids]

    virtual_clock.run(main)


def test_close_writes_what_waits(written: Written) -> None:
    async def main() -> None:
        ledger = Ledger(Counted())
        ids = settle(ledger, 1)
        ledger.close()
        assert written == [ids]
        await asyncio.sleep(2 * WAIT_S)
        assert written == [ids]

    virtual_clock.run(main)


def test_everything_is_counted() -> None:
    """A 429 counts for the lane, which is named as its model if it has no other name."""
    counted = Counted()
    settled = Exchange("a", "POST", "/v1/x", model="model")

    async def main() -> None:
        ledger = Ledger(counted)
        ledger.count_retry("connect")
        ledger.count_upstream_429(settled, Action.PAUSE)
        settled.lane = "lane"
        ledger.count_upstream_429(settled, Action.PASS)
        ledger.settle(settled)
        ledger.close()

    virtual_clock.run(main)
    assert counted.calls == [
        ("connect",),
        ("model", Action.PAUSE),
        ("lane", Action.PASS),
        (settled,),
    ]
    assert settled.settled is not None
    assert settled.settled >= settled.arrived


def test_steps_of_several_exchanges_are_one_debug_record() -> None:
    records: list[Any] = []
    sink = logger.add(lambda message: records.append(message.record), level="DEBUG", format="")

    async def main() -> None:
        ledger = Ledger(Counted())
        for number, steps in enumerate([["0 ms queued", "1 ms admitted"], None, ["0 ms refused"]]):
            ledger.settle(Exchange("a", "POST", "/v1/x", id=f"e-{number}", steps=steps))
        ledger.close()
        ledger.settle(Exchange("a", "POST", "/v1/x"))
        ledger.close()

    virtual_clock.run(main)
    logger.remove(sink)
    found = [(record["level"].name, record["message"]) for record in records]
    assert found == [("INFO", "exchange"), ("DEBUG", "steps"), ("INFO", "exchange")]
    assert records[1]["extra"]["lines"] == [
        {"id": "e-0", "steps": "0 ms queued, 1 ms admitted"},
        {"id": "e-2", "steps": "0 ms refused"},
    ]


def test_line_has_the_facts_of_its_exchange() -> None:
    exchange = Exchange("search", "POST", "/v1/chat", id="e-1", model="gpt", arrived=5 * MS)
    exchange.request_id, exchange.status, exchange.attempts = "r" * 200, 200, 2
    exchange.queued, exchange.first_byte, exchange.settled = 3 * MS + 1, 47 * MS, 95 * MS
    exchange.tokens_in, exchange.tokens_cached, exchange.tokens_out = 10, 4, 7
    exchange.bytes, exchange.outcome = 1234, "ok"
    expected = {
        "id": "e-1",
        "request_id": "r" * 128,
        "client": "search",
        "method": "POST",
        "path": "/v1/chat",
        "model": "gpt",
        "status": 200,
        "attempts": 2,
        "queued_ms": 3,
        "first_byte_ms": 42,
        "total_ms": 90,
        "tokens_in": 10,
        "tokens_cached": 4,
        "tokens_out": 7,
        "bytes": 1234,
        "outcome": "ok",
    }
    assert list(log_fields(exchange).items()) == list(expected.items())
    exchange.reason, exchange.tokens_estimated = "draining", True
    assert log_fields(exchange) == expected | {"reason": "draining", "tokens_estimated": True}
    assert log_fields(Exchange("a", "GET", "/"))["request_id"] is None
