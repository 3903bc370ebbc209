"""`rustygate top`: against a running gate, with and without a terminal."""

import asyncio
import os
import pty
import signal
import subprocess
import sys
import termios
from codecs import getincrementaldecoder
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.conftest import StartGate
from tests.support.http import chat, response
from tests.support.process import PROCESS_TIMEOUT_S, ROOT
from tests.support.upstream import Upstream
from tests.support.waiting import soon

# The end of the screen: the one before is shown again.
RESTORED = "\x1b[?1049l"

ADMIN = "admin-key-canary-5f3e"


class Terminal:
    """A terminal of 24 lines of 80 characters with the command in it."""

    def __init__(self, *arguments: str, cwd: Path, **environ: str) -> None:
        self._end, end = pty.openpty()
        termios.tcsetwinsize(end, (24, 80))
        self.before = termios.tcgetattr(end)
        self._settings_end = end
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rustygate", "top", *arguments],
            cwd=cwd,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TERM": "xterm", **environ},
            stdin=end,
            stdout=end,
            stderr=end,
        )
        self.text = ""
        # The bytes of a character may come one by one.
        self._decoder = getincrementaldecoder("utf-8")()

    async def until(self, text: str) -> None:
        """Read until a text is shown."""
        async with asyncio.timeout(PROCESS_TIMEOUT_S):
            while text not in self.text:
                read = await asyncio.to_thread(os.read, self._end, 65_536)
                self.text += self._decoder.decode(read)

    def press(self, key: bytes) -> None:
        os.write(self._end, key)

    async def exit_code(self) -> int:
        """The exit code. What is shown meanwhile is read, or the command could not end."""
        reading = asyncio.create_task(self.until(RESTORED))
        code = await asyncio.to_thread(self.process.wait, PROCESS_TIMEOUT_S)
        await reading
        return code

    @property
    def settings(self) -> list[object]:
        return termios.tcgetattr(self._settings_end)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._end)
        os.close(self._settings_end)


@asynccontextmanager
async def terminal(*arguments: str, cwd: Path, **environ: str) -> AsyncIterator[Terminal]:
    opened = Terminal(*arguments, cwd=cwd, **environ)
    try:
        yield opened
    finally:
        opened.close()


async def run_top(
    *arguments: str, cwd: Path, stdout: int = subprocess.PIPE, **environ: str
) -> tuple[int, str, str]:
    """The exit code and the output without a terminal."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "rustygate",
        "top",
        *arguments,
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environ},
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
    )
    async with asyncio.timeout(PROCESS_TIMEOUT_S):
        out, error = await process.communicate()
    assert process.returncode is not None
    return process.returncode, (out or b"").decode(), error.decode()


async def test_state_is_printed_once_without_a_terminal(
    gate: StartGate, upstream: Upstream, tmp_path: Path
) -> None:
    upstream.reply = response()
    running = await gate(ADMIN_KEY=ADMIN)
    await running.request(chat())
    code, out, error = await run_top(f"{running.url}/v1", cwd=tmp_path, ADMIN_KEY=ADMIN)
    assert (code, error) == (0, "")
    assert out.startswith("RustyGate  serving  up ")
    assert "gpt-4o" in out
    assert "\x1b" not in out


async def test_state_that_cannot_be_printed_is_a_one_line_error(
    gate: StartGate, tmp_path: Path
) -> None:
    running = await gate()
    full = os.open("/dev/full", os.O_WRONLY)
    code, _, error = await run_top(running.url, cwd=tmp_path, stdout=full)
    os.close(full)
    assert (code, error) == (1, "rustygate: cannot write to stdout: No space left on device\n")


async def test_characters_that_the_locale_lacks_are_replaced(
    gate: StartGate, upstream: Upstream, tmp_path: Path
) -> None:
    upstream.reply = response()
    running = await gate()
    # Truncated with an ellipsis.
    await running.request(chat(f"X-RustyGate-Client: {'x' * 60}"))
    code, out, error = await run_top(running.url, cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert (code, error, "xx? " in out) == (0, "", True)
    async with soon(), terminal(running.url, cwd=tmp_path, PYTHONIOENCODING="ascii") as shown:
        await shown.until("xx? ")
        shown.press(b"q")
        assert await shown.exit_code() == 0


async def test_address_comes_from_the_settings_or_over_a_unix_socket(
    gate: StartGate, tmp_path: Path
) -> None:
    running = await gate()
    port = running.url.rpartition(":")[2]
    code, out, _ = await run_top(cwd=tmp_path, PORT=port)
    assert (code, "serving" in out) == (0, True)
    path = tmp_path / "gate.sock"
    await gate(BIND_ADDRESS=f"unix:{path}")
    code, out, _ = await run_top(f"unix:{path}", cwd=tmp_path)
    assert (code, "serving" in out) == (0, True)


async def test_reasons_are_one_line(gate: StartGate, upstream: Upstream, tmp_path: Path) -> None:
    running = await gate(ADMIN_KEY=ADMIN)
    code, out, error = await run_top(running.url, cwd=tmp_path, ADMIN_KEY="wrong")
    assert (code, out) == (1, "")
    assert error == (
        f"rustygate: {running.url} does not show its state: set ADMIN_KEY or ADMIN_KEY_FILE to "
        "its admin key\n"
    )
    code, _, error = await run_top("http://127.0.0.1:1", cwd=tmp_path)
    assert (code, error) == (
        1,
        "rustygate: http://127.0.0.1:1 does not respond: Connection refused\n",
    )
    code, _, error = await run_top("gate.example", cwd=tmp_path)
    assert (code, "expected a base URL" in error) == (2, True)


async def test_server_that_is_no_gate_is_named(upstream: Upstream, tmp_path: Path) -> None:
    upstream.reply = response(b"[" * 99_999)
    url = upstream.url.removesuffix("/v1")
    code, out, error = await run_top(url, cwd=tmp_path)
    assert (code, out) == (1, "")
    assert error == (
        f"rustygate: {url} does not show its state: unexpected response; is it a gate of this "
        "version?\n"
    )


async def test_screen_is_updated_until_q_is_pressed(
    gate: StartGate, upstream: Upstream, tmp_path: Path
) -> None:
    upstream.reply = response()
    running = await gate()
    async with soon(), terminal(running.url, cwd=tmp_path) as shown:
        await shown.until("serving")
        await running.request(chat())
        shown.text = ""
        await shown.until("ok")
        shown.press(b"x\x1b[A")
        shown.text = ""
        await shown.until("serving")
        shown.press(b"q")
        assert await shown.exit_code() == 0
        assert shown.settings == shown.before


async def test_sigterm_restores_the_terminal(gate: StartGate, tmp_path: Path) -> None:
    running = await gate()
    async with soon(), terminal(running.url, cwd=tmp_path) as shown:
        await shown.until("serving")
        shown.process.send_signal(signal.SIGTERM)
        assert await shown.exit_code() == 0
        assert shown.settings == shown.before


async def test_gate_that_goes_away_leaves_its_last_state(gate: StartGate, tmp_path: Path) -> None:
    running = await gate(RATE_LIMIT=0.001, RATE_LIMIT_BURST=1)
    async with soon(), terminal(running.url, cwd=tmp_path) as shown:
        await shown.until("serving")
        await running.daemon.stop()
        shown.text = ""
        await shown.until(f" s ago: {running.url} does not respond")
        await shown.until("serving")
        shown.press(b"q")
        assert await shown.exit_code() == 0
