"""When the log lines of settled exchanges are written."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from loguru import logger

from rustygate.core.verdict import Action
from rustygate.exchange import Exchange
from rustygate.plan import virtual_clock
from rustygate.telemetry.ledger import LOT_LINES, WAIT_S, WAITING_LINES_LIMIT, Ledger


class Written(list[list[str]]):
    """The ids of the exchanges in each record."""

    def write(self, message: Any) -> None:
        self.append([line["id"] for line in message.record["extra"]["lines"]])


class NoTally:
    """Counts nothing."""

    def settle(self, exchange: Exchange) -> None: ...

    def count_retry(self, reason: str) -> None: ...

    def count_upstream_429(self, lane: str | None, verdict: Action) -> None: ...

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
        ledger = Ledger(NoTally())
        ids = settle(ledger, LOT_LINES)
        ledger.before_sending()
        assert written == []
        await asyncio.sleep(0)
        assert written == [ids]

    virtual_clock.run(main)


def test_fewer_lines_wait_for_more_but_not_for_long(written: Written) -> None:
    async def main() -> None:
        ledger, loop = Ledger(NoTally()), asyncio.get_running_loop()
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
        ledger = Ledger(NoTally())
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
        ledger = Ledger(NoTally())
        ids = settle(ledger, WAITING_LINES_LIMIT - 1)
        await asyncio.sleep(0)
        assert written == []
        ids += settle(ledger, 1, first=WAITING_LINES_LIMIT - 1)
        await asyncio.sleep(0)
        assert written == [ids]

    virtual_clock.run(main)


def test_close_writes_what_waits(written: Written) -> None:
    async def main() -> None:
        ledger = Ledger(NoTally())
        ids = settle(ledger, 1)
        ledger.close()
        assert written == [ids]
        await asyncio.sleep(2 * WAIT_S)
        assert written == [ids]

    virtual_clock.run(main)
