"""Grants that a member has received, but not handed out yet, because they are not due."""

from collections import Counter, deque
from typing import Any, NamedTuple

from rustygate.core.group_demand import FlowKey
from rustygate.core.lane import AdmissionTotals


class PendingGrant(NamedTuple):
    """An admission of a flow.

    Attributes:
        at: not before this instant of the member's clock.
        totals: its mark, the totals of its lane with it.
        version: of the clients' limits that it was charged to.
    """

    key: FlowKey
    tokens: int
    at: int
    totals: AdmissionTotals
    version: int


class PendingGrants:
    """The grants, in the order of their instants. `by_flow` counts them."""

    def __init__(self) -> None:
        self._grants: deque[PendingGrant] = deque()
        self.by_flow: Counter[FlowKey] = Counter()

    def __len__(self) -> int:
        return len(self._grants)

    def __repr__(self) -> str:
        return f"<PendingGrants {len(self)}>"

    @property
    def next_at(self) -> int | None:
        return self._grants[0].at if self._grants else None

    def add(self, grants: list[list[Any]], now: int) -> None:
        """Add those of a reply that arrives now."""
        if not grants:
            return
        for lane, index, client, tokens, delay, total_requests, total_tokens, version in grants:
            at = now + delay
            totals = AdmissionTotals(at, total_requests, total_tokens)
            self._grants.append(PendingGrant((lane, index, client), tokens, at, totals, version))
            self.by_flow[lane, index, client] += 1
        self._grants = deque(sorted(self._grants, key=lambda grant: grant.at))

    def pop(self) -> PendingGrant:
        """Take the one that is due first."""
        grant = self._grants.popleft()
        self.by_flow[grant.key] -= 1
        if not self.by_flow[grant.key]:
            del self.by_flow[grant.key]
        return grant

    def clear(self) -> None:
        self._grants.clear()
        self.by_flow.clear()
