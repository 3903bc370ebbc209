"""The search for upstream's pace, with passed-in time."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.bucket import MINUTE, SECOND, TokenBucket
from rustygate.core.pace import MARGIN, QUIET_TIME, Pace


class Search:
    """A pace that starts at one request a second, and requests at this pace."""

    def __init__(self, accepted: int = 1) -> None:
        self.now = 0
        self.pace = Pace(0, SECOND, accepted)

    @property
    def period_s(self) -> float:
        return self.pace.bucket.period / SECOND

    def release(self) -> int:
        """Release a request as soon as the pace allows."""
        self.now += self.pace.bucket.wait(self.now) or (SECOND if self.now == 0 else 0)
        self.pace.take(self.now)
        return self.now

    def accept(self, count: int = 1) -> None:
        """Release requests; the response to each comes before the next one."""
        for _ in range(count):
            at = self.release()
            self.now += SECOND // 1000
            self.pace.accept(self.now, at)

    def refuse(self) -> bool:
        at = self.release()
        self.now += SECOND // 1000
        return self.pace.refuse(self.now, at)


def test_each_success_leads_to_a_faster_pace() -> None:
    search = Search()
    periods = []
    for _ in range(4):
        search.accept()
        periods.append(search.period_s)
    assert periods == pytest.approx([MARGIN / 1.6**n for n in (1, 2, 3, 4)])


def test_first_step_adds_one_request_to_many() -> None:
    search = Search(accepted=10)
    search.now = SECOND // 10
    periods = []
    for _ in range(4):
        search.accept()
        periods.append(search.period_s)
    steps = (1.1, 1.1 * 1.2, 1.1 * 1.2 * 1.4, 1.1 * 1.2 * 1.4 * 1.6)
    assert periods == pytest.approx([MARGIN / 10 / step for step in steps], rel=1e-6)


def test_requests_behind_a_trial_keep_the_good_pace_until_its_response() -> None:
    search = Search()
    search.accept()
    trial = search.release()
    assert search.pace.bucket.wait(trial) == pytest.approx(MARGIN * SECOND)
    behind = search.release()
    assert search.pace.bucket.wait(behind) == pytest.approx(MARGIN * SECOND)
    assert search.pace.accept(behind + 1, trial)
    assert search.pace.bucket.wait(behind) == pytest.approx(MARGIN / 1.6**2 * SECOND)


def test_run_continues_at_the_tried_pace_after_its_first_success() -> None:
    search = Search()
    search.accept()
    search.refuse()
    search.accept(8)
    trial = search.release()
    middle = MARGIN / 1.6**0.5 * SECOND
    assert search.pace.bucket.wait(trial) == pytest.approx(MARGIN * SECOND)
    assert search.pace.accept(trial + 1, trial)
    assert search.pace.bucket.wait(trial) == pytest.approx(middle)
    behind = search.release()
    assert search.pace.bucket.wait(behind) == pytest.approx(middle)
    assert not search.pace.accept(behind + 1, behind)
    assert search.pace.bucket.wait(behind) == pytest.approx(middle)


def test_refused_trial_is_undone_at_once() -> None:
    search = Search()
    search.accept(2)
    last = search.now - SECOND // 1000
    assert search.refuse()
    assert search.period_s == pytest.approx(MARGIN / 1.6)
    # It took nothing, so that the period counts from the request before it.
    assert search.pace.bucket.full_at == pytest.approx(last + MARGIN / 1.6 * SECOND)


def test_middle_is_tried_after_a_run() -> None:
    search = Search()
    search.accept()
    search.refuse()
    search.accept(7)
    assert search.period_s == pytest.approx(MARGIN)
    search.accept()
    assert search.period_s == pytest.approx(MARGIN / 1.6**0.5)


def test_runs_get_longer_once_the_paces_are_near_each_other() -> None:
    search = Search()
    search.accept()
    search.refuse()
    for run in (8, 8, 8, 16, 32):
        search.accept(run - 1)
        assert search.period_s == pytest.approx(MARGIN)
        search.accept()
        assert search.period_s < MARGIN
        search.refuse()


def test_run_takes_a_minute_at_most() -> None:
    search = Search()
    search.accept()
    for _ in range(9):
        search.refuse()
        began = search.now
        while search.period_s >= MARGIN * 0.99:
            search.accept()
        assert search.now - began <= MINUTE + 2 * SECOND


def test_search_starts_again_once_good_and_refused_pace_are_close() -> None:
    search = Search()
    search.accept()
    search.refuse()
    last = search.period_s
    for _ in range(500):
        search.accept()
        if search.period_s < MARGIN / 1.7:
            break
    assert search.period_s < MARGIN / 1.7
    assert search.period_s < last


def test_refusal_at_a_good_pace_is_followed_by_the_measured_rate() -> None:
    """Upstream had saved requests; it accepted ten between two refusals."""
    search = Search(accepted=5)
    search.refuse()
    refused_at = search.now - SECOND // 1000
    period = search.period_s
    search.accept(7)
    assert search.period_s == pytest.approx(period)
    at = search.release()
    assert search.pace.refuse(at + 1, at)
    measured = (at - refused_at) / SECOND * MARGIN / 8
    assert search.period_s == pytest.approx(max(measured, 1.1 * period))
    assert 1.1 * period <= search.period_s <= 2 * period


def test_refusal_with_nothing_accepted_doubles_the_period() -> None:
    search = Search(accepted=5)
    assert not search.refuse()
    assert search.period_s == pytest.approx(2 * MARGIN / 5)
    assert not search.pace.delivers
    search.accept()
    assert search.pace.delivers


@pytest.mark.parametrize(("late_s", "counts"), [(0.5, True), (0.6, False)])
def test_request_that_came_late_shows_nothing(late_s: float, counts: bool) -> None:
    search = Search()
    search.accept()
    trial = search.pace.bucket.period
    search.now += search.pace.bucket.wait(search.now) + round(trial * late_s)
    search.accept()
    assert (search.pace.bucket.period < trial) is counts


def test_refusals_from_before_the_pace_correct_the_first_guess() -> None:
    search = Search(accepted=4)
    for accepted in (3, 2, 1, 1):
        assert not search.pace.refuse(1, -1)
        assert search.period_s == pytest.approx(MARGIN / accepted)
    assert not search.pace.delivers


def test_refusals_from_before_the_last_one_change_nothing() -> None:
    search = Search()
    search.accept(2)
    trial = search.release()
    behind = search.release()
    search.pace.refuse(behind + 1, trial)
    before = repr(search.pace)
    assert not search.pace.refuse(behind + 2, behind)
    assert repr(search.pace) == before == "<Pace 1 in 0.675 s>"


def test_predictions_wait_for_the_first_refusal_and_are_then_the_least() -> None:
    search = Search()
    search.accept()
    assert search.pace.wait_behind(search.now, 10) == 0
    search.refuse()
    wait = search.pace.bucket.wait(search.now)
    assert wait > 0
    expected = wait + 10 * MARGIN / 1.6 * SECOND
    assert search.pace.wait_behind(search.now, 10) == pytest.approx(expected)


def test_pace_is_over_after_a_quiet_minute() -> None:
    search = Search()
    search.accept()
    full_at = search.pace.bucket.full_at
    assert not search.pace.is_over(full_at + QUIET_TIME)
    assert search.pace.is_over(full_at + QUIET_TIME + 1)


def responses(rate: float, burst: int, search: Search, count: int) -> Iterator[bool]:
    """Whether upstream accepts each of this many requests; it has nothing left at first."""
    upstream = TokenBucket.from_rate(rate, burst)
    upstream.fill_to(0, 0)
    for _ in range(count):
        at = search.release()
        accepted = upstream.wait(at) == 0
        search.now += SECOND // 50
        if accepted:
            upstream.take(at)
            search.pace.accept(search.now, at)
        else:
            search.pace.refuse(search.now, at)
        yield accepted


@pytest.mark.parametrize("rate", [0.2, 1, 2, 3, 4.5, 7, 15, 40])
@pytest.mark.parametrize("burst", [1, 3, 20])
@pytest.mark.parametrize("guess", [1, 5])
def test_search_finds_any_rate(rate: float, burst: int, guess: int) -> None:
    search = Search(guess)
    first = list(responses(rate, burst, search, 40))
    assert first.count(False) <= 8
    began = search.now
    accepted = sum(responses(rate, burst, search, 200))
    assert accepted >= 170
    possible = rate * (search.now - began) / SECOND
    assert 0.8 * possible <= accepted <= possible + burst


@given(
    st.integers(0, 10 * MINUTE),
    st.integers(-9, 1000),
    st.lists(st.tuples(st.integers(0, MINUTE), st.booleans(), st.integers(0, SECOND))),
)
def test_any_responses_leave_a_pace_between_a_millisecond_and_a_minute(
    window: int, accepted: int, answers: list[tuple[int, bool, int]]
) -> None:
    pace, now = Pace(0, window, accepted), 0
    for elapsed, ok, age in answers:
        now += elapsed + pace.bucket.wait(now + elapsed)
        pace.take(now)
        if ok:
            pace.accept(now + age, now)
        else:
            pace.refuse(now + age, now - age % 2)
        assert SECOND // 1000 <= pace.bucket.period <= MINUTE
        assert pace.bucket.wait(now) <= MINUTE
