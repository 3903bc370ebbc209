"""Metrics of a gate in a group: whether it is together with it, and what its calls take."""

from collections.abc import Callable, Iterator
from typing import Protocol

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from rustygate.telemetry.series import Histogram

STATES = ("joining", "together", "alone")


class Membership(Protocol):
    """What ties the gate to its group.

    Attributes:
        state: one of `STATES`.
        members: how many members the group had at the last reply; 0 without one.
        on_sync: called with the duration of each call that was answered, in nanoseconds.
    """

    state: str
    members: int
    on_sync: Callable[[int], None]


class GroupMetrics:
    """The metrics of a membership."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership
        self._syncs = Histogram()
        membership.on_sync = self._syncs.observe

    def families(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "rustygate_group_members",
            "Gates in this gate's group, itself included, in gates; 0 while it is not in it.",
            value=self._membership.members,
        )
        states = GaugeMetricFamily(
            "rustygate_group_state",
            "1 for the state that this gate is in, else 0; state is joining, together or alone.",
            labels=("state",),
        )
        for state in STATES:
            states.add_metric((state,), float(state == self._membership.state))
        yield states
        yield self._syncs.family(
            "rustygate_group_sync_seconds",
            "Time from a call to the group's Redis until its reply, in seconds; calls without a "
            "reply are not included.",
        )
