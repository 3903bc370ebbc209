"""How many processors a process may use."""

import os
from pathlib import Path

import pytest

from rustygate.system import cpus


def machine(
    monkeypatch: pytest.MonkeyPatch, path: Path, limit: str | None, affinity: set[int]
) -> None:
    """A machine whose control group has this limit, and whose process may run on these
    processors."""
    file = path / "cpu.max"
    if limit is not None:
        file.write_text(limit)
    monkeypatch.setattr(cpus, "_CPU_LIMIT", file)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: affinity)


@pytest.mark.parametrize(
    ("limit", "count"),
    [
        (None, 8),
        ("max 100000\n", 8),
        ("200000 100000\n", 2),
        ("250000 100000\n", 3),
        ("50000 100000\n", 1),
        ("1600000 100000\n", 8),
        ("", 8),
        ("nonsense", 8),
        ("0 100000\n", 8),
    ],
)
def test_control_group_limits_the_processors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str | None, count: int
) -> None:
    machine(monkeypatch, tmp_path, limit, set(range(8)))
    assert cpus.available_cpus() == count


def test_affinity_limits_the_processors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine(monkeypatch, tmp_path, "800000 100000", {1, 5})
    assert cpus.available_cpus() == 2


def test_without_affinity_all_processors_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine(monkeypatch, tmp_path, None, {1})
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert cpus.available_cpus() == 12
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cpus.available_cpus() == 1
