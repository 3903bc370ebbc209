"""The usage record of a running gate: requests and turns, restarts, crashes and bad disks."""

import resource
import sqlite3
import time
from pathlib import Path

import pytest

from rustygate.core.usage_rows import UsageTotals
from rustygate.telemetry.usage.sqlite_report import FILE_NAME, read_usage
from tests.cli.processes import get as get_page
from tests.cli.processes import serve
from tests.conftest import Start, StartGate
from tests.support.gate import Gate
from tests.support.http import chat, get, response
from tests.support.process import PROCESS_TIMEOUT_S
from tests.support.upstream import Upstream
from tests.telemetry.usage.samples import EVER

USAGE = (
    b'{"usage": {"prompt_tokens": 11, "completion_tokens": 7,'
    b' "prompt_tokens_details": {"cached_tokens": 3}}}'
)
JSON = "Content-Type: application/json"


async def totals(running: Gate) -> dict[tuple[str, str], UsageTotals]:
    """By client and model."""
    return {(key[1], key[2]): found for key, found in await running.daemon.usage.rows_by(EVER)}


async def test_requests_are_recorded_by_client_and_model(
    gate: StartGate, upstream: Upstream
) -> None:
    upstream.reply = response(USAGE, JSON)
    running = await gate()
    for client in ("a", "a", "b"):
        await running.request(chat(f"X-RustyGate-Client: {client}"))
    await running.request(get("/nothing"))
    await running.settled(4)
    found = await totals(running)
    assert set(found) == {("a", "gpt-4o"), ("b", "gpt-4o"), ("(unknown)", "(none)")}
    of_a = found["a", "gpt-4o"]
    assert (of_a.exchanges, of_a.tokens_in, of_a.tokens_cached, of_a.tokens_out) == (2, 22, 6, 14)
    assert found["(unknown)", "(none)"].refused == 1


async def test_record_outlives_the_gate(
    gate: StartGate, upstream: Upstream, tmp_path: Path
) -> None:
    upstream.reply = response(USAGE, JSON)
    for _ in range(2):
        running = await gate(DATA_DIR=tmp_path / "data")
        await running.request(chat())
        await running.settled()
        await running.close()
        running.log.exchanges.clear()
    [(_, found)] = read_usage(tmp_path / "data" / FILE_NAME, EVER)
    assert (found.exchanges, found.tokens_in) == (2, 22)


async def test_gate_with_a_newer_database_keeps_usage_in_memory(
    gate: StartGate, upstream: Upstream, tmp_path: Path
) -> None:
    path = tmp_path / FILE_NAME
    with sqlite3.connect(path) as newer:
        newer.execute("PRAGMA user_version = 2")
    newer.close()
    upstream.reply = response(USAGE, JSON)
    running = await gate(DATA_DIR=tmp_path)
    await running.request(chat())
    await running.settled()
    assert (await totals(running))["127.0.0.1", "gpt-4o"].exchanges == 1
    assert "usage is kept in memory, and lost when the gate stops: " in running.log.text
    assert "has schema version 2, and this gate supports at most 1" in running.log.text


# As a process.


def until_recorded(path: Path, exchanges: int, limit_s: float = PROCESS_TIMEOUT_S) -> None:
    end = time.monotonic() + limit_s
    while _recorded(path) != exchanges:
        assert time.monotonic() < end
        time.sleep(0.01)


def _recorded(path: Path) -> int:
    try:
        return sum(found.exchanges for _, found in read_usage(path, EVER))
    except sqlite3.OperationalError:
        return 0


def request(url: str, count: int) -> None:
    """Send requests that are refused."""
    for _ in range(count):
        assert get_page(url, "/elsewhere")[0] == 404


def test_killed_gate_loses_only_what_it_has_not_written(start: Start, tmp_path: Path) -> None:
    """It writes each second, as the tests of the recorder show."""
    gate = serve(start, DATA_DIR=str(tmp_path), RUST_LOG="info")
    url = gate.listening_url()
    request(url, 20)
    until_recorded(tmp_path / FILE_NAME, 20)
    request(url, 5)
    gate.close()
    assert 20 <= _recorded(tmp_path / FILE_NAME) <= 25
    again = serve(start, DATA_DIR=str(tmp_path), RUST_LOG="info")
    request(again.listening_url(), 1)
    again.signal()
    assert again.exit_code() == 0
    assert 21 <= _recorded(tmp_path / FILE_NAME) <= 26


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="prlimit is Linux's")
def test_gate_goes_on_with_a_full_disk_and_loses_nothing(start: Start, tmp_path: Path) -> None:
    """The limit of the size of files stands for the disk."""
    gate = serve(start, DATA_DIR=str(tmp_path), RUST_LOG="info")
    url = gate.listening_url()
    request(url, 1)
    until_recorded(tmp_path / FILE_NAME, 1)
    _, hard = resource.prlimit(gate.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(gate.pid, resource.RLIMIT_FSIZE, (512, hard))
    request(url, 10)
    gate.wait_for_line(
        gate.stderr, "cannot write usage .*: it is kept in memory until this works again"
    )
    request(url, 10)
    assert _recorded(tmp_path / FILE_NAME) == 1
    resource.prlimit(gate.pid, resource.RLIMIT_FSIZE, (hard, hard))
    gate.wait_for_line(gate.stderr, "usage is written again; none was lost")
    until_recorded(tmp_path / FILE_NAME, 21)
    gate.signal()
    assert gate.exit_code() == 0
