"""What a terminal can show, and the control sequences for it (ECMA-48)."""

import os
from collections.abc import Mapping

RESET, BOLD, DIM, RED, GREEN, YELLOW = (f"\x1b[{code}m" for code in (0, 1, 2, 31, 32, 33))

CLEAR_TO_END = "\x1b[J"


def is_terminal(descriptor: int, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether output to a descriptor is shown on a terminal that knows control sequences."""
    return environ.get("TERM") != "dumb" and os.isatty(descriptor)


def has_color(descriptor: int, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether to use colour: on a terminal, unless NO_COLOR is set (no-color.org)."""
    return not environ.get("NO_COLOR") and is_terminal(descriptor, environ)


def start_of_line(lines_up: int) -> str:
    """Moves the cursor to the start of a line above."""
    return f"\x1b[{lines_up}F"
