"""The gate as a process: its output, exit code and signals."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[2]

# A busy machine may take this long to start or end a process.
PROCESS_TIMEOUT_S = 60.0

# Runs a command with inherited sockets, as systemd passes them (sd_listen_fds(3)).
_PASS_SOCKETS = """
import fcntl, os, sys
numbers, command = sys.argv[1].split(","), sys.argv[2:]
copies = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 100) for number in numbers]
for wanted, copy in enumerate(copies, 3):
    os.dup2(copy, wanted)
os.environ |= {"LISTEN_FDS": str(len(copies)), "LISTEN_PID": str(os.getpid())}
os.execv(command[0], command)
"""


class Process:
    """A running command; its output is read line by line.

    Args:
        sockets: listening sockets passed to it.
        options: more arguments of `subprocess.Popen`.
    """

    def __init__(
        self,
        *arguments: str,
        cwd: Path,
        sockets: Sequence[socket.socket] = (),
        options: dict[str, Any] | None = None,
        **environ: str,
    ) -> None:
        command = [sys.executable, "-m", "rustygate", *arguments]
        numbers = [sock.fileno() for sock in sockets]
        if numbers:
            command = [sys.executable, "-c", _PASS_SOCKETS, ",".join(map(str, numbers)), *command]
        self._popen = subprocess.Popen(
            command,
            cwd=cwd,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            pass_fds=numbers,
            **options or {},
        )
        assert self._popen.stdout
        assert self._popen.stderr
        self.stdout: IO[str] = self._popen.stdout
        self.stderr: IO[str] = self._popen.stderr

    @property
    def pid(self) -> int:
        return self._popen.pid

    def exit_code(self) -> int:
        """The exit code, once the process has ended."""
        return self._popen.wait(PROCESS_TIMEOUT_S)

    def ended(self) -> tuple[int, str, str]:
        """The exit code and the remaining output, once the process has ended."""
        stdout, stderr = self._popen.communicate(timeout=PROCESS_TIMEOUT_S)
        return self._popen.returncode, stdout, stderr

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self._popen.send_signal(number)

    def wait_for_line(self, stream: IO[str], pattern: str) -> re.Match[str]:
        """The first match in the lines that follow."""
        for line in stream:
            if match := re.search(pattern, line):
                return match
        raise AssertionError(f"the output ended before {pattern!r}")

    def listening_url(self) -> str:
        """The gate's URL, once it listens."""
        return self.wait_for_line(self.stderr, r"listening url=(\S+)")[1]

    def close(self) -> None:
        self._popen.kill()
        self._popen.wait()
        self.stdout.close()
        self.stderr.close()


def children_of(pid: int) -> list[int]:
    """The processes that a process has started, and that have not ended."""
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
