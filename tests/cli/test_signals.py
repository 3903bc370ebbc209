"""The signals that stop a command."""

import os
import signal
import subprocess
import sys

import pytest

from tests.support.process import ROOT

COMMAND = """
import os
from rustygate.cli.signals import run_with_signals

async def command(signals):
    os.kill(os.getpid(), {number})
    print("got", await signals.get())
    {end}

try:
    run_with_signals(command)
finally:
    os.kill(os.getpid(), {number})
    print("exits")
"""


def run_command(number: int, end: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", COMMAND.format(number=int(number), end=end)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_after_the_end_of_a_command_changes_nothing(number: int) -> None:
    ended = run_command(number)
    assert ended.stdout == f"got {number:d}\nexits\n"
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_after_a_failure_keeps_its_exit_code(number: int) -> None:
    ended = run_command(number, end="raise SystemExit(1)")
    assert ended.stdout == f"got {number:d}\nexits\n"
    assert (ended.returncode, ended.stderr) == (1, "")
