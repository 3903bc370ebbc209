"""How many bytes of request bodies the processes of a gate may hold."""

from rustygate.downstream.request_body import BodyBufferBudget
from rustygate.system.shared_counts import SharedCounts, lone_count


def test_what_other_processes_hold_counts_towards_the_limit() -> None:
    counts = SharedCounts.create(3)
    counts.close()
    first, second = (BodyBufferBudget(10, counts.of(place).body_bytes) for place in (0, 2))
    first.held += 7
    second.held += 4
    assert (first.held, second.held) == (7, 4)
    assert (first.free, second.free) == (-1, -1)
    first.held -= 7
    assert (first.free, second.free) == (6, 6)
    assert repr(second) == "<BodyBufferBudget 4 of 10 bytes>"


def test_lone_process_has_the_limit_to_itself() -> None:
    budget = BodyBufferBudget(10, lone_count())
    budget.held += 7
    assert (budget.held, budget.free) == (7, 3)
