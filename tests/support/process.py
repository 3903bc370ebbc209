"""The gate as a process of its own: what it prints, how it ends, what it does on signals."""

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

# A machine under load may take this long to start or to end a process, and a little more.
PROCESS_TIMEOUT_S = 30.0

# Becomes a command to which sockets are handed over as systemd does it (sd_listen_fds(3)).
_HAND_OVER = """
import fcntl, os, sys
numbers, command = sys.argv[1].split(","), sys.argv[2:]
copies = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 100) for number in numbers]
for wanted, copy in enumerate(copies, 3):
    os.dup2(copy, wanted)
os.environ |= {"LISTEN_FDS": str(len(copies)), "LISTEN_PID": str(os.getpid())}
os.execv(command[0], command)
"""


class Process:
    """A command that runs; its output is read line by line.

    Args:
        sockets: what is handed over to it as its listening sockets.
        options: the ones of `subprocess.Popen`.
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
            command = [sys.executable, "-c", _HAND_OVER, ",".join(map(str, numbers)), *command]
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
        """Exit code, once it has ended by itself."""
        return self._popen.wait(PROCESS_TIMEOUT_S)

    def ended(self) -> tuple[int, str, str]:
        """Exit code and what is left of its output, once it has ended by itself."""
        stdout, stderr = self._popen.communicate(timeout=PROCESS_TIMEOUT_S)
        return self._popen.returncode, stdout, stderr

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self._popen.send_signal(number)

    def wait_for_line(self, stream: IO[str], pattern: str) -> re.Match[str]:
        """The first match in the lines to come."""
        for line in stream:
            if match := re.search(pattern, line):
                return match
        raise AssertionError(f"it ended before {pattern!r}")

    def listening_url(self) -> str:
        """Its URL, once the gate serves there."""
        return self.wait_for_line(self.stderr, r"listening url=(\S+)")[1]

    def close(self) -> None:
        self._popen.kill()
        self._popen.wait()
        self.stdout.close()
        self.stderr.close()
