"""Metrics of a gate in a group: whether it is together with the group, and how long calls take."""

from collections.abc import Iterator

from rustygate.admission.group.member import STATES, Member
from rustygate.telemetry.families import Family, gauge
from rustygate.telemetry.series import Histogram

# A call may take 100 ms, and the first one a second.
_BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class GroupMetrics:
    """The metrics of a gate as a member of its group."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._syncs = Histogram(_BOUNDS_S)
        member.on_sync = self._syncs.observe

    def families(self) -> Iterator[Family]:
        yield gauge(
            "rustygate_group_members",
            "Gates in this gate's group, itself included, in gates; 0 while it is not in it.",
            (),
            [((), self._member.members)],
        )
        yield gauge(
            "rustygate_group_state",
            "1 for the state that this gate is in, else 0; state is joining, together or alone.",
            ("state",),
            (((state,), float(state == self._member.state)) for state in STATES),
        )
        yield self._syncs.family(
            "rustygate_group_sync_seconds",
            "Time from a call to the group's Redis until its reply, in seconds; calls without a "
            "reply are not included.",
        )
