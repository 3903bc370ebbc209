"""Grants that are not due yet."""

from rustygate.admission.group.grants import PendingGrant, PendingGrants
from rustygate.core.lane import AdmissionTotals


def test_grants_are_taken_in_the_order_of_their_instants() -> None:
    grants = PendingGrants()
    assert (len(grants), grants.next_at) == (0, None)
    grants.add([["m", 1, "a", 5, 30, 1, 5, 0], ["m", 1, "b", 6, 10, 2, 11, 7]], 100)
    grants.add([], 100)
    grants.add([["m", 1, "a", 9, 5, 3, 20, 0]], 100)
    assert repr(grants) == "<PendingGrants 3>"
    assert dict(grants.by_flow) == {("m", 1, "a"): 2, ("m", 1, "b"): 1}
    assert (len(grants), grants.next_at) == (3, 105)
    grants.pop()
    assert dict(grants.by_flow) == {("m", 1, "a"): 1, ("m", 1, "b"): 1}
    assert grants.pop() == PendingGrant(("m", 1, "b"), 6, 110, AdmissionTotals(110, 2, 11), 7)
    assert dict(grants.by_flow) == {("m", 1, "a"): 1}
    assert grants.next_at == 130
    grants.clear()
    assert not grants
    assert not grants.by_flow
