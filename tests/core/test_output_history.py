"""What answers took lately."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.output_history import ENOUGH, PAIRS, TYPICAL_OUTPUT, WINDOW, OutputHistory

tokens = st.integers(0, 100_000)


def history_of(*answers: int, client: str = "a") -> OutputHistory:
    history = OutputHistory()
    for tokens_out in answers:
        history.note(client, "m", tokens_out)
    return history


@pytest.mark.parametrize(
    ("answers", "typical"),
    [
        ((), TYPICAL_OUTPUT),
        ((3,), TYPICAL_OUTPUT),
        ((3, 5000, 4), 5000),
        (range(1, ENOUGH + 1), ENOUGH),
        (range(1, 20), 18),
        (range(1, 40), 36),
        (range(1, 1000), 999 - 3),
    ],
    ids=str,
)
def test_typical_of_own_answers(answers: range, typical: int) -> None:
    assert history_of(*answers).typical("a", "m") == typical


def test_client_with_few_answers_is_reckoned_by_all_clients() -> None:
    history = history_of(*[7] * ENOUGH)
    assert history.typical("b", "m") == 7
    history.note("b", "m", 50)
    assert history.typical("b", "m") == 50
    assert history.typical("a", "m") == 7


def test_models_are_kept_apart() -> None:
    history = history_of(*[7] * ENOUGH)
    assert history.typical("a", "other") == TYPICAL_OUTPUT
    assert history.typical("a", None) == TYPICAL_OUTPUT


@given(st.lists(tokens, min_size=ENOUGH + 1, max_size=WINDOW + 1))
def test_of_answers_in_any_order_the_last_exceeds_it_once_in_ten(answers: list[int]) -> None:
    """So it does for independent answers of any distribution, whose orders are all as likely."""
    exceeding = 0
    for place, last in enumerate(answers):
        others = answers[:place] + answers[place + 1 :]
        exceeding += last > history_of(*others).typical("a", "m")
    assert exceeding <= len(answers) / 10


@given(st.lists(tokens, max_size=200), tokens)
def test_it_follows_a_change_within_its_window(before: list[int], after: int) -> None:
    history = history_of(*before, *[after] * WINDOW)
    assert history.typical("a", "m") == after


@given(st.lists(tokens, min_size=WINDOW, max_size=WINDOW), st.integers(100_001, 10**6))
def test_four_answers_raise_it(before: list[int], greater: int) -> None:
    assert history_of(*before, *[greater] * 4).typical("a", "m") == greater


@given(st.lists(tokens, max_size=100))
def test_it_lies_among_what_was_noted(answers: list[int]) -> None:
    typical = history_of(*answers).typical("a", "m")
    assert typical in answers if len(answers) >= ENOUGH else typical >= TYPICAL_OUTPUT


def test_pairs_are_bounded_and_the_least_recently_noted_is_forgotten() -> None:
    history = history_of(*[7] * ENOUGH)
    for number in range(2 * PAIRS):
        history.note(f"client {number}", "m", 3)
        history.note("b", "m", 4)
    assert repr(history) == f"<OutputHistory {PAIRS} of {PAIRS} pairs>"
    assert history.typical("b", "m") == 4
    assert history.typical("a", "m") == 4


def test_asking_remembers_nothing() -> None:
    history = OutputHistory()
    history.typical("a", "m")
    assert repr(history) == f"<OutputHistory 0 of {PAIRS} pairs>"


def test_an_answer_is_remembered_only_so_long() -> None:
    history = history_of(*range(1000))
    assert {len(answers) for answers in history._answers.values()} == {WINDOW}
