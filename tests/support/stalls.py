"""A pytest plugin that reruns tests that failed during a stall.

A shared or virtual machine sometimes stalls for a second. A test whose gate, upstream and clients
use real sockets may then fail, as if the gate had been slow. A thread notices stalls: it sleeps
briefly, and measures how late it wakes. If code of this process kept it from waking, that is not a
stall. A test that fails during a stall is rerun from the start, with new fixtures of all scopes;
the summary shows each such failure. A test that fails without a stall, or `RUNS` times, fails.
`--no-rerun` turns this off, to find tests that depend on timing.
"""

import os
from collections import deque
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from itertools import cycle
from threading import Thread
from time import monotonic, process_time, sleep

import pytest
from _pytest.runner import runtestprotocol

RUNS = 3

# A sleep that takes this much longer than it should is a stall.
STALL_S = 0.1

_SLEEP_S = 0.01

Clock = Callable[[], float]

# The outcome of a run that does not count; also its name in the summary.
RERUN = "rerun"

# The name of a report's property.
_STALL = "stall"

_RUN = pytest.StashKey[int]()


class StallMonitor:
    """Notices when this process, or one of the machine's processors, stalls."""

    def __init__(self, clock: Clock = monotonic, cpu_clock: Clock = process_time) -> None:
        self._clock, self._cpu_clock = clock, cpu_clock
        # When each stall began and ended.
        self._stalls: deque[tuple[float, float]] = deque(maxlen=100)
        self._woke, self._used = clock(), cpu_clock()

    def start(self) -> None:
        Thread(target=self._monitor, name="stalls", daemon=True).start()

    def longest_since(self, began: float) -> float:
        """How long the longest stall lasted, in seconds, counting only the part after `began`; 0
        if there was none."""
        # After a stall, the caller may run before the thread.
        stalls = [*self._stall_until(self._clock()), *self._stalls]
        lengths = (end - max(start, began) for start, end in stalls)
        return max((length for length in lengths if length >= STALL_S), default=0.0)

    def _monitor(self) -> None:
        # A virtual machine's processors may stall one at a time: each is tried in turn.
        for processor in cycle(_processors()):
            run_on(processor)
            sleep(_SLEEP_S)
            self.wake()

    def wake(self) -> None:
        """End a sleep, and begin the next."""
        now = self._clock()
        self._stalls += self._stall_until(now)
        self._woke, self._used = now, self._cpu_clock()

    def _stall_until(self, now: float) -> list[tuple[float, float]]:
        """The stall that kept this sleep from ending, if there was one. Code of this process may
        have done so instead, if it held the interpreter's lock: it then used a processor."""
        due = self._woke + _SLEEP_S
        used = self._cpu_clock() - self._used
        return [(due, now)] if now - due >= STALL_S and 2 * used <= now - due else []


def _processors() -> Collection[int]:
    """Those that this process may use, as far as the system tells."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else {0}


def run_on(processor: int) -> None:
    """Let this thread run on a processor, if the system has such a call and allows it."""
    with suppress(AttributeError, OSError):
        os.sched_setaffinity(0, {processor})


class Reruns:
    """Runs each test, and reruns it after a failure during a stall."""

    def __init__(self) -> None:
        self._stalls = StallMonitor()
        self._stalls.start()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool:
        began = monotonic()
        run = item.stash[_RUN] = item.stash.get(_RUN, 0) + 1
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        failure = next((report for report in reports if report.failed), None)
        stall_s = self._stalls.longest_since(began)
        rerun = failure is not None and stall_s > 0 and run < RUNS
        if failure is not None and rerun:
            _end_all_fixtures(item)
            reports = [_uncounted(failure, stall_s)]
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        if rerun:
            # Through the hook, so that the test's time limit starts again as well.
            item.ihook.pytest_runtest_protocol(item=item, nextitem=nextitem)
        return True


def _end_all_fixtures(item: pytest.Item) -> None:
    """End the fixtures of wider scopes, which a failed test may have damaged; if one of them
    failed itself, pytest would repeat its failure. What goes wrong now belongs to the run that
    does not count."""
    end = partial(item.session._setupstate.teardown_exact, None)
    pytest.CallInfo.from_call(end, "teardown", (KeyboardInterrupt, pytest.exit.Exception))


def _uncounted(failure: pytest.TestReport, stall_s: float) -> pytest.TestReport:
    """A failure's report as one that does not count."""
    failure.outcome = RERUN  # type: ignore[assignment]
    failure.user_properties.append((_STALL, f"{stall_s:.2f} s"))
    return failure


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-rerun",
        action="store_true",
        help="do not rerun tests that failed during a stall",
    )


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("--no-rerun"):
        config.pluginmanager.register(Reruns())


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    return (RERUN, "R", RERUN.upper()) if report.outcome == RERUN else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = terminalreporter.getreports(RERUN)
    if reports:
        terminalreporter.section(RERUN)
    for report in reports:
        stall, last_line = (
            dict(report.user_properties)[_STALL],
            report.longreprtext.splitlines()[-1],
        )
        terminalreporter.line(f"{report.nodeid}: the machine stalled for {stall}; {last_line}")
