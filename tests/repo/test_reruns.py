"""Tests that failed during a stall are rerun: `tests/support/stalls.py`."""

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.support import stalls
from tests.support.process import ROOT
from tests.support.stalls import StallMonitor

# In the runs below: the shortest delay that counts as a stall; how long their processes stall;
# longer than any stall.
SHORT_S, STALL_S, NEVER_S = 0.15, 0.3, 100.0

CONFTEST = """
import os

pytest_plugins = ["tests.support.stalls"]


def pytest_configure(config):
    plugin = config.pluginmanager.get_plugin("tests.support.stalls")
    plugin.STALL_S = float(os.environ["STALL_S"])
"""

HELPERS = f"""
import asyncio
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import pytest_asyncio


def note(text):
    with Path("notes").open("a") as notes:
        notes.write(text + "\\n")


def runs(name):
    "Notes a run of this name, and returns how many there were."
    note(name)
    return Path("notes").read_text().split().count(name)


def stall():
    pid = os.getpid()
    script = f"kill -STOP {{pid}}; sleep {STALL_S}; kill -CONT {{pid}}"
    subprocess.run(["sh", "-c", script], check=True)


def fail_in_first_run(name):
    if runs(name) == 1:
        stall()
        pytest.fail("the first run")


@pytest.fixture
def once():
    return fail_in_first_run


@pytest.fixture(scope="session")
def of_session():
    note("session-begins")
    yield
    note("session-ends")


@pytest.fixture(scope="module")
def of_module():
    note("module-begins")
    yield
    note("module-ends")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def of_loop():
    note("loop-begins")
    yield
    note("loop-ends")


@pytest.fixture(scope="module")
def fails_at_first():
    fail_in_first_run("fixture-begins")
    yield
    fail_in_first_run("fixture-ends")


@pytest.fixture
async def ends_badly_at_first():
    yield
    fail_in_first_run("teardown")


@pytest.fixture(autouse=True)
def fresh(tmp_path):
    assert not list(tmp_path.iterdir())
    (tmp_path / "used").touch()
"""

# Tests that fail once pass in a later run, with new fixtures of wider scopes.
PASSING = """
def test_first(of_session, of_module):
    pass


def test_call(once, of_session, of_module):
    once("call")


async def test_coroutine(once, of_module):
    await asyncio.sleep(0)
    once("coroutine")


@pytest.mark.asyncio(loop_scope="session")
async def test_loop(once, of_loop):
    once("loop")


@pytest.mark.parametrize("name", ["one", "two"])
def test_parameter(once, of_session, name):
    once(f"parameter-{name}")


async def test_teardown(ends_badly_at_first, of_module):
    pass


def test_passes(of_session, of_module):
    pass


def test_module(fails_at_first, of_session):
    pass
"""

FAILING = """
def test_fails_each_time():
    note("each")
    stall()
    assert 1 == 2


def test_fails_without_a_stall():
    note("calm")
    assert 1 == 2


@pytest.mark.timeout(3)
def test_hangs_in_its_second_run():
    if runs("hangs") == 1:
        stall()
        assert 1 == 2
    time.sleep(1000)


@pytest.mark.xfail
def test_expected():
    note("expected")
    stall()
    assert 1 == 2


def test_skipped():
    note("skipped")
    stall()
    pytest.skip()
"""


def run_tests(directory: Path, text: str, *options: str, stall_s: float) -> tuple[int, str]:
    """Runs these tests, and returns pytest's exit code and output."""
    (directory / "conftest.py").write_text(CONFTEST)
    (directory / "test_it.py").write_text(HELPERS + text)
    config = "--rootdir", ".", "--config-file", str(ROOT / "setup.cfg")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *config, "-p", "no:cacheprovider", *options, "."],
        cwd=directory,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "STALL_S": str(stall_s)},
        capture_output=True,
        encoding="utf-8",
    )
    return done.returncode, done.stdout + done.stderr


def notes(directory: Path) -> Counter[str]:
    return Counter((directory / "notes").read_text().split())


def reruns(output: str) -> Counter[str]:
    """How often each test was rerun according to the summary, which has the length of each
    stall."""
    found = re.findall(r"test_it.py::test_(\S+): the machine stalled for (\S+) s; ", output)
    assert all(float(stall_s) > SHORT_S for _, stall_s in found)
    return Counter(name for name, _ in found)


