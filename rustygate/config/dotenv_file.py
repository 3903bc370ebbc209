"""Reading a `.env` file: lines of `NAME=value`, whose values are used as written."""

import re
from io import StringIO
from pathlib import Path

from dotenv.parser import Binding, parse_stream

# Other programs' names may have dots and hyphens. PowerShell's `$env:NAME`, a quoted name and an
# item of a YAML list are no names: such a line would have no effect.
_NAME = re.compile(r"[A-Za-z_][\w.-]*", re.ASCII)


def read_dotenv(path: Path, problems: list[str]) -> dict[str, str]:
    """The variables in a file; what is wrong with it is added to `problems`."""
    try:
        text = path.read_text("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        # A directory of this name may be a virtual environment.
        return {}
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        problems.append(f"{path}: expected a readable file of NAME=value lines ({reason})")
        return {}
    values = {}
    for binding in parse_stream(StringIO(text)):
        if binding.key is not None and not _NAME.fullmatch(binding.key):
            problems.append(f"{path} line {_line_number(binding)}: expected NAME=value")
        elif binding.key is not None and binding.value is not None:
            values[binding.key] = binding.value
        elif binding.error or binding.key is not None:
            problems.append(f"{path} line {_line_number(binding)}: expected NAME=value")
    return values


def _line_number(binding: Binding) -> int:
    """The line of a binding; the parser's own number is that of the blank lines before it."""
    text = binding.original.string
    return binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")
