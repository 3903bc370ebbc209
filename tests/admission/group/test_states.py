"""What the log says of a gate's group: each change once."""

import asyncio
from collections.abc import Iterator

import pytest
from loguru import logger

from rustygate.admission.group.dispatcher import GroupDispatcher
from rustygate.admission.group.local_store import Fault
from rustygate.admission.group.store import (
    Call,
    Reply,
    StoreError,
    StoreRefused,
    StoreUnready,
    SyncFailed,
)
from tests.support.group import GroupHarness, run_group


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """The lines of the log, with their levels."""
    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(str(line).strip()), format="{level} {message}")
    yield lines
    logger.remove(sink)


def test_each_change_of_the_state_is_logged_once(lines: list[str]) -> None:
    async def scenario(harness: GroupHarness) -> None:
        harness.flood("a", 0, 5)
        await asyncio.sleep(1)
        harness.group.fault = Fault.HANG
        await asyncio.sleep(10)
        harness.group.fault = None
        await asyncio.sleep(2)
        harness.group.lose_state()
        await asyncio.sleep(2)

    run_group(scenario, gates=1, gate_group="g")
    assert lines == [
        "INFO joined group g: 1 member",
        "WARNING the Redis of group g does not answer (no answer within 100 ms): this gate "
        "continues alone with 100% of the limits until it does",
        "INFO Redis answers again: joined group g again, 1 member",
        "INFO group g has forgotten this gate: registering again",
    ]


def test_gate_that_is_alone_collects_no_news() -> None:
    async def scenario(harness: GroupHarness) -> None:
        harness.flood("a", 0, 5)
        await asyncio.sleep(1)
        harness.group.fault = Fault.HANG
        await asyncio.sleep(10)
        dispatcher = harness.gates[0].dispatcher
        assert isinstance(dispatcher, GroupDispatcher)
        assert dispatcher.local
        assert repr(dispatcher.news) == "<News 0 events>"

    run_group(scenario, gates=1)


def test_gate_whose_call_was_overtaken_joins_again(
    monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    """A call under its name with a higher number was served before."""
    calls: list[Call] = []

    async def ignore(call: Call, limit_s: float) -> Reply:
        calls.append(call)
        monkeypatch.undo()
        return {"ignored": 1}

    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        monkeypatch.setattr(harness.stores[0], "sync", ignore)
        await asyncio.sleep(2)
        assert len(calls) == 1
        assert (harness.states(), len(harness.group.scheduler.members)) == (["together"], 1)

    run_group(scenario, gates=1, gate_group="g")
    assert lines == [
        "INFO joined group g: 1 member",
        "INFO group g has forgotten this gate: registering again",
    ]


def test_defect_that_lasts_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    async def fail(call: Call, limit_s: float) -> Reply:
        raise SyncFailed("the group's keys hold something else")

    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        for _ in range(2):
            with monkeypatch.context() as patch:
                patch.setattr(harness.stores[0], "sync", fail)
                await asyncio.sleep(10)
            await asyncio.sleep(2)

    run_group(scenario, gates=1, gate_group="g")
    defect = "ERROR a call to group g failed: the group's keys hold something else"
    assert [line for line in lines if line.startswith("ERROR")] == [defect] * 2


@pytest.mark.parametrize(
    ("error", "warning"),
    [
        (
            StoreRefused("wrong user or password"),
            "the Redis of group g refuses this gate (wrong user or password): this gate "
            "continues alone with 50% of the limits until that is corrected",
        ),
        (
            StoreUnready("the server is loading its data"),
            "the Redis of group g cannot serve it (the server is loading its data): this gate "
            "continues alone with 50% of the limits until it can",
        ),
        (
            SyncFailed("the group's data is damaged", "user_script:1: bad"),
            "calls to group g fail: this gate continues alone with 50% of the limits until they "
            "succeed",
        ),
    ],
    ids=["refused", "unready", "failed"],
)
def test_warning_names_the_reason(
    monkeypatch: pytest.MonkeyPatch, lines: list[str], error: StoreError, warning: str
) -> None:
    calls = 0

    async def fail(call: Call, limit_s: float) -> Reply:
        nonlocal calls
        calls += 1
        raise error

    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        monkeypatch.setattr(harness.stores[0], "sync", fail)
        await asyncio.sleep(10)

    run_group(scenario, gates=2, gate_group="g")
    assert [line for line in lines if "WARNING" in line] == [f"WARNING {warning}"]
    # A failure that somebody must correct is not retried often.
    assert calls == pytest.approx(100 if isinstance(error, StoreUnready) else 11, abs=5)
    errors = [line for line in lines if "ERROR" in line]
    expected = "ERROR a call to group g failed: the group's data is damaged"
    assert errors == [expected] * isinstance(error, SyncFailed)


def test_another_reason_is_logged_if_somebody_must_correct_it(
    monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    async def refuse(call: Call, limit_s: float) -> Reply:
        raise StoreRefused("wrong user or password")

    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        for _ in range(2):
            harness.stores[0].fault = Fault.REFUSE
            await asyncio.sleep(5)
            with monkeypatch.context() as patch:
                patch.setattr(harness.stores[0], "sync", refuse)
                await asyncio.sleep(5)

    run_group(scenario, gates=1, gate_group="g")
    assert [line for line in lines if "WARNING" in line] == [
        "WARNING the Redis of group g does not answer (connection refused): this gate continues "
        "alone with 100% of the limits until it does",
        "WARNING the Redis of group g refuses this gate (wrong user or password): this gate stays "
        "alone until that is corrected",
    ]


def test_gate_that_starts_without_its_store_says_that_it_uses_all_of_the_limits(
    lines: list[str],
) -> None:
    async def scenario(harness: GroupHarness) -> None:
        harness.group.fault = Fault.REFUSE
        await asyncio.sleep(5)
        harness.group.fault = None
        await asyncio.sleep(1)

    run_group(scenario, gates=1, gate_group="g")
    assert lines == [
        "WARNING the Redis of group g does not answer (connection refused): until it does, "
        "this gate is alone with all of the limits, because it knows of no other gate",
        "INFO joined group g: 1 member",
    ]


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ({"rate_limit": 5}, "RATE_LIMIT is 50 here and 5 there"),
        ({"rate_limit_burst": 1}, "RATE_LIMIT_BURST is 4 here and 1 there"),
        ({"tokens_per_minute": 700}, "TOKENS_PER_MINUTE is not set here and 700 there"),
        (
            {"rate_limit": 3, "concurrency_limit": 2},
            "RATE_LIMIT is 50 here and 3 there, CONCURRENCY_LIMIT is not set here and 2 there",
        ),
        ({"rate_limit": 70, "rate_limit_burst": 9}, ""),
    ],
    ids=str,
)
def test_different_limits_are_named_with_both_values(
    lines: list[str], other: dict[str, int], text: str
) -> None:
    async def scenario(harness: GroupHarness) -> None:
        harness.add_gate(**other)
        await asyncio.sleep(2)

    run_group(scenario, gates=1, gate_group="g", rate_limit=50, rate_limit_burst=4)
    warnings = [line for line in lines if "WARNING" in line]
    if not text:
        text = "RATE_LIMIT is 70 here and 50 there, RATE_LIMIT_BURST is 9 here and 4 there"
    assert warnings == [
        f"WARNING the gates of group g have different limits: {text}; the strictest value of each "
        "applies to all, so set the same values at all of them"
    ]


