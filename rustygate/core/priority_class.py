"""The priority classes, and the flows of one class.

To predict what is served before an item, a class keeps sums over its flows in pools.
"""

from collections.abc import Hashable, Iterator
from math import inf
from operator import itemgetter
from typing import Generic, TypeVar

from rustygate.core.backlog import NO_WORK, Size, Work, sum_work
from rustygate.core.fair_server import SAMPLE_SIZE, Entity, FairServer, Place
from rustygate.core.flow import Flow, FlowPool, FlowQueue

T = TypeVar("T", bound=Hashable)

# The shares of a contended budget while all classes wait; the best class first.
CLASS_WEIGHTS = {"interactive": 16, "default": 4, "batch": 1}


class PriorityClass(Entity, Generic[T]):
    """A priority class: its flows, the server that orders them, and their pools by number."""

    __slots__ = ("flows", "pools", "server")

    def __init__(self, name: str) -> None:
        super().__init__(name, CLASS_WEIGHTS[name])
        self.flows: dict[Hashable, FlowQueue[T]] = {}
        self.server: FairServer[FlowQueue[T]] = FairServer(self.flows)
        self.pools: dict[int, FlowPool] = {}

    def flow_queue(self, flow: Flow) -> FlowQueue[T]:
        """The queue of a flow, made if necessary, with the flow's present weight."""
        flow_queue = self.flows.get(flow.client)
        if flow_queue is None:
            flow_queue = self.flows[flow.client] = FlowQueue(flow.client, flow.weight)
        elif flow_queue.weight != flow.weight:
            self._leave_pool(flow_queue)
            flow_queue.weight = flow.weight
            self._join_pool(flow_queue)
        return flow_queue

    def update_backlog(self, flow_queue: FlowQueue[T], size: Size, sign: int) -> None:
        """Count an item that joined a flow, or with sign -1, one that left it."""
        self._leave_pool(flow_queue)
        for entity in (flow_queue, self):
            entity.backlog += sign * size.cost
            entity.count += sign
            entity.tokens += sign * size.tokens
        self._join_pool(flow_queue)

    def in_order(self) -> Iterator[tuple[T, Size]]:
        """Its items in the order in which they are served if no other arrives."""
        entries: list[tuple[int, float, T, Size]] = []
        for flow_queue in self.flows.values():
            tag, sequence = flow_queue.start_tag, float(flow_queue.sequence)
            for item, size in flow_queue.sized_items():
                entries.append((tag, sequence, item, size))
                tag, sequence = tag + flow_queue.virtual_cost(size.cost), inf
        entries.sort(key=itemgetter(0, 1))
        return ((item, size) for _, _, item, size in entries)

    def work_ahead(self, flow: Flow) -> Work:
        """About how much of this class is served before an item that `flow` pushed now."""
        flow_queue = self.flows.get(flow.client)
        if flow_queue is None:
            flow_queue = FlowQueue(flow.client, flow.weight)
        server = self.server
        place = server.place_of(flow_queue)
        last_place = server.place_after_backlog(flow_queue, place)
        earlier = server.count_before(last_place)
        if earlier > SAMPLE_SIZE and flow_queue.backlog:
            # Flows whose turn comes after the flow's last item are not served before it.
            depth = earlier / len(server) * flow_queue.backlog / flow_queue.weight
            first_items = self._first_items(earlier, place)
            return sum_work(
                pool.served_until(depth, *first_items.get(number, (NO_WORK, NO_WORK)))
                for number, pool in self.pools.items()
            )
        sample = server.sample(earlier)
        parts = [
            other.served_until(last_place[0], place)
            for other in sample
            if other.backlog and other is not flow_queue
        ]
        others = sum_work(parts, earlier / (len(sample) or 1))
        return sum_work([others, flow_queue.total_work])

    def served_first(self, cost: float) -> Work:
        """The work of the next items of this class up to a cost, as its flows share it."""
        pools = [pool for _, pool in sorted(self.pools.items())]
        weight, depth = sum(pool.weight for pool in pools), 0.0
        for pool in pools:
            depth = cost / weight
            if pool.backlog > depth * pool.weight:
                break
            cost -= pool.backlog
            weight -= pool.weight
        return sum_work(pool.served_until(depth) for pool in pools)

    def _first_items(self, earlier: int, place: Place) -> dict[int, tuple[Work, Work]]:
        """The first items of the `earlier` flows that are served first, by pool.

        A pair for each pool: of the flows whose turn comes before `place`, and of all of them.
        Extrapolated from a sample.
        """
        before_place: dict[int, list[Work]] = {}
        all_of_pool: dict[int, list[Work]] = {}
        sample = self.server.sample(earlier)
        for other in sample:
            if other.backlog:
                all_of_pool.setdefault(other.pool, []).append(other.first_item)
                if (other.start_tag, other.sequence) < place:
                    before_place.setdefault(other.pool, []).append(other.first_item)
        factor = earlier / len(sample)
        return {
            number: (sum_work(before_place.get(number, ()), factor), sum_work(items, factor))
            for number, items in all_of_pool.items()
        }

    def _leave_pool(self, flow_queue: FlowQueue[T]) -> None:
        if flow_queue.backlog:
            pool = self.pools[flow_queue.pool]
            pool.add(flow_queue, -1)
            if not pool.flows:
                del self.pools[flow_queue.pool]

    def _join_pool(self, flow_queue: FlowQueue[T]) -> None:
        if flow_queue.backlog:
            # Two pools for each power of two: depths in a pool differ by less than a half.
            depth = int(flow_queue.backlog / flow_queue.weight)
            flow_queue.pool = (depth**2).bit_length()
            pool = self.pools.get(flow_queue.pool)
            if pool is None:
                pool = self.pools[flow_queue.pool] = FlowPool()
            pool.add(flow_queue)
