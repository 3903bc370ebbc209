"""How soon events are reported, by what the last reply says."""

from typing import Any

import pytest

from rustygate.admission.group.pacing import Urgency
from rustygate.admission.group.urgencies import Urgencies
from rustygate.core.group_scheduler import MS

NO_LIMIT = [-1, 0, 0, 0]


def quota(limit: int, level: int) -> list[int]:
    return [limit, level, MS, 0]


def reply(
    *,
    waiting: int = 0,
    next_in: int = -1,
    own: list[int] = NO_LIMIT,
    lane: list[int] = NO_LIMIT,
    known: int = 1,
) -> dict[str, Any]:
    lanes = [["gpt", known, lane, NO_LIMIT, 0]]
    return {"waiting": waiting, "next": next_in, "quotas": [own, NO_LIMIT], "lanes": lanes}


def urgencies(*, own_slots: bool = False, **fields: Any) -> Urgencies:
    urgencies = Urgencies(own_slots=own_slots)
    urgencies.receive(reply(**fields))
    return urgencies


@pytest.mark.parametrize(
    ("fields", "scarce"),
    [
        ({}, False),
        ({"own": quota(100, 25)}, False),
        ({"own": quota(100, 24)}, True),
        ({"lane": quota(100, 25)}, False),
        ({"lane": quota(100, 24)}, True),
        ({"known": 0}, True),
        ({"own_slots": True}, True),
    ],
    ids=["no limit", "a quarter", "less", "lane", "lane with less", "new model", "slots"],
)
def test_reports_wait_for_the_heartbeat_unless_a_budget_is_scarce(
    fields: dict[str, Any], scarce: bool
) -> None:
    known = urgencies(**fields)
    assert known.scarce is scarce
    expected = Urgency.LATER if scarce else Urgency.NONE
    assert known.of_event("settle", waiting=False) is expected
    assert known.quiet is expected


def test_slots_are_not_wanted_before_the_first_reply() -> None:
    new = Urgencies(own_slots=False)
    assert new.of_event("release", waiting=True) is Urgency.SPACED


def test_budgets_count_as_scarce_before_the_first_reply_and_with_slots_of_clients() -> None:
    assert Urgencies(own_slots=False).scarce
    known = Urgencies(own_slots=False)
    known.client_slots = True
    known.receive(reply())
    assert known.scarce


@pytest.mark.parametrize("kind", ["pause", "slow_down", "pace"])
def test_what_upstream_demands_is_reported_soon(kind: str) -> None:
    assert urgencies().of_event(kind, waiting=False) is Urgency.SPACED


@pytest.mark.parametrize("kind", ["answer", "release"])
def test_slot_that_others_wait_for_is_reported_at_once(kind: str) -> None:
    assert urgencies(waiting=1).of_event(kind, waiting=False) is Urgency.AT_ONCE


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        ("settle", {"next_in": 0}, Urgency.LATER),
        ("waive", {"next_in": 0}, Urgency.LATER),
        ("float_used", {"next_in": 0}, Urgency.LATER),
        ("release", {"next_in": 100 * MS}, Urgency.LATER),
        ("release", {"next_in": 101 * MS}, Urgency.SPACED),
        ("release", {"next_in": 0, "own_slots": True}, Urgency.SPACED),
        ("release", {"next_in": 0, "known": 0}, Urgency.SPACED),
        ("give_back", {"next_in": 0}, Urgency.SPACED),
        ("learn", {"next_in": 0}, Urgency.SPACED),
    ],
    ids=[
        "soon",
        "waived",
        "float",
        "within a heartbeat",
        "far away",
        "slots",
        "new model",
        "given back",
        "level",
    ],
)
def test_what_ends_an_admission_is_reported_with_the_call_for_the_next_grant(
    kind: str, fields: dict[str, Any], expected: Urgency
) -> None:
    assert urgencies(waiting=1, **fields).of_event(kind, waiting=False) is expected


def test_events_are_urgent_while_only_this_member_knows_of_a_waiter() -> None:
    assert urgencies().of_event("settle", waiting=True) is Urgency.SPACED


def test_first_waiter_of_a_flow_is_reported_sooner_than_those_behind_it() -> None:
    assert urgencies().of_newcomer(is_first=False) is Urgency.AT_ONCE
    soon = urgencies(waiting=1, next_in=0)
    assert soon.of_newcomer(is_first=True) is Urgency.SPACED
    assert soon.of_newcomer(is_first=False) is Urgency.LATER
    assert urgencies(waiting=1).of_newcomer(is_first=False) is Urgency.SPACED
