"""`rustygate top`: the state of a running gate in the terminal, once a second.

If the output is not a terminal, it prints the state once, for scripts and bug reports.
"""

import argparse
import json
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO, TextIOWrapper
from time import monotonic

from rich.console import Console
from rich.live import Live

from rustygate.cli.environment import ADMIN_KEY_ONLY, DOTENV
from rustygate.cli.errors import CommandError
from rustygate.cli.gate_http import AdminPages
from rustygate.cli.output import print_lines
from rustygate.cli.top_screen import State, can_show, screen
from rustygate.cli.urls import local_url
from rustygate.config import load, names

# A gate answers at once.
TIMEOUT_S = 3.0

INTERVAL_S = 1.0

_UNNEEDED = {**ADMIN_KEY_ONLY, names.REDIS_URL_FILE: ""}

# The size of the screen if the output is not a terminal.
_HEIGHT, _WIDTH = 60, 100

_STDIN = 0

# Waits this many seconds for a key that quits.
QuitPressed = Callable[[float], bool]

# Not Escape, with which the sequence of an arrow key begins.
_QUIT = (b"q", b"Q", b"\x03", b"")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "base_url",
        nargs="?",
        metavar="BASE-URL",
        help="the gate's URL, or unix:/path (default: from BIND_ADDRESS and PORT); "
        f"{names.ADMIN_KEY} is sent if it is set",
    )


def run(arguments: argparse.Namespace) -> int:
    settings = load({**os.environ, **_UNNEEDED}, dotenv=DOTENV)
    url = arguments.base_url or local_url(settings, settings.port)
    verify = arguments.base_url is not None
    pages = AdminPages(
        url, settings.admin_key, TIMEOUT_S, "does not show its state", verify=verify
    )
    state = _read_state(pages)
    _replace_unencodable()
    console = Console()
    if not (console.is_terminal and os.isatty(_STDIN)):
        print_lines(_text(state))
        return 0
    with _keys() as quit_pressed, Live(console=console, screen=True, auto_refresh=False) as live:
        _show(live, console, pages, state, quit_pressed)
    return 0


def _replace_unencodable() -> None:
    """Print `?` for a character that the locale's encoding lacks: an escape would be wider than
    its column."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _text(state: State) -> str:
    """The screen as text, for an output that is not a terminal."""
    console = Console(file=StringIO(), width=_WIDTH, height=_HEIGHT)
    with console.capture() as captured:
        console.print(screen(state, _HEIGHT))
    return captured.get().removesuffix("\n")


def _read_state(pages: AdminPages) -> State:
    """The state of the gate now. Raises CommandError if it is not available."""
    body = pages.get("/gate/state")
    try:
        state = json.loads(body)
    except (ValueError, RecursionError):
        state = None
    if not can_show(state):
        raise pages.error("unexpected response; is it a gate of this version?")
    checked: State = state
    return checked


def _show(
    live: Live, console: Console, pages: AdminPages, state: State, quit_pressed: QuitPressed
) -> None:
    """Show the state each second until the user quits. While the gate does not respond, show its
    last state."""
    notice, read_at = "", monotonic()
    while True:
        live.update(screen(state, console.height, notice), refresh=True)
        if quit_pressed(INTERVAL_S):
            return
        try:
            state, notice, read_at = _read_state(pages), "", monotonic()
        except CommandError as error:
            age_s = monotonic() - read_at
            notice = f"state of {age_s:.0f} s ago: {error.lines[0]}"


@contextmanager
def _keys() -> Iterator[QuitPressed]:
    """Read single keys while the block runs. SIGTERM ends it like Ctrl-C: without a handler, the
    terminal would keep the mode that this sets."""
    before = termios.tcgetattr(_STDIN)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    tty.setcbreak(_STDIN)
    try:
        yield _quit_pressed
    finally:
        # Without waiting for a terminal that reads no more.
        termios.tcsetattr(_STDIN, termios.TCSANOW, before)


def _quit_pressed(timeout_s: float) -> bool:
    deadline = monotonic() + timeout_s
    while (left := deadline - monotonic()) > 0:
        readable, _, _ = select.select([_STDIN], [], [], left)
        if readable and os.read(_STDIN, 1) in _QUIT:
            return True
    return False
