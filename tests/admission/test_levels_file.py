"""The file that keeps a gate's levels over restarts."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rustygate.admission import levels_file
from rustygate.admission.client_budgets import Spending
from rustygate.admission.gate import Gate
from rustygate.admission.levels_file import LevelsFile
from rustygate.config import Settings
from rustygate.core.bucket import SECOND
from rustygate.core.clients import Limits
from rustygate.core.price_list import PriceList
from rustygate.core.rate_limit_headers import Quota, RateLimitUpdate
from rustygate.exchange import Exchange
from tests.support.gate import Log, captured_log
from tests.support.waiting import until

# Ten requests at once, and one a second.
SETTINGS = Settings(openai_api_key="sk-test", rate_limit=1.0, rate_limit_burst=10)
NOON = 1_795_000_000 * SECOND
WEEK = 7 * 24 * 3600 * SECOND
LIMITS = {"search": Limits(requests_per_second=0.001, burst=5)}


@pytest.fixture
def log() -> Iterator[Log]:
    with captured_log() as log:
        yield log


class Clock:
    """A wall clock that stands still."""

    def __init__(self, now: int = NOON) -> None:
        self.now = now
        self.readings = 0

    def __call__(self) -> int:
        self.readings += 1
        return self.now


async def admit(gate: Gate, count: int, model: str = "gpt-4o") -> None:
    """Admit requests, whose responses say that the model's quota is 60 with 20 left."""
    for _ in range(count):
        exchange = Exchange("search", "POST", "/v1/x", model=model)
        exchange.deadline = gate.now() + SECOND
        async with gate.admission(exchange) as admission:
            update = RateLimitUpdate(Quota(60, 20), None)
            admission.record_response(ok=True, update=update)


def levels(gate: Gate) -> dict[str, int]:
    """The level of each bucket of requests."""
    state = gate.state()
    client = gate.client_budgets("search")
    assert client is not None
    assert client.budgets.requests is not None
    return {
        "own": state.budgets[0].units,
        "client": client.budgets.requests.level(gate.now()),
        **{name: lane[0].units for name, lane in state.lanes.items()},
    }


def new_gate(settings: Settings = SETTINGS) -> Gate:
    gate = Gate(settings)
    gate.limit_clients(LIMITS)
    return gate


async def save(directory: Path, clock: Clock, admitted: int = 4) -> None:
    """A gate that admits some requests, and ends."""
    gate = new_gate()
    await admit(gate, admitted)
    await LevelsFile(directory, gate, Spending(PriceList()), clock).close()


def restart(directory: Path, clock: Clock, settings: Settings = SETTINGS) -> Gate:
    gate = new_gate(settings)
    LevelsFile(directory, gate, Spending(PriceList()), clock).load()
    return gate


async def test_restart_grants_no_second_burst_and_forgets_no_limit(tmp_path: Path) -> None:
    clock = Clock()
    await save(tmp_path, clock)
    assert levels(restart(tmp_path, clock)) == {"own": 6, "client": 1, "gpt-4o": 20}


async def test_time_of_the_restart_counts_as_refill(tmp_path: Path) -> None:
    clock = Clock()
    await save(tmp_path, clock)
    clock.now += 3 * SECOND
    assert levels(restart(tmp_path, clock)) == {"own": 9, "client": 1, "gpt-4o": 23}
    clock.now += WEEK
    assert levels(restart(tmp_path, clock)) == {"own": 10, "client": 5, "gpt-4o": 60}


async def test_clock_that_was_set_back_refills_nothing(tmp_path: Path) -> None:
    clock = Clock()
    await save(tmp_path, clock)
    clock.now -= WEEK
    assert levels(restart(tmp_path, clock)) == {"own": 6, "client": 1, "gpt-4o": 20}


async def test_other_settings_count_over_saved_ones(tmp_path: Path) -> None:
    clock = Clock()
    await save(tmp_path, clock)
    unlimited = restart(tmp_path, clock, replace(SETTINGS, rate_limit=None))
    assert unlimited.state().budgets == ()
    larger = restart(tmp_path, clock, replace(SETTINGS, rate_limit=2.0, rate_limit_burst=100))
    assert levels(larger)["own"] == 96


async def test_first_start_has_full_buckets(tmp_path: Path, log: Log) -> None:
    gate = restart(tmp_path, Clock())
    assert levels(gate) == {"own": 10, "client": 5}
    assert log.text == ""


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a file of levels"),
        (b"\xff\xfe", "not a file of levels"),
        (b"[" * 100_000, "not a file of levels"),
        (b'{"version": 1, "saved_at": "noon"}', "not a file of levels"),
        (b'{"version": 7, "anything": true}', "version 7; this gate reads version 1"),
    ],
    ids=["empty", "no text", "deep", "wrong type", "other version"],
)
async def test_file_that_cannot_be_used_is_put_aside(
    tmp_path: Path, log: Log, content: bytes, reason: str
) -> None:
    path = tmp_path / "levels.json"
    path.write_bytes(content)
    gate = restart(tmp_path, Clock())
    assert levels(gate) == {"own": 10, "client": 5}
    [aside] = [tmp_path / name for name in os.listdir(tmp_path)]
    assert aside.read_bytes() == content
    assert aside.name.startswith("levels.json.broken-")
    assert (
        f"cannot use {path} ({reason}): renamed it to {aside}, and limits start full" in log.text
    )
    assert log.text.count("\n") == 1


async def test_directory_in_place_of_the_file_stops_nothing(tmp_path: Path, log: Log) -> None:
    (tmp_path / "levels.json").mkdir()
    assert levels(restart(tmp_path, Clock())) == {"own": 10, "client": 5}
    assert "renamed it to" in log.text


async def test_levels_are_saved_while_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(levels_file, "INTERVAL_S", 0.01)
    path, gate = tmp_path / "levels.json", new_gate()
    file = LevelsFile(tmp_path, gate, Spending(PriceList()), Clock())
    file.start()
    await until(path.exists)
    await admit(gate, 4)
    await until(lambda: json.loads(path.read_bytes())["lanes"] != [])
    # As after a SIGKILL: `close` is not called.
    assert levels(restart(tmp_path, Clock()))["own"] == 6
    await file.close()


async def test_idle_gate_does_not_write_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(levels_file, "INTERVAL_S", 0.001)
    clock, gate = Clock(), new_gate()
    file = LevelsFile(tmp_path, gate, Spending(PriceList()), clock)
    file.start()
    path = tmp_path / "levels.json"
    await until(path.exists)
    first = path.stat().st_ino
    clock.now += SECOND
    readings = clock.readings
    await until(lambda: clock.readings > readings + 20)
    assert path.stat().st_ino == first
    await file.close()
    assert json.loads(path.read_bytes())["saved_at"] == clock.now


async def test_disk_that_fails_is_reported_once_and_when_it_works_again(
    tmp_path: Path, log: Log
) -> None:
    gate = new_gate()
    file = LevelsFile(tmp_path / "gone", gate, Spending(PriceList()), Clock())
    await file.close()
    await file.close()
    path = tmp_path / "gone" / "levels.json"
    assert log.text.count(f"cannot save levels to {path}: No such file or directory") == 1
    os.mkdir(tmp_path / "gone")
    await file.close()
    await file.close()
    assert log.text.count(f"levels are saved to {path} again") == 1
    assert os.listdir(tmp_path / "gone") == ["levels.json"]
