"""Random calls of a group's members: arrivals, lost replies, deaths, floats, learned limits."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

MS = 1_000_000
SECOND = 1000 * MS
MINUTE = 60 * SECOND

Call = dict[str, Any]
Key = tuple[str, int, str]


@dataclass
class Simulated:
    """A member: what waits in it, and what it holds."""

    name: str
    limits: list[int]
    known: int = 0
    seq: int = 0
    ack: int = 0
    called_at: int = 0
    repeats: Call | None = None
    waiting: dict[Key, list[list[int]]] = field(default_factory=dict)
    changed: set[Key] = field(default_factory=set)
    granted: list[list[Any]] = field(default_factory=list)
    sent: list[list[Any]] = field(default_factory=list)
    floats: dict[str, list[Any]] = field(default_factory=dict)
    news: list[list[Any]] = field(default_factory=list)
    before: str = ""
    latest: Call | None = None
    older: Call | None = None
    silent_until: int = 0


class Trace:
    """Calls of members, each made from the replies to those before."""

    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)
        self.now = random.choice([0, 0, random.randrange(2**40), 2**51 - SECOND])
        self.drift = 0
        self.names = 0
        self.marks = {}
        self.clients_version = 0
        self.clients: list[list[Any]] | None = None
        self.lanes = [f"lane {number}" for number in range(random.choice([1, 1, 2, 3, 6]))]
        self.users = [
            f"user-{number} é{number:b}" for number in range(random.choice([2, 4, 9, 80]))
        ]
        self.classes = random.choice([[1], [0, 2], [0, 1, 2]])
        self.sizes = random.choice([[0], [10], [1, 100, 2500]])
        self.with_rest = random.random() < 0.5
        self.limited = random.choice([0, 1, 1])
        self.fault = random.choice([0.0, 0.0, 0.02, 0.1])
        self.load = random.choice([0.3, 1.0, 2.0, 4.0])
        self.limits = [self._limits()]
        if random.random() < 0.3:
            self.limits.append(self._limits())
        if self.limited:
            self.clients_version, self.clients = 1, self._client_limits()
        self.members = [self._member() for _ in range(random.choice([1, 2, 3, 5, 10]))]

    def _limits(self) -> list[int]:
        random = self.random
        period = random.choice([-1, SECOND // 3, SECOND // 40, SECOND // 700 + 1])
        burst = random.choice([1, 2, 10, 100]) if period > 0 else -1
        tokens = random.choice([-1, -1, 100, 60_000, 40_000_000])
        return [
            period,
            burst,
            tokens,
            random.choice([-1, -1, 1, 5]),
            random.choice([-1, -1, 1, 8]),
        ]

    def _member(self) -> Simulated:
        self.names += 1
        name = f"{self.random.randrange(2**64):016x}"
        return Simulated(name, self.random.choice(self.limits), called_at=self.now)

    def calls(self, count: int) -> Iterator[tuple[Call, int, Simulated]]:
        for _ in range(count):
            self._pass_time()
            if self.random.random() < 0.005 * self.limited:
                self.clients_version = max(
                    0, self.clients_version + self.random.choice([-1, 1, 1])
                )
                self.clients = self._client_limits()
            member = self.random.choice(self.members)
            if member.silent_until > self.now:
                continue
            if member.older is not None and self.random.random() < 0.1 * self.fault:
                yield member.older, self.now + self.drift, member
                continue
            previous, call = member.latest, self._call(member)
            if previous is not None and previous["seq"] < call["seq"]:
                member.older = previous
            member.latest = call
            yield call, self.now + self.drift, member

    def _pass_time(self) -> None:
        random = self.random
        self.now += random.choice([0, MS, 3 * MS, 10 * MS, random.randrange(50 * MS)])
        if random.random() < 0.002:
            self.now += random.choice([150 * MS, 300 * MS, 1100 * MS, 2 * SECOND, 70 * SECOND])
        if random.random() < 0.1 * self.fault:
            self.drift += random.choice([-5 * SECOND, -MS, 20 * MS, 9 * SECOND])
            self.drift = max(self.drift, -self.now)

    def _client_limits(self) -> list[list[Any]]:
        random = self.random
        chosen = random.sample(self.users, random.randrange(min(len(self.users), 12) + 1))
        return [
            [
                name,
                random.choice([1, 2, 0.5, 0.001]),
                *random.choice([[-1, -1], [SECOND // 20, 3], [SECOND // 5, 1]]),
                random.choice([-1, -1, 3000]),
                random.choice([-1, -1, 1, 3]),
            ]
            for name in chosen
        ]

    # What a member does.

    def _call(self, member: Simulated) -> Call:
        if member.repeats is not None:
            return member.repeats
        for _ in range(int(self.random.expovariate(1 / self.load))):
            self._arrive(member)
        if self.random.random() < 0.05:
            self._leave(member)
        self._finish(member)
        self._hear(member)
        member.seq += 1
        if member.known and self.random.random() < 0.02 * self.fault:
            # As if the store had lost two calls.
            member.seq, member.ack = member.seq + 2, member.seq + 1
        member.sent, member.news = member.news, []
        call: Call = {
            "member": member.name,
            "known": member.known,
            "seq": member.seq,
            "ack": member.ack,
            "elapsed": self.now - member.called_at,
            "limits": member.limits,
            "demand": [self._report(member, key) for key in sorted(member.changed)],
            "news": member.sent,
            "float": self._floats_wanted(member),
        }
        if self.clients is not None and self.random.random() < 0.1:
            call["clients"], call["clients_version"] = self.clients, self.clients_version
        if self.random.random() < 0.1 * self.fault:
            call["leave"] = 1
        if not member.known:
            call["slots"] = self._slots(member)
            call["levels"] = self.random.choice([[-1, -1], [0, 0], [5, 50], [-1, 7]])
            if call["levels"] == [0, 0]:
                call["alone"] = self.random.choice([0, 1])
            call["ahead"] = self.random.choice([0, 25 * MS, 156 * MS, SECOND])
            if member.before:
                call["replaces"] = member.before
        member.changed.clear()
        member.called_at = self.now
        return call

    def _arrive(self, member: Simulated) -> None:
        random = self.random
        # Skewed: the first users are heavy.
        user = self.users[min(int(random.expovariate(0.4)), len(self.users) - 1)]
        if random.random() < 0.2:
            user = random.choice(self.users)
        key = (random.choice(self.lanes), random.choice(self.classes), user)
        items = member.waiting.setdefault(key, [])
        items += [
            [random.choice(self.sizes), self.now] for _ in range(random.choice([1, 1, 3, 20]))
        ]
        member.changed.add(key)

    def _leave(self, member: Simulated) -> None:
        for key in list(member.waiting):
            if self.random.random() < 0.3:
                items = member.waiting[key]
                del items[self.random.randrange(len(items) + 1) :]
                member.changed.add(key)

    def _report(self, member: Simulated, key: Key) -> list[Any]:
        items = member.waiting.get(key) or []
        if not items:
            member.waiting.pop(key, None)
        first = items[: 3 if self.with_rest else 8]
        rest = items[len(first) :]
        age = self.now - items[0][1] if items else 0
        sizes = [size for size, _ in first]
        rest_tokens = sum(size for size, _ in rest)
        return [*key, self._weight(key[2]), sizes, len(rest), rest_tokens, age]

    def _weight(self, user: str) -> float:
        return [1, 1, 2, 0.3][self.users.index(user) % 4]

    def _finish(self, member: Simulated) -> None:
        """Settle some of what was granted."""
        random, kept = self.random, []
        for grant in member.granted:
            lane, client, tokens, version = grant
            if random.random() < 0.3:
                kept.append(grant)
            elif random.random() < 0.05:
                self._give_back(member, lane, client, tokens)
            else:
                actual = random.choice([tokens, tokens // 2, tokens * 3])
                member.news += [["answer", lane], ["settle", client, tokens, actual, *version]]
                member.news.append(["release", client])
                if random.random() < 0.02:
                    member.news.append(["waive", client, tokens, *version])
        member.granted = kept

    def _give_back(self, member: Simulated, lane: str, client: str, tokens: int) -> None:
        member.news.append(["give_back", lane, client, tokens])
        member.news += [["answer", lane], ["release", client]]

    def _hear(self, member: Simulated) -> None:
        """Upstream says something of a lane."""
        random, lane = self.random, self.random.choice(self.lanes)
        if random.random() < 0.05:
            member.news.append(["known", lane])
        if random.random() < 0.05 * (1 + 5 * self.fault):
            limit = random.choice([1, 3, 500, 90_000])
            period = random.choice([MINUTE // limit, SECOND // limit + 1])
            kind = 1 if limit >= 500 and random.random() < 0.5 else 0
            left = random.randrange(limit + 1) - random.choice([0, 0, 0, 3 * limit])
            values = [lane, kind, limit, left]
            if random.random() < 0.3:
                member.news.append(["teach", *values, period])
            else:
                behind = random.randrange(random.choice([5, 5, 5000]))
                mark = max(0, self.marks.get(lane, (0, 0))[kind] - behind)
                age = random.choice([0, 0, 100 * MS, SECOND, 40 * SECOND])
                member.news.append(["learn", *values, mark, period, age])
        if random.random() < 0.06 * self.fault:
            member.news.append(["pause", lane, random.choice([1, 300 * MS, 3 * SECOND])])
        if random.random() < 0.05 * self.fault:
            member.news.append(["slow_down", lane, random.choice([0, 2 * SECOND])])
        if random.random() < 0.2 * self.fault:
            member.news.append(["pace", lane, random.choice([0, SECOND // 9, SECOND // 90])])
        if random.random() < 0.01:
            member.news.append(["charge", lane, random.choice(self.users), 10])
            member.granted.append([lane, member.news[-1][2], 10, ()])
        for name, held in member.floats.items():
            while held[1] > 0 and random.random() < 0.3:
                held[1] -= 1
                user, tokens = random.choice(self.users), random.choice(self.sizes)
                member.news.append(["float_used", name, user, tokens])
                member.granted.append([name, user, tokens, ()])

    def _floats_wanted(self, member: Simulated) -> list[list[Any]]:
        random = self.random
        return [
            [lane, random.choice([0, 1, 5, 1000]), random.choice(self.sizes)]
            for lane in self.lanes
            if random.random() < 0.8
        ]

    def _slots(self, member: Simulated) -> list[Any]:
        lanes: dict[str, int] = {}
        clients: dict[str, int] = {}
        for lane, client, *_ in member.granted:
            lanes[lane] = lanes.get(lane, 0) + 1
            clients[client] = clients.get(client, 0) + 1
        return [
            len(member.granted),
            [list(each) for each in lanes.items()],
            [list(each) for each in clients.items()],
        ]

    # What comes back.

    marks: dict[str, tuple[int, int]]

    def take(self, member: Simulated, call: Call, reply: dict[str, Any]) -> None:
        """A reply, which may be lost."""
        random = self.random
        if call is member.older:
            return
        if random.random() < 0.5 * self.fault:
            member.repeats = call if random.random() < 0.7 else None
            return
        member.repeats = None
        if reply.get("stale"):
            self._return(member)
            return
        if reply.get("left"):
            self.members.remove(member)
            self.members.append(self._member())
            return
        member.known, member.ack = 1, member.seq
        for lane, index, client, tokens, _, requests, total, version in reply["grants"]:
            self.marks[lane] = requests, total
            items = member.waiting.get((lane, index, client))
            if items and random.random() > 0.03:
                items.pop(0)
                member.granted.append([lane, client, tokens, [version]])
            else:
                self._give_back(member, lane, client, tokens)
                member.news.append(["refund", lane, index, client, tokens])
        member.floats = {
            name: [name, count, tokens] for name, count, tokens, *_ in reply["floats"]
        }
        if random.random() < 0.05 * self.fault:
            pause = random.choice([250 * MS, 1200 * MS, 4 * SECOND])
            member.silent_until = self.now + pause
        if random.random() < 0.02 * self.fault:
            self.members.remove(member)
            self.members.append(self._member())

    def _return(self, member: Simulated) -> None:
        """It registers again."""
        before, member.name = member.name, f"{self.random.randrange(2**64):016x}"
        member.before = before if self.random.random() < 0.5 else ""
        member.known = member.seq = member.ack = 0
        member.news, member.floats, member.latest, member.older = [], {}, None, None
        member.changed = set(member.waiting)
