"""The priority classes, and the flows of one."""

from collections.abc import Hashable
from typing import Generic, TypeVar

from rustygate.core.backlog import NOTHING, Size, Work, total
from rustygate.core.fair_server import SAMPLE_SIZE, FairServer, Member
from rustygate.core.flow import Flow, FlowPool, FlowQueue

T = TypeVar("T", bound=Hashable)

# What the classes get of a contended budget while they all wait.
CLASS_WEIGHTS = {"interactive": 16, "default": 4, "batch": 1}


class PriorityClass(Member, Generic[T]):
    """A priority class: the flows in it, the server that serves them, and their pools."""

    __slots__ = ("flows", "pools", "server")

    def __init__(self, name: str) -> None:
        super().__init__(name, CLASS_WEIGHTS[name])
        self.flows: dict[Hashable, FlowQueue[T]] = {}
        self.server: FairServer[FlowQueue[T]] = FairServer(self.flows)
        self.pools: dict[int, FlowPool] = {}

    def line(self, flow: Flow) -> FlowQueue[T]:
        line = self.flows.get(flow.client)
        if line is None:
            line = self.flows[flow.client] = FlowQueue(flow.client, flow.weight)
        elif line.weight != flow.weight:
            self._leave_pool(line)
            line.weight = flow.weight
            self._join_pool(line)
        return line

    def add(self, line: FlowQueue[T], size: Size, sign: int) -> None:
        """Count an item that came to a flow, or left it."""
        self._leave_pool(line)
        for member in (line, self):
            member.backlog += sign * size.cost
            member.count += sign
            member.tokens += sign * size.tokens
        self._join_pool(line)

    def work_ahead(self, flow: Flow) -> Work:
        """About how much of this class goes before an item that `flow` pushed now."""
        line = self.flows.get(flow.client)
        if line is None:
            line = FlowQueue(flow.client, flow.weight)
        server = self.server
        place = server.place_of(line)
        end = server.end_of(line, place)
        begun = server.before(end)
        if begun > SAMPLE_SIZE and line.backlog:
            # Of those whose turn comes after its last item, none gets anything.
            depth = begun / len(server) * line.backlog / line.weight
            heads = self._heads(begun, place)
            return total(
                pool.until(depth, *heads.get(number, (NOTHING, NOTHING)))
                for number, pool in self.pools.items()
            )
        some = server.sample(begun)
        parts = [
            other.until(end[0], place) for other in some if other.backlog and other is not line
        ]
        others = total(parts, begun / (len(some) or 1))
        return total([others, line.whole])

    def first(self, cost: float) -> Work:
        """So much of what it has waiting, as its flows share it."""
        pools = [pool for _, pool in sorted(self.pools.items())]
        weight, depth = sum(pool.weight for pool in pools), 0.0
        for pool in pools:
            depth = cost / weight
            if pool.backlog > depth * pool.weight:
                break
            cost -= pool.backlog
            weight -= pool.weight
        return total(pool.until(depth) for pool in pools)

    def _heads(self, begun: int, place: tuple[int, float]) -> dict[int, tuple[Work, Work]]:
        """The first items of those of so many flows whose turn comes before a place, and of all
        of them, by pool, as a sample tells."""
        due: dict[int, list[Work]] = {}
        all_of: dict[int, list[Work]] = {}
        some = self.server.sample(begun)
        for other in some:
            if other.backlog:
                all_of.setdefault(other.pool, []).append(other.head)
                if (other.start, other.entry) < place:
                    due.setdefault(other.pool, []).append(other.head)
        times = begun / len(some)
        return {
            number: (total(due.get(number, ()), times), total(heads, times))
            for number, heads in all_of.items()
        }

    def _leave_pool(self, line: FlowQueue[T]) -> None:
        if line.backlog:
            pool = self.pools[line.pool]
            pool.add(line, -1)
            if not pool.flows:
                del self.pools[line.pool]

    def _join_pool(self, line: FlowQueue[T]) -> None:
        if line.backlog:
            # Two pools for each power of two: what is averaged differs by less than a half.
            line.pool = (int(line.backlog / line.weight) ** 2).bit_length()
            pool = self.pools.get(line.pool)
            if pool is None:
                pool = self.pools[line.pool] = FlowPool()
            pool.add(line)
