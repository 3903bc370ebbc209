"""How soon what happens at a member must be reported to its group.

Each call costs the member and Redis more than most requests do, so calls are only made when they
can change what is granted. While no budget is scarce, they cannot: reports then wait for the
heartbeat. While grants come anyway, answers and settlements are reported with the call for the
next one.
"""

from typing import Any

from rustygate.admission.group.pacing import DEMAND_HEARTBEAT, Urgency

_URGENT = {"pause", "slow_down", "pace"}
_FREES_A_SLOT = {"answer", "release"}

# Events that each admission reports.
_ROUTINE = {"answer", "release", "settle", "waive", "float_used"}

# A budget is scarce below this part of its capacity.
_SCARCE = 0.25


class Urgencies:
    """What the last reply says about budgets and waiters.

    Attributes:
        group_waiting: how many requests waited in the group.
        slots_wanted: whether they waited for slots to become free.
        scarce: whether a budget, or slots, may run out before the next heartbeat.
        quiet: the urgency of reports that no waiter depends on.
        own_slots, client_slots: whether the gate, or a client, has a limit of slots.
    """

    def __init__(self, *, own_slots: bool) -> None:
        self.own_slots, self.client_slots = own_slots, False
        self.group_waiting = 0
        self.slots_wanted = False
        self.scarce, self.quiet = True, Urgency.LATER
        self._grants_soon = self._probes = False

    def receive(self, reply: dict[str, Any]) -> None:
        """Adopt a reply."""
        lanes = reply["lanes"]
        self.group_waiting = reply["waiting"]
        self.slots_wanted = self.group_waiting > 0 and reply["next"] < 0
        self._grants_soon = 0 <= reply["next"] <= DEMAND_HEARTBEAT
        self._probes = not all(known for _, known, *_ in lanes)
        quotas = [*reply["quotas"], *(quota for lane in lanes for quota in lane[2:4])]
        self.scarce = self._has_slots or any(
            limit >= 0 and level < limit * _SCARCE for limit, level, *_ in quotas
        )
        self.quiet = Urgency.LATER if self.scarce else Urgency.NONE

    @property
    def _has_slots(self) -> bool:
        return self.own_slots or self.client_slots or self._probes

    def of_event(self, kind: str, *, waiting: bool) -> Urgency:
        """The urgency of an event (`core.group_news`).

        Args:
            waiting: whether requests wait at this member.
        """
        if kind in _URGENT:
            return Urgency.SPACED
        if not self.group_waiting and not waiting:
            return self.quiet
        if kind in _FREES_A_SLOT and self.slots_wanted:
            return Urgency.AT_ONCE
        is_carried = kind in _ROUTINE and self._grants_soon and not self._has_slots
        return Urgency.LATER if is_carried else Urgency.SPACED

    def of_newcomer(self, *, is_first: bool) -> Urgency:
        """The urgency of a request that must wait.

        Args:
            is_first: whether the group knows of no other waiter in its flow, and so will not grant
                it anything.
        """
        if not self.group_waiting:
            return Urgency.AT_ONCE
        return Urgency.SPACED if is_first or not self._grants_soon else Urgency.LATER
