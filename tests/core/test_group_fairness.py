"""How a group shares its budgets: three members with unevenly placed clients, each of which has a
constant number of requests waiting."""

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

import pytest

from rustygate.core.bucket import MINUTE, SECOND, TokenBucket
from rustygate.core.group_demand import FlowKey
from rustygate.core.group_scheduler import MS, GroupScheduler
from tests.core.test_group_laws import excess
from tests.support.group_calls import Admitted, Member


@dataclass(frozen=True)
class Client:
    """A client, the members it sends to, how many of its requests wait at each, and their size."""

    name: str
    members: tuple[int, ...]
    depth: int = 20
    tokens: int = 0
    lane: str = "m"
    priority: int = 1

    @property
    def key(self) -> FlowKey:
        return self.lane, self.priority, self.name


# One client at one member, one at all, one at two.
SKEWED = (Client("a", (0,)), Client("b", (0, 1, 2)), Client("c", (1, 2)))


@dataclass
class Run:
    """Members that call about every 20 ms, and reply to each admission with a new request."""

    limits: list[int]
    clients: tuple[Client, ...]
    seed: int = 1
    group: GroupScheduler = field(default_factory=GroupScheduler)
    dead: set[int] = field(default_factory=set)
    now: int = 0

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.members = [Member(f"m{number}", self.limits) for number in range(3)]
        self.due = [self.random.randrange(20 * MS) for _ in self.members]
        self.seen = [0 for _ in self.members]
        for client in self.clients:
            for number in client.members:
                for _ in range(client.depth):
                    self.members[number].arrive(0, client.key, client.tokens)

    def until(self, end: int) -> list[Admitted]:
        """Returns what was admitted."""
        while (at := min(self.due)) < end:
            self.now = max(self.now, at)
            number = self.due.index(at)
            if number not in self.dead:
                self._sync(number, at)
            self.due[number] = at + self.random.randrange(17 * MS, 24 * MS)
        self.now = end
        admitted = [each for member in self.members for each in member.admitted]
        return sorted(admitted, key=lambda each: each.at)

    def _sync(self, number: int, now: int) -> None:
        member = self.members[number]
        # A call takes a millisecond or two.
        reply = member.deliver(self.group, member.call(now), now)
        member.receive(reply, now + self.random.randrange(2 * MS))
        sizes = {client.key: client.tokens for client in self.clients}
        for admission in member.admitted[self.seen[number] :]:
            member.finish(admission)
            member.arrive(now, admission.key, sizes[admission.key])
        self.seen[number] = len(member.admitted)


def jain(values: list[float]) -> float:
    return float(sum(values) ** 2 / (len(values) * sum(value * value for value in values)))


def got(admitted: list[Admitted], clients: tuple[Client, ...]) -> list[float]:
    counts = Counter(each.key[2] for each in admitted)
    return [counts[client.name] for client in clients]


@pytest.mark.parametrize(
    ("rate", "burst", "seconds"), [(40, 2, 20), (100, 1, 10), (1, 3, 60), (1000, 10, 2)]
)
def test_equal_clients_share_equally_and_use_all(rate: int, burst: int, seconds: int) -> None:
    run = Run([SECOND // rate, burst, -1, -1, -1], SKEWED)
    admitted = run.until(seconds * SECOND)
    assert jain(got(admitted, SKEWED)) >= 0.99
    allowed = burst + rate * seconds
    assert 0.97 * allowed <= len(admitted) <= allowed + rate * 0.025
    assert excess(admitted, TokenBucket(SECOND // rate, burst)) == 0


def test_clients_without_a_common_order_do_not_share_equally() -> None:
    """What the group is for: members that divide the rate equally fail the test above."""
    counts = Counter({"a": 0, "b": 0, "c": 0})
    for number in range(3):
        run = Run(
            [3 * SECOND // 40, 1, -1, -1, -1],
            tuple(Client(client.name, (0,)) for client in SKEWED if number in client.members),
        )
        counts.update(each.key[2] for each in run.until(20 * SECOND))
    assert jain([float(count) for count in counts.values()]) < 0.95


def test_clients_share_tokens_rather_than_requests() -> None:
    clients = (Client("a", (0,), tokens=400), Client("b", (0, 1, 2), tokens=100))
    run = Run([-1, -1, 60_000, -1, -1], clients)
    admitted = [each for each in run.until(60 * SECOND) if each.at > 10 * SECOND]
    tokens = [sum(each.tokens for each in admitted if each.key == one.key) for one in clients]
    assert tokens[0] == pytest.approx(tokens[1], rel=0.05)
    assert sum(tokens) == pytest.approx(50_000, rel=0.03)


def test_classes_share_sixteen_four_one() -> None:
    clients = tuple(Client("abc"[index], (index,), 40, priority=index) for index in range(3))
    admitted = Run([SECOND // 100, 5, -1, -1, -1], clients).until(21 * SECOND)
    shares = [count / len(admitted) for count in got(admitted, clients)]
    assert shares == pytest.approx([16 / 21, 4 / 21, 1 / 21], rel=0.07)


def test_members_of_one_flow_are_served_equally() -> None:
    run = Run([SECOND // 100, 5, -1, -1, -1], (Client("a", (0, 1, 2)),))
    run.until(20 * SECOND)
    assert jain([float(len(member.admitted)) for member in run.members]) >= 0.99


def test_blocked_lane_holds_up_no_other() -> None:
    """Its quota is one request a second; the other lane gets all the rest."""
    clients = (Client("a", (0,), lane="slow"), Client("b", (1, 2), lane="fast"))
    run = Run([SECOND // 50, 5, -1, -1, -1], clients)
    run.members[0].news = [["learn", "slow", 0, 60, 0, 0, SECOND, 0]]
    slow, fast = got(run.until(20 * SECOND), clients)
    assert 19 <= slow <= 20
    assert slow + fast >= 0.97 * 1005


def test_large_request_is_not_overtaken_forever() -> None:
    """It needs a full bucket, which the small ones never leave."""
    clients = (Client("small", (0, 1), tokens=50), Client("large", (2,), 1, tokens=1000))
    admitted = Run([-1, -1, 1000, -1, -1], clients).until(6 * MINUTE)
    large = [each.at for each in admitted if each.key[2] == "large"]
    # Each has half: a large one takes two minutes' tokens.
    assert len(large) >= 2
    assert max(later - each for each, later in pairwise(large)) < 3 * MINUTE


def test_death_of_a_member_costs_its_part_for_the_lease_only() -> None:
    run = Run([SECOND // 40, 2, -1, -1, -1], SKEWED)
    run.until(5 * SECOND)
    run.dead.add(0)
    admitted = run.until(15 * SECOND)
    after = [each for each in admitted if each.at > 5.5 * SECOND]
    assert len(after) >= 0.97 * 40 * 9.5
    b, c = got(after, SKEWED)[1:]
    assert b == pytest.approx(c, rel=0.03)
    half_second = [each for each in admitted if 5 * SECOND <= each.at <= 5.5 * SECOND]
    assert len(half_second) >= 12
