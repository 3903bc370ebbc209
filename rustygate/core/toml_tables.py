"""Parsing the TOML tables that operators write, and quoting what is wrong in them."""

import re
import tomllib
from typing import Any

# How much of a rejected name or value an error quotes.
_SHOWN_LENGTH = 80


class TomlError(ValueError):
    """The text is not TOML: the message says what was expected, and where."""


def parse_toml(text: str) -> dict[str, Any]:
    """The table in a text. Raises TomlError."""
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        # Of the parser's message only the position is shown: the rest may quote the file.
        raise TomlError(f"expected TOML: {_position(error)}") from None


def _position(error: Exception) -> str:
    position = re.search(r"at line \d+, column \d+|at end of document", str(error))
    return f"syntax error {position[0]}" if position else "syntax error"


def shown(value: object) -> str:
    """A rejected name or value, for an error."""
    try:
        text = ascii(value)
    except ValueError:
        # A hexadecimal TOML integer may have more digits than Python converts to decimal.
        return "(too long to show)"
    return text if len(text) <= _SHOWN_LENGTH else text[:_SHOWN_LENGTH] + "..."
