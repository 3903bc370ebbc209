"""What waits in a group: each member's demand in each flow."""

from collections import deque
from dataclasses import dataclass

from rustygate.core.scopes import ClientScope, Flow, LaneScope, Share

# The key of a flow: lane, class and client.
FlowKey = tuple[str, int, str]


@dataclass(slots=True)
class Demand:
    """What a member has waiting in a flow.

    Attributes:
        sizes: the tokens of its first waiters.
        rest, rest_tokens: how many more there are, and their tokens.
        since: when its first waiter arrived, or when the last one was granted: the members of a
            flow take turns.
        weight: the client's, as this member knows it.
    """

    sizes: deque[int]
    rest: int
    rest_tokens: int
    since: int
    weight: float

    @property
    def count(self) -> int:
        return len(self.sizes) + self.rest

    @property
    def tokens(self) -> int:
        return sum(self.sizes) + self.rest_tokens

    @property
    def first(self) -> int:
        """The tokens of the first waiter; the average if its own size was not reported."""
        return self.sizes[0] if self.sizes else self.rest_tokens // self.rest

    def take(self, at: int) -> int:
        """Count out the first waiter, which is granted."""
        tokens = self.first
        if self.sizes:
            self.sizes.popleft()
        else:
            self.rest -= 1
            self.rest_tokens -= tokens
        self.since = max(self.since, at)
        return tokens


class GroupFlow(Flow[str]):
    """A flow whose items are counted by member. An item is the name of its member.

    Attributes:
        size: as of the last `recount` or `pop`.
        counted: under which depth its lane has counted it, and how: items, tokens, weight.
    """

    __slots__ = ("counted", "demands")

    def __init__(
        self, share: Share[str], lane: LaneScope[str], client: ClientScope[str] | None
    ) -> None:
        super().__init__(share, lane, client)
        self.demands: dict[str, Demand] = {}
        self.counted: tuple[int, int, int, float] | None = None

    @property
    def next_member(self) -> str:
        """The member whose first waiter has waited longest."""
        return min(self.demands, key=lambda name: (self.demands[name].since, name))

    def pop(self, at: int) -> tuple[str, int]:
        name = self.next_member
        demand = self.demands[name]
        tokens = demand.take(at)
        if not demand.count:
            del self.demands[name]
        self.count -= 1
        self.tokens -= tokens
        self._find_first()
        return name, tokens

    def recount(self) -> tuple[int, int]:
        """Count the items again. Returns by how many items and tokens they have grown."""
        count = sum(demand.count for demand in self.demands.values())
        tokens = sum(demand.tokens for demand in self.demands.values())
        change = count - self.count, tokens - self.tokens
        self.count, self.tokens = count, tokens
        self._find_first()
        return change

    def _find_first(self) -> None:
        self.size = self.demands[self.next_member].first if self.demands else 0