def test_burst_of_a_gate_that_learns_its_limits_is_named(lines: list[str]) -> None:
    async def scenario(harness: GroupHarness) -> None:
        harness.add_gate(rate_limit_burst=2)
        harness.add_gate(rate_limit=3, rate_limit_burst=1)
        await asyncio.sleep(2)

    run_group(scenario, gates=1, rate_limit=None, rate_limit_burst=5)
    told = [line.partition("limits: ")[2].partition(";")[0] for line in lines if "there" in line]
    # The first one sees the second one first, then the third one.
    assert "RATE_LIMIT_BURST is 5 here and 2 there" in " ".join(told)
    assert "RATE_LIMIT is auto here and 3 there" in " ".join(told)


def test_gates_with_different_limits_say_so_once(lines: list[str]) -> None:
    async def scenario(harness: GroupHarness) -> None:
        strict = harness.add_gate(rate_limit=5)
        await asyncio.sleep(1)
        harness.flood("a", 0, 10)
        harness.flood("a", strict, 10)
        await asyncio.sleep(10)

    harness = run_group(scenario, gates=1, rate_limit=50, rate_limit_burst=1)
    # The other one has the limits that count.
    assert sum("different limits" in line for line in lines) == 1
    assert harness.total(2, 11) == pytest.approx(45, abs=2)


def test_defect_of_the_gate_is_logged_and_calls_continue(
    monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    def fail(now: int) -> None:
        raise RuntimeError("defect")

    async def scenario(harness: GroupHarness) -> None:
        await asyncio.sleep(1)
        with monkeypatch.context() as patch:
            patch.setattr(harness.gates[0].dispatcher, "report", fail)
            harness.flood("a", 0, 5)
            await asyncio.sleep(3)
            assert harness.states() == ["alone"]
        await asyncio.sleep(2)
        assert harness.states() == ["together"]

    harness = run_group(scenario, gates=1, gate_group="g", rate_limit=40, rate_limit_burst=2)
    assert harness.errors == []
    # The calls that fail are 1 s apart, and no request waits for them.
    assert harness.total(1.6, 4) >= 0.95 * 40 * 2.4
    failed = [line for line in lines if "calling group g failed, next try in 1 s" in line]
    assert 1 <= len(failed) <= 4
    assert any(line.startswith("WARNING calls to group g fail: this gate") for line in lines)
