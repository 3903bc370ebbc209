"""Where log lines go and how they look: one sink to stderr, text or JSON, set up here alone.

Everyone logs through `from loguru import logger`. A line is a sentence and the fields bound to
it. No line can be forged: what comes from outside is quoted and escaped. An exception is written
as its type and its places, never its text, which may hold raw bytes of somebody's request. The
standard library's logging ends here too: aiohttp's loggers are silent, since they print requests
they cannot parse, and asyncio's lines are cut before the first value. So do Python's warnings, and
the exceptions that nobody caught or that Python could not raise.
"""

import json
import logging
import os
import re
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from time import gmtime, monotonic, strftime
from traceback import format_tb
from typing import TYPE_CHECKING, Any

import msgspec
from loguru import logger

from rustygate.core.log_levels import LEVELS, parse_rust_log

if TYPE_CHECKING:
    from loguru import Message, Record

STDERR = 2

# The field of a record that stands for several lines: a list of their fields.
LINES = "lines"

_WORDS = {name: word for word, name in LEVELS.items()} | {"SUCCESS": "info", "CRITICAL": "error"}

_BEFORE_VALUES = re.compile(r"[\n(<]")

# asyncio says so once for each connection that may wait to be accepted: a thousand times a second.
_SHORTAGE = "socket.accept() out of system resource"
_SHORTAGE_INTERVAL_S = 60.0

# Frames of a traceback that are shown, the innermost ones; recursion makes a thousand.
_FRAMES = 30


def configure(rust_log: str, log_format: str) -> None:
    """Set up the one sink, in place of all others, and silence or catch `logging`'s.

    `rust_log` as `levels` takes it; `log_format` is `text` or `json`.
    """
    asked = parse_rust_log(rust_log)
    logger.remove()
    wanted = [logger.level(name).no for name in asked.values() if isinstance(name, str)]
    # With stderr closed, descriptor 2 may come to be somebody's socket.
    if wanted and sys.stderr is not None:
        # The format is empty, since the sink writes the line from the record: parsing a format
        # for each line costs more than the line.
        logger.add(
            _sink(_json_line if log_format == "json" else _text_line),
            level=min(wanted),
            filter=asked if len(set(asked.values())) > 1 else None,
            format="",
            colorize=False,
            backtrace=False,
            diagnose=False,
        )
    _catch_standard_logging()
    _catch_what_python_prints()


def _sink(render: Callable[["Record"], bytes]) -> Callable[["Message"], None]:
    def write(message: "Message") -> None:
        # Nobody reads any more, or the disk is full: the gate goes on.
        with suppress(OSError):
            os.write(STDERR, _rendered(message.record, render))

    return write


def _rendered(record: "Record", render: Callable[["Record"], bytes]) -> bytes:
    try:
        lines = record["extra"].get(LINES)
        if lines is None:
            return render(record)
        return b"".join([render(_with_fields(record, fields)) for fields in lines])
    except Exception as error:
        # loguru would print the record and the exception, with the values in them.
        return f"a log line could not be written\n{places(error)}".encode()


def _with_fields(record: "Record", fields: dict[str, Any]) -> "Record":
    one = record.copy()
    one["extra"] = fields
    return one


def _text_line(record: "Record") -> bytes:
    message = record["message"]
    if not message.isprintable():
        message = json.dumps(message)[1:-1]
    level = _word(record).upper()
    line = f"{_instant(record)} {level:>5} {record['name']}: {message}{_fields(record['extra'])}\n"
    if record["exception"] is not None:
        line += places(record["exception"].value)
    return line.encode("utf-8", "backslashreplace")


def _fields(extra: dict[str, Any]) -> str:
    """` name=value` for each field that has a value."""
    fields = [f" {name}={value}" for name, value in extra.items() if value is not None]
    text = "".join(fields)
    # One look at the whole, since there is seldom a value to be quoted.
    if _is_bare(text, separators=len(fields)):
        return text
    return "".join(
        f" {name}={_quoted(str(value))}" for name, value in extra.items() if value is not None
    )


def _quoted(text: str) -> str:
    if _is_bare(text, separators=0):
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _is_bare(text: str, separators: int) -> bool:
    """Whether `text` needs no quotes: it has only so many blanks and equals signs."""
    return (
        text.isprintable()
        and '"' not in text
        and "\\" not in text
        and text.count(" ") == text.count("=") == separators
    )


def _json_line(record: "Record") -> bytes:
    fields: dict[str, Any] = {
        "time": _instant(record),
        "level": _word(record),
        "target": record["name"],
        "message": record["message"],
        **record["extra"],
    }
    if record["exception"] is not None:
        fields["exception"] = places(record["exception"].value)
    try:
        return msgspec.json.encode(fields, enc_hook=str) + b"\n"
    except UnicodeEncodeError:
        # Lone surrogates, which JSON from strangers may hold and UTF-8 may not.
        text = json.dumps(fields, default=str, ensure_ascii=False)
        return text.encode("utf-8", "replace") + b"\n"


def _word(record: "Record") -> str:
    name = record["level"].name
    return _WORDS.get(name) or name.lower()


def _instant(record: "Record") -> str:
    moment = record["time"]
    return f"{_second(int(moment.timestamp()))}.{moment.microsecond // 1000:03}Z"


@lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    """A second since 1970 in UTC. Most lines share theirs with the line before."""
    return strftime("%Y-%m-%dT%H:%M:%S", gmtime(seconds))


def places(error: BaseException | None) -> str:
    """An exception and what it came from, innermost first: places in the code, and types."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "".join(
        "".join(format_tb(error.__traceback__, -_FRAMES)) + type(error).__qualname__ + "\n"
        for error in reversed(seen)
    )


class _Catcher(logging.Handler):
    """Takes the standard library's log records over, without the values in them."""

    _shortage_at = -_SHORTAGE_INTERVAL_S

    def emit(self, record: logging.LogRecord) -> None:
        if str(record.msg).startswith(_SHORTAGE):
            self._tell_shortage()
            return
        # asyncio puts a callback's arguments and an exception's text into its message, after
        # the first of these. Other messages' values are arguments, which stay out.
        sentence = _BEFORE_VALUES.split(str(record.msg), maxsplit=1)[0].strip()
        error = record.exc_info[1] if record.exc_info else None
        level = "ERROR" if record.levelno >= logging.ERROR else "WARNING"
        named = logger.patch(lambda taken: taken.update({"name": record.name}))
        named.opt(exception=error).log(level, sentence)

    def _tell_shortage(self) -> None:
        now = monotonic()
        if now - self._shortage_at >= _SHORTAGE_INTERVAL_S:
            self._shortage_at = now
            logger.error("no connection can be accepted: no more files may be open")


def _catch_what_python_prints() -> None:
    """What Python would print by itself, with the values in it: to stderr, past the sink."""
    sys.excepthook = lambda kind, error, traceback: _report("uncaught exception", error)
    sys.unraisablehook = lambda args: _report("exception in a finalizer", args.exc_value)
    threading.excepthook = lambda args: _report("exception in a thread", args.exc_value)
    logging.captureWarnings(True)


def _report(what: str, error: BaseException | None) -> None:
    logger.opt(exception=error).error(what)


def _catch_standard_logging() -> None:
    logging.root.handlers = [_Catcher()]
    logging.root.setLevel(logging.WARNING)
    silent = logging.getLogger("aiohttp")
    silent.handlers = [logging.NullHandler()]
    silent.propagate = False
    silent.setLevel(logging.CRITICAL + 1)
