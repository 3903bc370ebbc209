"""Counts that processes share."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from rustygate.system.shared_counts import SharedCounts, lone_count


@pytest.fixture
def counts() -> Iterator[SharedCounts]:
    created = SharedCounts.create(3)
    yield created
    created.close()


def test_each_process_has_numbers_of_its_own(counts: SharedCounts) -> None:
    numbers = [(1, 1 << 40, 2), (20, 5, 3), (300, 6, 4)]
    for number, (connections, body_bytes, viewers) in enumerate(numbers):
        counts.of(number).connections.own = connections
        counts.of(number).body_bytes.own = body_bytes
        counts.of(number).viewers.own = viewers
    assert [counts.of(number).connections.own for number in range(3)] == [1, 20, 300]
    assert [counts.of(number).body_bytes.own for number in range(3)] == [1 << 40, 5, 6]
    assert [counts.of(number).viewers.own for number in range(3)] == [2, 3, 4]
    for number in range(3):
        assert counts.of(number).connections.total == 321
        assert counts.of(number).body_bytes.total == (1 << 40) + 11
        assert counts.of(number).viewers.total == 9
        assert counts.of(number).processes == 3
    assert repr(counts.of(1).connections) == "<Count 20 of 321>"


def test_process_that_ended_has_nothing(counts: SharedCounts) -> None:
    for number in range(3):
        counts.of(number).connections.own = counts.of(number).body_bytes.own = 4
    counts.of(1).clear()
    assert [counts.of(number).connections.own for number in range(3)] == [4, 0, 4]
    assert counts.of(0).body_bytes.total == 8


def test_other_process_sees_them(counts: SharedCounts) -> None:
    counts.of(0).connections.own = 7
    program = (
        "from rustygate.system.shared_counts import SharedCounts\n"
        f"counts = SharedCounts({counts.descriptor}).of(2)\n"
        "counts.connections.own = 2 * counts.connections.total\n"
    )
    subprocess.run([sys.executable, "-c", program], pass_fds=[counts.descriptor], check=True)
    assert counts.of(2).connections.own == 14
    assert counts.of(0).connections.total == 21


def test_counts_can_be_used_after_the_descriptor_was_closed() -> None:
    counts = SharedCounts.create(2)
    counts.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(counts.descriptor)
    counts.of(1).connections.own = 3
    assert counts.of(0).connections.total == 3


def test_system_without_anonymous_memory_uses_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    counts = SharedCounts.create(2)
    counts.of(1).connections.own = 3
    assert SharedCounts(counts.descriptor).of(0).connections.total == 3
    counts.close()


def test_lone_process_counts_for_itself() -> None:
    first, second = lone_count(), lone_count()
    first.own += 2
    assert (first.own, first.total, second.total) == (2, 2, 0)
