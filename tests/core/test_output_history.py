"""What answers took lately."""

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


def history_of(*answers: int, client: str = "a") -> OutputHistory:
    history = OutputHistory()
    for tokens_out in answers:
        history.record(client, "m", tokens_out)
    return history


@pytest.mark.parametrize(
    ("answers", "typical"),
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
def test_typical_of_own_answers(answers: range, typical: int) -> None:
    assert history_of(*answers).estimate("a", "m") == typical


def test_client_with_few_answers_is_reckoned_by_all_clients() -> None:
    history = history_of(*[7] * MIN_SAMPLES)
    assert history.estimate("b", "m") == 7
    history.record("b", "m", 50)
    assert history.estimate("b", "m") == 50
    assert history.estimate("a", "m") == 7


def test_models_are_kept_apart() -> None:
    history = history_of(*[7] * MIN_SAMPLES)
    assert history.estimate("a", "other") == DEFAULT_ESTIMATE
    assert history.estimate("a", None) == DEFAULT_ESTIMATE


@given(st.lists(tokens, min_size=MIN_SAMPLES + 1, max_size=WINDOW + 1))
def test_of_answers_in_any_order_the_last_exceeds_it_once_in_ten(answers: list[int]) -> None:
    """So it does for independent answers of any distribution, whose orders are all as likely."""
    exceeding = 0
    for place, last in enumerate(answers):
        others = answers[:place] + answers[place + 1 :]
        exceeding += last > history_of(*others).estimate("a", "m")
    assert exceeding <= len(answers) / 10


@given(st.lists(tokens, max_size=200), tokens)
def test_it_follows_a_change_within_its_window(before: list[int], after: int) -> None:
    history = history_of(*before, *[after] * WINDOW)
    assert history.estimate("a", "m") == after


@given(st.lists(tokens, min_size=WINDOW, max_size=WINDOW), st.integers(100_001, 10**6))
def test_four_answers_raise_it(before: list[int], greater: int) -> None:
    assert history_of(*before, *[greater] * 4).estimate("a", "m") == greater


@given(st.lists(tokens, max_size=100))
def test_it_lies_among_what_was_noted(answers: list[int]) -> None:
    typical = history_of(*answers).estimate("a", "m")
    assert typical in answers if len(answers) >= MIN_SAMPLES else typical >= DEFAULT_ESTIMATE


def test_pairs_are_bounded_and_the_least_recently_noted_is_forgotten() -> None:
    history = history_of(*[7] * MIN_SAMPLES)
    for number in range(2 * MAX_PAIRS):
        history.record(f"client {number}", "m", 3)
        history.record("b", "m", 4)
    assert repr(history) == f"<OutputHistory {MAX_PAIRS} of {MAX_PAIRS} pairs>"
    assert history.estimate("b", "m") == 4
    assert history.estimate("a", "m") == 4


def test_asking_remembers_nothing() -> None:
    history = OutputHistory()
    history.estimate("a", "m")
    assert repr(history) == f"<OutputHistory 0 of {MAX_PAIRS} pairs>"


def test_an_answer_is_remembered_only_so_long() -> None:
    history = history_of(*range(1000))
    assert {len(answers) for answers in history._answers.values()} == {WINDOW}
