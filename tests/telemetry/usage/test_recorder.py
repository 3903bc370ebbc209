"""The recorder: what it counts, when it writes, and what happens if it cannot."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rustygate.core.usage_rows import Grouped, UsageKey, UsageQuery, UsageTotals
from rustygate.plan import virtual_clock
from rustygate.telemetry.usage import recorder as recorder_module
from rustygate.telemetry.usage.memory_store import MemoryUsageStore
from rustygate.telemetry.usage.recorder import WRITE_AFTER_S, UsageRecorder
from rustygate.telemetry.usage.store import Batch, UsageStoreError
from tests.support.gate import Log, captured_log
from tests.telemetry.usage.samples import DAY, EVENING_NS, EVER, PRICES, batch, by, exchange

LABELS = ("a", "m")
SECOND = 10**9


class ScriptedStore(MemoryUsageStore):
    """A store that fails or hangs as it is told, and remembers when it got which batch."""

    def __init__(self) -> None:
        super().__init__()
        self.failure: str | None = None
        self.defect: Exception | None = None
        # Fails although it has counted: the reply was lost.
        self.loses_reply = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.batches: list[tuple[float, dict[UsageKey, UsageTotals]]] = []
        self.is_closed = False

    async def add(self, batch: Batch) -> None:
        now = asyncio.get_running_loop().time()
        self.batches.append((now, dict(batch)))
        await self.gate.wait()
        if self.defect is not None:
            raise self.defect
        if self.failure is not None:
            raise UsageStoreError(self.failure)
        await super().add(batch)

    async def close(self) -> None:
        self.is_closed = True


class Bench:
    """A recorder on a virtual clock, whose wall clock tests can set."""

    def __init__(self, store: ScriptedStore) -> None:
        self.store = store
        self.wall_ns = EVENING_NS
        self.loop = asyncio.get_running_loop()
        self.began = self.loop.time()
        self.recorder = UsageRecorder(store, PRICES, lambda: self.wall_ns)

    def settle(self, labels: tuple[str, str] = LABELS, **stamps: Any) -> None:
        self.recorder.settle(exchange(**({"tokens_in": 0, "tokens_out": 0} | stamps)), labels)

    async def rows(self, query: UsageQuery = EVER) -> Grouped:
        return await self.recorder.rows_by(query)

    async def written(self, query: UsageQuery = EVER) -> Grouped:
        """What the store alone has."""
        return await self.store.rows_by(query)


def run(scenario: Callable[[Bench], Awaitable[None]]) -> Log:
    """Run a scenario on a virtual clock; returns what was logged."""

    async def main() -> None:
        await scenario(Bench(ScriptedStore()))

    with captured_log() as log:
        virtual_clock.run(main)
    return log


# What is counted.


def test_all_amounts_of_an_exchange_are_counted() -> None:
    async def scenario(bench: Bench) -> None:
        for _ in range(2):
            bench.settle(
                tokens_in=11,
                tokens_cached=5,
                tokens_out=7,
                tokens_reasoning=3,
                queued=1_234_567,
            )
        [(key, totals)] = await bench.rows()
        assert key == (DAY, "a", "m")
        assert (totals.exchanges, totals.refused) == (2, 0)
        assert (totals.tokens_in, totals.tokens_cached, totals.tokens_out) == (22, 10, 14)
        assert totals.tokens_reasoning == 6
        assert (totals.tokens_estimated, totals.queued_us) == (0, 2468)
        assert (totals.cost_nano_usd, totals.unpriced) == (2 * 87_000, 0)

    run(scenario)


def test_estimated_tokens_are_counted_apart() -> None:
    async def scenario(bench: Bench) -> None:
        bench.settle(tokens_in=11, tokens_out=7, tokens_estimated=True)
        [(_, totals)] = await bench.rows()
        assert (totals.tokens_estimated, totals.tokens_in, totals.tokens_out) == (18, 0, 0)

    run(scenario)


@pytest.mark.parametrize(
    ("outcome", "refused"), [("refused", 1), ("ok", 0), ("upstream_error", 0), ("client_left", 0)]
)
def test_refusals_are_those_of_the_gate(outcome: str, refused: int) -> None:
    async def scenario(bench: Bench) -> None:
        bench.settle(outcome=outcome, status=429)
        [(_, totals)] = await bench.rows()
        assert (totals.exchanges, totals.refused) == (1, refused)
        assert totals.tokens_in == totals.tokens_out == totals.unpriced == 0

    run(scenario)


AMOUNT = st.integers(0, 10**12)
EXCHANGE: st.SearchStrategy[dict[str, Any]] = st.builds(
    dict,
    tokens_in=st.none() | AMOUNT,
    tokens_cached=st.none() | AMOUNT,
    tokens_out=st.none() | AMOUNT,
    queued=AMOUNT,
    tokens_estimated=st.booleans(),
    outcome=st.sampled_from(["ok", "refused"]),
)


@settings(deadline=None, max_examples=50)
@given(exchanges=st.lists(EXCHANGE, max_size=12), pauses=st.lists(st.booleans(), min_size=12))
def test_sums_do_not_depend_on_how_exchanges_are_split(
    exchanges: list[dict[str, Any]], pauses: list[bool]
) -> None:
    """Whether they are written one by one, all together, or with failures in between."""

    async def together(bench: Bench) -> None:
        for each in exchanges:
            bench.settle(**each)
        results.append(await bench.rows())

    async def split(bench: Bench) -> None:
        for each, pause in zip(exchanges, pauses, strict=False):
            bench.settle(**each)
            bench.store.failure = "full" if pause else None
            await asyncio.sleep(0.7)
        results.append(await bench.rows())
        bench.store.failure = None
        await bench.recorder.close()
        results.append(await bench.written())

    results: list[Grouped] = []
    run(together)
    run(split)
    assert results[0] == results[1] == results[2]


def test_exchanges_belong_to_the_utc_day_in_which_they_settle() -> None:
    async def scenario(bench: Bench) -> None:
        for seconds in (0, 1, 2, 86_400, 86_401):
            bench.wall_ns = EVENING_NS + seconds * SECOND
            bench.settle()
        counts = {key: totals.exchanges for (key,), totals in await bench.rows(by_day())}
        assert counts == {"2026-11-28": 1, "2026-11-29": 3, "2026-11-30": 1}

    run(scenario)


def by_day() -> UsageQuery:
    return UsageQuery(EVER.since, EVER.until, ("day",))


def test_clock_that_is_set_back_loses_nothing() -> None:
    async def scenario(bench: Bench) -> None:
        for step in (0, 2, -399 * 86_400, 0, 2):
            bench.wall_ns = EVENING_NS + step * SECOND
            bench.settle()
            if step < 0:
                await asyncio.sleep(1)
        counts = {key: totals.exchanges for (key,), totals in await bench.rows(by_day())}
        assert counts == {"2025-10-25": 1, "2026-11-28": 2, "2026-11-29": 2}

    run(scenario)


# When it is written.


def test_usage_is_written_within_a_second_in_one_batch() -> None:
    async def scenario(bench: Bench) -> None:
        await asyncio.sleep(10)
        for _ in range(5):
            bench.settle()
            await asyncio.sleep(0.05)
        assert bench.store.batches == []
        await asyncio.sleep(WRITE_AFTER_S)
        [(at, written)] = bench.store.batches
        assert at - bench.began == pytest.approx(10 + WRITE_AFTER_S)
        assert written[UsageKey(DAY, "a", "m")].exchanges == 5
        await asyncio.sleep(100)
        assert len(bench.store.batches) == 1

    run(scenario)


def test_busy_gate_writes_more_than_once_a_second() -> None:
    async def scenario(bench: Bench) -> None:
        for _ in range(1000):
            bench.settle()
            await asyncio.sleep(0.01)
        assert 11 <= len(bench.store.batches) <= 13

    run(scenario)


def test_rest_is_written_at_the_end() -> None:
    async def scenario(bench: Bench) -> None:
        bench.settle()
        await bench.recorder.close()
        [(_, totals)] = await bench.written()
        assert totals.exchanges == 1
        assert bench.store.is_closed
        await asyncio.sleep(5)
        assert len(bench.store.batches) == 1

    assert "lost" not in run(scenario).text


def test_report_includes_what_is_not_written_yet() -> None:
    async def scenario(bench: Bench) -> None:
        bench.settle()
        await asyncio.sleep(0.6)
        bench.settle()
        bench.settle(("b", "m"))
        assert await bench.rows(by("client")) == [
            (("a",), UsageTotals(exchanges=2)),
            (("b",), UsageTotals(exchanges=1)),
        ]
        assert await bench.rows(by("client", client="b")) == [(("b",), UsageTotals(exchanges=1))]
        assert await bench.rows(by("client", since="2026-11-29", until="2026-11-30")) == []

    run(scenario)


def test_report_counts_a_batch_that_is_being_written_once() -> None:
    async def scenario(bench: Bench) -> None:
        bench.store.gate.clear()
        bench.settle()
        await asyncio.sleep(WRITE_AFTER_S + 0.1)
        report = asyncio.create_task(bench.rows(by("client")))
        await asyncio.sleep(0.1)
        bench.settle()
        bench.store.gate.set()
        assert await report == [(("a",), UsageTotals(exchanges=2))]

    run(scenario)


# When it cannot be written.


def test_failed_batch_is_repeated_as_it_is() -> None:
    async def scenario(bench: Bench) -> None:
        bench.store.failure = "database or disk is full"
        bench.settle()
        await asyncio.sleep(WRITE_AFTER_S + 0.1)
        for _ in range(4):
            bench.settle()
            await asyncio.sleep(1)
        times = [at - bench.began for at, _ in bench.store.batches]
        assert times == pytest.approx([WRITE_AFTER_S + retry for retry in range(5)])
        assert {len(written) for _, written in bench.store.batches} == {1}
        counts = [w[UsageKey(DAY, "a", "m")].exchanges for _, w in bench.store.batches]
        assert counts == [1] * 5
        assert bench.recorder.unwritten == 5
        bench.store.failure = None
        await asyncio.sleep(2)
        assert bench.recorder.unwritten == 0
        assert await bench.written(by("client")) == [(("a",), UsageTotals(exchanges=5))]

    log = run(scenario)
    assert log.text.count("cannot write usage (database or disk is full)") == 1
    assert log.text.count("usage is written again; none was lost") == 1


def test_defect_of_a_store_is_logged_once_and_loses_nothing() -> None:
    async def scenario(bench: Bench) -> None:
        bench.store.defect = ZeroDivisionError("division")
        bench.settle()
        await asyncio.sleep(5)
        bench.store.defect = None
        await asyncio.sleep(1)
        assert await bench.written(by("client")) == [(("a",), UsageTotals(exchanges=1))]

    log = run(scenario)
    [error] = log.errors
    assert "writing usage failed" in error
    assert "ZeroDivisionError" in error
    assert log.text.count("usage is written again") == 1


def test_what_waits_is_bounded_by_the_labels() -> None:
    async def scenario(bench: Bench) -> None:
        bench.store.failure = "database is locked"
        for number in range(3000):
            bench.settle((f"c{number % 3}", "m"))
            await asyncio.sleep(0.01)
        assert bench.recorder.unwritten == 3000
        assert len(bench.recorder._pending) + len(bench.recorder._batch) <= 6

    run(scenario)


def test_loss_at_the_end_is_logged() -> None:
    async def scenario(bench: Bench) -> None:
        bench.store.failure = "disk I/O error"
        bench.settle(tokens_in=100, tokens_out=20)
        await asyncio.sleep(1)
        bench.settle(tokens_in=3, tokens_out=1, tokens_estimated=True)
        await bench.recorder.close()
        assert bench.store.is_closed

    log = run(scenario)
    assert (
        "usage of 2 exchanges with 124 tokens is lost: it could not be written (disk I/O error)"
        in log.text
    )


def test_store_that_hangs_does_not_keep_the_gate_from_stopping() -> None:
    async def scenario(bench: Bench) -> None:
        bench.settle()
        bench.store.gate.clear()
        await asyncio.sleep(1)
        began = bench.loop.time()
        await bench.recorder.close()
        assert bench.loop.time() - began == pytest.approx(recorder_module.CLOSE_LIMIT_S)

    assert "usage of 1 exchange with 0 tokens is lost" in run(scenario).text


def test_counting_goes_on_while_the_store_hangs() -> None:
    async def scenario(bench: Bench) -> None:
        bench.store.gate.clear()
        for _ in range(100):
            bench.settle()
            await asyncio.sleep(0.1)
        assert len(bench.store.batches) == 1
        assert bench.recorder.unwritten == 100
        bench.store.gate.set()
        await asyncio.sleep(2)
        assert bench.recorder.unwritten == 0

    run(scenario)


# In memory.


async def test_memory_keeps_400_days() -> None:
    store = MemoryUsageStore()
    for day in ("2025-10-23", "2025-10-24", "2026-01-01"):
        await store.add(batch(day=day))
    await store.add(batch(day=DAY))
    kept = [day for (day,), _ in await store.rows_by(by_day())]
    assert kept == ["2025-10-24", "2026-01-01", DAY]
