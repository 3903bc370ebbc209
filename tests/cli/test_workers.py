"""What `check` and `serve` say about WORKERS."""

import pytest

from rustygate.cli import workers
from rustygate.config import Settings


@pytest.fixture(autouse=True)
def _two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "available_cpus", lambda: 2)


def settings(count: int | None) -> Settings:
    return Settings(openai_api_key="sk-test", workers=count)


@pytest.mark.parametrize(("given", "count"), [(1, 1), (2, 2), (5, 5), (None, 2)])
def test_auto_is_one_process_for_each_processor(given: int | None, count: int) -> None:
    assert workers.worker_count(settings(given)) == count


def test_only_several_processes_are_described() -> None:
    assert list(workers.describe_workers(settings(1))) == []
    assert list(workers.describe_workers(settings(2))) == ["2 processes, which share all limits"]


def test_more_processes_than_processors_are_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(workers.workers_warnings(settings(2))) == []
    [warning] = workers.workers_warnings(settings(3))
    assert warning.startswith("WORKERS=3, but only 2 processors can run them: ")
    monkeypatch.setattr(workers, "available_cpus", lambda: 1)
    assert list(workers.workers_warnings(settings(1))) == []
    [warning] = workers.workers_warnings(settings(2))
    assert warning.startswith("WORKERS=2, but only 1 processor can run them: ")
