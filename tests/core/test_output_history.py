"""Estimates from what recent responses took."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.output_history import (
    DEFAULT_ESTIMATE,
    MAX_PAIRS,
    MIN_SAMPLES,
    WINDOW,
    OutputHistory,
)

tokens = st.integers(0, 100_000)


def history_of(*outputs: int, client: str = "a") -> OutputHistory:
    history = OutputHistory()
    for tokens_out in outputs:
        history.record(client, "m", tokens_out)
    return history


@pytest.mark.parametrize(
    ("outputs", "estimate"),
    [
        ((), DEFAULT_ESTIMATE),
        ((3,), DEFAULT_ESTIMATE),
        ((3, 5000, 4), 5000),
        (range(1, MIN_SAMPLES + 1), MIN_SAMPLES),
        (range(1, 20), 18),
        (range(1, 40), 36),
        (range(1, 1000), 999 - 3),
    ],
    ids=str,
)
def test_estimate_from_own_outputs(outputs: range, estimate: int) -> None:
    assert history_of(*outputs).estimate("a", "m") == estimate


def test_client_with_few_outputs_is_estimated_by_all_clients() -> None:
    history = history_of(*[7] * MIN_SAMPLES)
    assert history.estimate("b", "m") == 7
    history.record("b", "m", 50)
    assert history.estimate("b", "m") == 50
    assert history.estimate("a", "m") == 7


def test_models_are_separate() -> None:
    history = history_of(*[7] * MIN_SAMPLES)
    assert history.estimate("a", "other") == DEFAULT_ESTIMATE
    assert history.estimate("a", None) == DEFAULT_ESTIMATE


@given(st.lists(tokens, min_size=MIN_SAMPLES + 1, max_size=WINDOW + 1))
def test_last_of_any_outputs_exceeds_the_estimate_once_in_ten(outputs: list[int]) -> None:
    """Independent outputs of any distribution are equally likely in any order."""
    exceeding = 0
    for index, last in enumerate(outputs):
        others = outputs[:index] + outputs[index + 1 :]
        exceeding += last > history_of(*others).estimate("a", "m")
    assert exceeding <= len(outputs) / 10


@given(st.lists(tokens, max_size=200), tokens)
def test_estimate_follows_a_change_within_its_window(before: list[int], after: int) -> None:
    history = history_of(*before, *[after] * WINDOW)
    assert history.estimate("a", "m") == after


@given(st.lists(tokens, min_size=WINDOW, max_size=WINDOW), st.integers(100_001, 10**6))
def test_four_outputs_raise_the_estimate(before: list[int], greater: int) -> None:
    assert history_of(*before, *[greater] * 4).estimate("a", "m") == greater


@given(st.lists(tokens, max_size=100))
def test_estimate_is_one_of_the_recorded_outputs(outputs: list[int]) -> None:
    estimate = history_of(*outputs).estimate("a", "m")
    assert estimate in outputs if len(outputs) >= MIN_SAMPLES else estimate >= DEFAULT_ESTIMATE


def test_least_recently_recorded_pair_is_forgotten() -> None:
    history = history_of(*[7] * MIN_SAMPLES)
    for number in range(2 * MAX_PAIRS):
        history.record(f"client {number}", "m", 3)
        history.record("b", "m", 4)
    assert repr(history) == f"<OutputHistory {MAX_PAIRS} of {MAX_PAIRS} pairs>"
    assert history.estimate("b", "m") == 4
    assert history.estimate("a", "m") == 4


def test_estimating_remembers_nothing() -> None:
    history = OutputHistory()
    history.estimate("a", "m")
    assert repr(history) == f"<OutputHistory 0 of {MAX_PAIRS} pairs>"


def test_only_a_window_of_outputs_is_remembered() -> None:
    history = history_of(*range(1000))
    assert {len(outputs) for outputs in history._outputs.values()} == {WINDOW}
