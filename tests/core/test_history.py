"""Histories: the last samples of a number, and the steps of a count."""

from rustygate.core.history import CountHistory, History


def test_history_keeps_the_last_samples() -> None:
    history = History(3)
    assert history.values() == [0, 0, 0]
    for value in (4, 5, 6, 7):
        history.sample(value)
    assert history.values() == [5, 6, 7]


def test_missed_samples_repeat_the_value() -> None:
    history = History(4)
    history.sample(1)
    history.sample(9, 2)
    assert history.values() == [0, 1, 9, 9]
    history.sample(3, 10**9)
    assert history.values() == [3] * 4


def test_count_history_has_the_growth_of_each_interval() -> None:
    history = CountHistory(3, 10)
    assert history.steps() == [0, 0, 0]
    for count in (12, 12, 20, 21):
        history.sample(count)
    assert history.steps() == [0, 8, 1]


def test_growth_includes_what_came_since_the_last_sample() -> None:
    history = CountHistory(3)
    for count in (1, 3, 6):
        history.sample(count)
    assert [history.growth(10, intervals) for intervals in (0, 1, 2, 3, 99)] == [4, 7, 9, 10, 10]


def test_missed_intervals_had_no_growth_but_the_last() -> None:
    history = CountHistory(4)
    history.sample(2)
    history.sample(7, 3)
    assert history.steps() == [2, 0, 0, 5]
    history.sample(8, 10**9)
    assert history.steps() == [0, 0, 0, 1]
