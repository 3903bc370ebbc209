"""Processes under test: pinned to a core; the CPU time and memory of them and their children."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from scripts.benchmarks.load import HOST, MeasurementFailed

ROOT = Path(__file__).parents[2]

# Upstream and the load clients share a core; what is measured has another, if there is one.
LOAD_CORE, TEST_CORE = 0, (os.cpu_count() or 1) - 1

END_TIMEOUT_S = 60


def free_port() -> int:
    with socket.create_server((HOST, 0)) as free:
        port: int = free.getsockname()[1]
        return port


def wait_until_listening(child: subprocess.Popen[bytes], port: int) -> None:
    """Return when a child listens on a port, or has ended."""
    while child.poll() is None:
        with suppress(OSError), socket.create_connection((HOST, port)):
            return
        time.sleep(0.05)


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Run on one core within the context, child processes included."""
    previous = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, previous)


@contextmanager
def process(
    core: int,
    command: Sequence[str],
    environ: Mapping[str, str],
    port: int,
    timeout_s: float = 60,
    end: signal.Signals = signal.SIGKILL,
) -> Iterator[int]:
    """Start a child that listens on a port, pinned to a core; yields its pid.

    The child leads a session of its own, by which its children are found. Raises
    MeasurementFailed if it does not listen in time.

    Args:
        end: the signal that ends it; a child that ignores it is killed.
    """
    with TemporaryFile() as output:
        with pinned(core):
            child = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | environ | {"PORT": str(port)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            _wait_for(child, port, output, timeout_s)
            yield child.pid
        finally:
            _end(child, end)


def _end(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    for each in (number, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(child.pid, each)
        with suppress(subprocess.TimeoutExpired):
            child.wait(END_TIMEOUT_S)
            return


def _wait_for(
    child: subprocess.Popen[bytes], port: int, output: IO[bytes], timeout_s: float
) -> None:
    end = time.monotonic() + timeout_s
    while child.poll() is None and time.monotonic() < end:
        with suppress(OSError), socket.create_connection((HOST, port)):
            return
        time.sleep(0.05)
    output.seek(0)
    last = output.read().decode(errors="replace").strip().rpartition("\n")[2]
    raise MeasurementFailed(f"did not start: {last[:200] or 'no output'}")


def _session_processes(pid: int) -> Iterator[Path]:
    """The /proc entries of a session's processes; empty for 0, which is the kernel's."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                after_name = (entry / "stat").read_text().rpartition(")")[2].split()
                if pid and int(after_name[3]) == pid:
                    yield entry


def cpu_s(pid: int) -> float:
    """CPU seconds used by the process, its children and all their threads."""
    spent = 0
    for member in _session_processes(pid):
        for schedstat in member.glob("task/*/schedstat"):
            with suppress(OSError):
                spent += int(schedstat.read_text().split()[0])
    return spent / 1e9


def rss_mb(pid: int) -> float:
    """Resident memory of the process and its children; shared memory counts for each of them."""
    pages = 0
    for member in _session_processes(pid):
        with suppress(OSError):
            pages += int((member / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