def test_failure_during_a_stall_does_not_count(tmp_path: Path) -> None:
    code, output = run_tests(tmp_path, PASSING, stall_s=SHORT_S)
    assert code == 0, output
    assert reruns(output) == {
        "call": 1,
        "coroutine": 1,
        "loop": 1,
        "parameter[one]": 1,
        "parameter[two]": 1,
        "teardown": 1,
        # In its fixture's setup, and then in its teardown.
        "module": 2,
    }
    assert re.search(r"test_call: the .* s; .*test_it.py:\d+: Failed$", output, re.MULTILINE)
    assert "= 9 passed, 8 rerun in" in output
    check_wider_scopes(notes(tmp_path))


def test_summary_covers_all_processes(tmp_path: Path) -> None:
    options = "--numprocesses", "2", "--dist", "worksteal"
    code, output = run_tests(tmp_path, PASSING, *options, stall_s=SHORT_S)
    assert code == 0, output
    assert {"call", "coroutine", "loop", "parameter[one]", "teardown"} <= reruns(output).keys()
    assert re.search(r"= 9 passed, \d+ rerun in", output)
    check_wider_scopes(notes(tmp_path))


def check_wider_scopes(found: Counter[str]) -> None:
    """Fixtures of wider scopes ended, and began again."""
    for scope in ("session", "module", "loop"):
        assert found[f"{scope}-begins"] == found[f"{scope}-ends"] >= 2


@pytest.mark.parametrize(
    ("began", "length_s"),
    [(99, 7.3), (100, 7.3), (103, 4.31), (107.2, 0.11), (107.22, 0), (108, 0)],
    ids=["before", "at the start", "within", "just before the end", "too late", "after"],
)
@pytest.mark.parametrize("has_woken", [False, True])
def test_stall_counts_from_the_start_of_the_test(
    began: float, length_s: float, has_woken: bool
) -> None:
    """The thread sleeps from 99.99 s to 100 s, and wakes at 107.31 s."""
    now = 99.99
    monitor = StallMonitor(lambda: now, lambda: 0)
    assert monitor.longest_since(99) == 0
    now = 107.31
    if has_woken:
        monitor.wake()
    assert monitor.longest_since(began) == pytest.approx(length_s, abs=0.02)


@pytest.mark.parametrize("has_woken", [False, True])
@pytest.mark.parametrize(
    ("used_s", "is_stall"), [(0, True), (1.4, True), (1.6, False), (6, False)]
)
def test_time_that_this_process_computed_is_no_stall(
    used_s: float, is_stall: bool, has_woken: bool
) -> None:
    """Its threads wait for one of them for three seconds, and others of them may compute too."""
    now, used = 50.0, 20.0
    monitor = StallMonitor(lambda: now, lambda: used)
    now, used = now + 3, used + used_s
    if has_woken:
        monitor.wake()
    assert (monitor.longest_since(0) > 2) == is_stall
    # What it computed before a sleep does not count.
    monitor.wake()
    now += 4
    assert monitor.longest_since(0) > 3


@pytest.mark.parametrize("error", [AttributeError, OSError])
def test_monitor_works_where_threads_cannot_choose_a_processor(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    asked = []

    def refuse(pid: int, processors: set[int]) -> None:
        asked.append(processors)
        raise error

    monkeypatch.setattr(os, "sched_setaffinity", refuse, raising=False)
    stalls.run_on(3)
    assert {3} in asked


def test_failure_of_each_run_counts(tmp_path: Path) -> None:
    """Each run has a time limit of its own."""
    code, output = run_tests(tmp_path, FAILING, stall_s=SHORT_S)
    assert code == 1
    assert "test_it.py::test_fails_each_time - " in output
    assert "test_it.py::test_hangs_in_its_second_run - Failed: Timeout" in output
    rerun, found = reruns(output), notes(tmp_path)
    assert rerun["fails_each_time"] == 2
    assert rerun["hangs_in_its_second_run"] >= 1
    assert (found["each"], found["expected"], found["skipped"]) == (3, 1, 1)


@pytest.mark.parametrize(
    ("options", "stall_s"),
    [((), NEVER_S), (("--no-rerun",), SHORT_S)],
    ids=["no stall", "no reruns"],
)
def test_each_failure_counts(tmp_path: Path, options: tuple[str, ...], stall_s: float) -> None:
    code, output = run_tests(tmp_path, FAILING, *options, stall_s=stall_s)
    assert code == 1
    assert "= 3 failed, 1 skipped, 1 xfailed in" in output
    assert set(notes(tmp_path).values()) == {1}
