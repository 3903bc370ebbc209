"""Shares that are due: by weights, and nobody more than it wants."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.fair_shares import Want, divide, due_shares

approx = pytest.approx


def test_those_who_want_enough_share_by_weight() -> None:
    wants = {"a": Want(2, 1000), "b": Want(1, 1000)}
    assert divide(wants, 90) == approx({"a": 60, "b": 30})


def test_what_one_does_not_want_goes_to_the_others_by_weight() -> None:
    wants = {"a": Want(1, 10), "b": Want(1, 1000), "c": Want(3, 1000)}
    assert divide(wants, 90) == approx({"a": 10, "b": 20, "c": 60})


def test_all_get_what_they_want_if_there_is_enough() -> None:
    wants = {"a": Want(1, 10), "b": Want(100, 20)}
    assert divide(wants, 1000) == approx({"a": 10, "b": 20})
    assert divide({}, 10) == {}


def test_classes_share_16_to_4_to_1_and_clients_inside_them() -> None:
    wants = [{"a": Want(1, 999)}, {"a": Want(1, 999), "b": Want(3, 999)}, {"c": Want(1, 999)}]
    interactive, default, batch = due_shares(wants, 210)
    assert interactive == approx({"a": 160})
    assert default == approx({"a": 10, "b": 30})
    assert batch == approx({"c": 10})


def test_class_that_wants_nothing_leaves_its_share() -> None:
    assert due_shares([{}, {"a": Want(1, 999)}, {"b": Want(1, 999)}], 50) == [
        {},
        approx({"a": 40}),
        approx({"b": 10}),
    ]


# Without numbers so small that they have few digits.
amounts = st.just(0.0) | st.floats(1e-6, 1e12)
wants = st.dictionaries(
    st.integers(0, 20), st.builds(Want, st.floats(0.001, 1000), amounts), min_size=1
)


@given(wants, amounts)
def test_division_is_max_min_fair(wanted: dict[int, Want], total: float) -> None:
    got = divide(wanted, total)
    assert got.keys() == wanted.keys()
    want = sum(each.amount for each in wanted.values())
    assert sum(got.values()) == approx(min(total, want), rel=1e-6, abs=1e-6)
    # A client that is left short has no less for its weight than any other.
    rates = {key: got[key] / wanted[key].weight for key in got}
    for key, each in wanted.items():
        assert got[key] <= each.amount
        if got[key] < each.amount * (1 - 1e-9) - 1e-6:
            assert rates[key] >= max(rates.values()) * (1 - 1e-6)
