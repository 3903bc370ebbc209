"""Members of a group for tests of the scheduler: they keep the rules of `core.group_call`."""

from collections import deque
from dataclasses import dataclass
from typing import Any

from rustygate.core.bucket import SECOND
from rustygate.core.group_demand import FlowKey
from rustygate.core.group_scheduler import BOX_LEASE, GroupScheduler

# Ten requests a second, burst 12.
LIMITS = [SECOND // 10, 12, -1, -1, -1]


def call(name: str, seq: int = 1, **fields: Any) -> dict[str, Any]:
    """A call without any news, the first one registers."""
    return {
        "member": name, "known": int(seq > 1), "seq": seq, "ack": seq - 1, "elapsed": 0,
        "limits": LIMITS, "demand": [], "news": [], "float": [], "slots": [0, [], []],
        "levels": [-1, -1], **fields,
    }  # fmt: skip


def demand(
    count: int,
    *,
    lane: str = "m",
    priority: int = 1,
    client: str = "c",
    weight: float = 1.0,
    tokens: int = 0,
    age: int = 0,
) -> list[Any]:
    """A flow of equal waiters, as in a call."""
    first, rest = min(8, count), max(0, count - 8)
    return [lane, priority, client, weight, [tokens] * first, rest, rest * tokens, age]


class Caller:
    """A member that calls with the fields a test gives."""

    def __init__(self, group: GroupScheduler, name: str, limits: list[int] | None = None) -> None:
        self.group, self.name, self.seq, self.last = group, name, 0, 0
        self.limits = limits or LIMITS

    def sync(self, now: int, *flows: list[Any], **fields: Any) -> dict[str, Any]:
        self.seq += 1
        elapsed, self.last = max(0, now - self.last), now
        values = {"limits": self.limits, "demand": list(flows), "elapsed": elapsed, **fields}
        return self.group.sync(call(self.name, self.seq, **values), now)


@dataclass(eq=False)
class Admitted:
    """An admission: when it was charged, where, and for how much.

    `granted`: not from the float; `unreported`: from the float, and the group was not told yet.
    """

    at: int
    key: FlowKey
    tokens: int
    granted: bool = True
    unreported: bool = False


class Member:
    """A member with waiters in memory.

    Attributes:
        queues: the waiters of each flow: tokens, and when they arrived.
        admitted: everything it admitted; `in_flight`, what has not ended.
    """

    def __init__(self, name: str, limits: list[int], *, weight: float = 1.0) -> None:
        self.name, self.limits, self.weight = name, limits, weight
        self.queues: dict[FlowKey, deque[tuple[int, int]]] = {}
        self.changed: set[FlowKey] = set()
        self.news: list[list[Any]] = []
        self.admitted: list[Admitted] = []
        self.in_flight: list[Admitted] = []
        self.floats: dict[str, list[int]] = {}
        self.seq = self.ack = self.known = self.births = 0
        self.answered_at = self.sent_at = self.given_back = 0
        self.executed_at: int | None = None
        self.pending: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return f"<Member {self.name}>"

    @property
    def waiting(self) -> int:
        return sum(map(len, self.queues.values()))

    def arrive(self, now: int, key: FlowKey, tokens: int = 0) -> None:
        self.queues.setdefault(key, deque()).append((tokens, now))
        self.changed.add(key)

    def leave(self, key: FlowKey) -> None:
        """The last waiter of a flow leaves."""
        if self.queues.get(key):
            self.queues[key].pop()
            self.changed.add(key)

    def finish(self, admission: Admitted) -> None:
        """An exchange ends."""
        self.in_flight.remove(admission)
        lane, _, client = admission.key
        self.news += [["answer", lane], ["release", client]]

    def call(self, now: int, wanted: list[list[Any]] | None = None) -> dict[str, Any]:
        """The next call, or the last one again if it was not answered."""
        if self.pending is not None:
            return self.pending
        self.seq += 1
        self.sent_at, self.executed_at = now, None
        self.pending = {
            "member": f"{self.name}{self.births}", "known": self.known, "seq": self.seq,
            "ack": self.ack, "elapsed": now - self.answered_at, "limits": self.limits,
            "demand": [self._report(key, now) for key in sorted(self.changed)],
            "news": self.news, "float": wanted or [],
            "slots": [len(self.in_flight), self._slots(0), self._slots(2)],
            "levels": [0, 0] if self.births else [-1, -1],
            "replaces": f"{self.name}{self.births - 1}",
        }  # fmt: skip
        self.changed, self.news = set(), []
        for admission in self.in_flight:
            admission.unreported = False
        return self.pending

    def _slots(self, part: int) -> list[list[Any]]:
        counts: dict[Any, int] = {}
        for each in self.in_flight:
            counts[each.key[part]] = counts.get(each.key[part], 0) + 1
        return [[name, count] for name, count in counts.items()]

    def _report(self, key: FlowKey, now: int) -> list[Any]:
        queue = self.queues.get(key, deque())
        sizes = [tokens for tokens, _ in queue]
        age = now - queue[0][1] if queue else 0
        return [*key, self.weight, sizes[:8], len(sizes[8:]), sum(sizes[8:]), age]

    def deliver(self, group: GroupScheduler, call: dict[str, Any], now: int) -> dict[str, Any]:
        """The call arrives, perhaps once more."""
        if self.executed_at is None:
            self.executed_at = now
        return group.sync(call, now)

    def receive(self, reply: dict[str, Any], now: int) -> None:
        """A reply; one that comes too late is not used."""
        self.pending = None
        if reply.get("stale") or reply.get("ignored") or now - self.sent_at > BOX_LEASE:
            self.register_again()
            return
        self.ack, self.known, self.answered_at = self.seq, 1, self.sent_at
        for lane, index, client, tokens, delay, *_ in reply["grants"]:
            self._use((lane, index, client), tokens, (self.executed_at or 0) + delay)
        self.floats = {lane: [count, tokens] for lane, count, tokens, *_ in reply["floats"]}
        self.changed.update((lane, index, client) for lane, index, client in reply["refused"])

    def _use(self, key: FlowKey, tokens: int, at: int) -> None:
        queue = self.queues.get(key)
        self.changed.add(key)
        lane, _, client = key
        if queue:
            queue.popleft()
            admission = Admitted(at, key, tokens)
            self.admitted.append(admission)
            self.in_flight.append(admission)
        else:
            self.given_back += 1
            self.news += [["give_back", lane, client, tokens]]
            self.news += [["answer", lane], ["release", client]]

    def use_float(self, now: int, key: FlowKey) -> bool:
        """Admit a newcomer from the float, if nothing waits here and a call is not lost."""
        lane, _, client = key
        held = self.floats.get(lane)
        if not held or not held[0] or now - self.answered_at > BOX_LEASE:
            return False
        held[0] -= 1
        admission = Admitted(now, key, held[1], granted=False, unreported=True)
        self.admitted.append(admission)
        self.in_flight.append(admission)
        self.news.append(["float_used", lane, client, held[1]])
        return True

    def register_again(self) -> None:
        """Forget what it held, keep what waits and is in flight."""
        self.births += 1
        self.known = self.seq = self.ack = 0
        self.news, self.floats, self.pending = [], {}, None
        self.changed = {key for key, queue in self.queues.items() if queue}
