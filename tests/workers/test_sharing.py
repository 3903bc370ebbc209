"""A gate with three workers as processes, under load from clients of the official SDK: the same
promises as those of a group of gates."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.gates import CLIENT_KEYS, CLIENTS_FILE, pass_time
from tests.support.worker_processes import GateWithWorkers, running_workers

# Its processes must keep instants within milliseconds.
pytestmark = pytest.mark.alone

RATE, BURST = 40.0, 2
LIMITS: dict[str, Any] = {"RATE_LIMIT": RATE, "RATE_LIMIT_BURST": BURST}

BUSY = ("one", "two", "three")


def keep_busy(gate: GateWithWorkers) -> None:
    for name in BUSY:
        gate.keep_sending(name, 0)


async def test_three_workers_keep_one_limit_and_one_order(tmp_path: Path) -> None:
    async with running_workers(tmp_path, **LIMITS) as gate:
        keep_busy(gate)
        began = await pass_time(0.5)
        ended = await pass_time(3)
        # On a busy machine, one may seem silent for a moment.
        await gate.until_serving()
        workers = await gate.workers()
        assert not gate.errors
        upstream = gate.upstream
        assert upstream.excess(RATE) <= BURST + RATE * gate.jitter_s
        least, most = gate.bounds(0.97, 1.03)
        assert least <= upstream.used(RATE, began, ended) <= most
        assert upstream.jain(BUSY, began, ended) >= 0.99
        assert [each["restarts"] for each in workers] == [0] * 3


async def test_limits_of_a_client_hold_over_all_workers(tmp_path: Path) -> None:
    clients = tmp_path / "clients.toml"
    clients.write_text(CLIENTS_FILE)
    async with running_workers(tmp_path, **LIMITS, CLIENTS_FILE=clients) as gate:
        for name, key in CLIENT_KEYS.items():
            gate.keep_sending(name, 0, key=key)
        began = await pass_time(0.5)
        ended = await pass_time(3)
        assert not gate.errors
        upstream = gate.upstream
        assert upstream.excess(10, client="slow") <= 2 + 10 * gate.jitter_s
        least, most = gate.bounds(0.95, 1.06)
        assert least <= upstream.used(10, began, ended, "slow") <= most + 0.02
        assert least <= upstream.used(RATE - 10, began, ended, "other") <= most


async def test_killed_worker_costs_only_its_own_exchanges(tmp_path: Path) -> None:
    """It is killed while it streams, has waiters, and holds slots."""
    async with running_workers(tmp_path, **LIMITS, CONCURRENCY_LIMIT=30) as gate:
        keep_busy(gate)
        streams = 6
        gate.keep_sending("streams", 0, in_flight=streams, stream=True)
        began = await pass_time(1.5)
        before = await gate.workers()
        gate.gate.may_cut = True
        killed = max(before, key=lambda each: int(each["connections"]))
        os.kill(killed["pid"], signal.SIGKILL)
        settled = await pass_time(1.5)
        await gate.until_serving()
        ended = await pass_time(1.5)
        after = await gate.workers()
        assert not gate.errors
        # At most its connections, and those that streams opened before it was killed: the SDK
        # closes a connection whose stream has ended unless all of it has been read already.
        assert 1 <= gate.lost <= killed["connections"] + streams
        number = killed["number"]
        assert [each["restarts"] for each in after] == [int(n == number) for n in (1, 2, 3)]
        [line] = gate.gate.log("was killed by SIGKILL")
        assert f"worker {number} (pid {killed['pid']}) was killed by SIGKILL" in line
        upstream = gate.upstream
        least, most = gate.bounds(0.95, 1.05)
        assert upstream.used(RATE, began, settled) >= least
        assert least <= upstream.used(RATE, settled, ended) <= most
        assert upstream.excess(RATE) <= BURST + RATE * gate.jitter_s
        assert upstream.jain(BUSY, settled, ended) >= 0.98


async def test_stopped_worker_holds_up_no_other(tmp_path: Path) -> None:
    """When it resumes, its requests go on, and nothing is granted twice."""
    async with running_workers(tmp_path, **LIMITS) as gate:
        keep_busy(gate)
        await pass_time(1)
        pid = await gate.signal_worker(1, signal.SIGSTOP)
        settled = await pass_time(1.5)
        resumed = await pass_time(1.5)
        os.kill(pid, signal.SIGCONT)
        again = await pass_time(1)
        ended = await pass_time(1.5)
        assert not gate.errors
        assert gate.lost == 0
        upstream = gate.upstream
        least, most = gate.bounds(0.95, 1.05)
        assert least <= upstream.used(RATE, settled, resumed) <= most
        assert least <= upstream.used(RATE, again, ended) <= most
        assert upstream.excess(RATE) <= BURST + RATE * gate.jitter_s
        assert upstream.jain(BUSY, again, ended) >= 0.98
