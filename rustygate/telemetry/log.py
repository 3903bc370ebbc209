"""The log: one sink to stderr, text or JSON, configured here and nowhere else.

All modules log through `from loguru import logger`, except for the lines of exchanges (see
`log_lines`). A line is a short sentence and the fields bound to it. Clients cannot forge a line:
values are quoted and escaped. An exception is written as its type and traceback, never its text,
which may contain raw bytes of a request.

The standard library's logging ends here too. aiohttp's loggers are silenced, since they print
requests that they cannot parse. asyncio's messages are cut before the first value. Python's
warnings, uncaught exceptions and exceptions that cannot be raised are logged as well.
"""

import json
import logging
import re
import sys
import threading
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from time import gmtime, monotonic, strftime, time_ns
from traceback import format_tb
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import msgspec
from loguru import logger

from rustygate.core.log_levels import LEVELS, Levels, enables_info, parse_rust_log
from rustygate.system.terminal import DIM, GREEN, RED, RESET, YELLOW, has_color
from rustygate.telemetry.log_output import LogOutput

if TYPE_CHECKING:
    from loguru import Message, Record

    # The fields of each line.
    _Lines = Iterable[dict[str, Any]]
    _Renderer = Callable[["_Entry", _Lines], bytes]

STDERR = 2

# The field of a record that stands for several lines: a list with the fields of each.
LINES = "lines"

_LEVEL_NAMES = {name: word for word, name in LEVELS.items()}

# On a terminal.
_STYLES = {"trace": DIM, "debug": DIM, "info": GREEN, "warn": YELLOW, "error": RED}

# The characters between names and values in a line, and those that need no quotes in a value.
_SEPARATORS = b" ="
_PLAIN = bytes({*range(0x21, 0x7F)} - {*b'="\\'})

# As msgspec writes JSON.
_JSON_SEPARATORS = ",", ":"

_VALUE_START = re.compile(r"[\n(<]")

# asyncio's message when the process has no file descriptor left for a connection. It comes once
# for each connection in the backlog, a thousand times a second.
_OUT_OF_FILES = "socket.accept() out of system resource"
_OUT_OF_FILES_INTERVAL_S = 60.0

# How many innermost frames of a traceback are written. A recursion error has a thousand.
_MAX_FRAMES = 30


def configure(rust_log: str, log_format: str) -> None:
    """Replace all sinks by the one to stderr, and redirect or silence the standard logging.

    Args:
        rust_log: the setting, in the syntax of `parse_rust_log`.
        log_format: `text` or `json`.
    """
    targets = parse_rust_log(rust_log)
    logger.remove()
    enabled = [logger.level(name).no for name in targets.values() if isinstance(name, str)]
    # If stderr is closed, descriptor 2 may be reused for a client's socket.
    if enabled and sys.stderr is not None:
        sink = _Sink(_renderer(log_format), targets)
        # The format is empty because the sink renders the line from the record: parsing a format
        # for each line costs more than the line.
        logger.add(
            sink,
            level=min(enabled),
            filter=targets if len(set(targets.values())) > 1 else None,
            format="",
            colorize=False,
            backtrace=False,
            diagnose=False,
        )
        _Sink.current = sink
    _redirect_standard_logging()
    _redirect_python_reports()


def _renderer(log_format: str) -> "_Renderer":
    if log_format == "json":
        return _json_lines
    return partial(_text_lines, head=_colored_head if has_color(STDERR) else _plain_head)


def log_lines(target: str, message: str, lines: "_Lines") -> None:
    """Log a message at info level once for each of several sets of fields.

    loguru creates a record for each message, which takes three times as long as writing its line,
    so these lines go to the sink without one, and to no other sink. If `configure` has not been
    called, all sinks of loguru get one record with all lines as its field `lines`.

    Args:
        target: the caller's `__name__`.
    """
    if (sink := _Sink.current) is not None:
        sink.write_lines(target, message, lines)
    else:
        logger.opt(depth=1).info(message, **{LINES: list(lines)})


class _Sink:
    """The sink for loguru, which closes it at the end of the process."""

    # The sink in use; None before `configure` and after `stop`.
    current: "ClassVar[_Sink | None]" = None

    def __init__(self, render_lines: "_Renderer", levels: Levels) -> None:
        self._render_lines = render_lines
        self._levels = levels
        self._output = LogOutput(STDERR, _log_loss)

    def write(self, message: "Message") -> None:
        record = message.record
        fields = record["extra"]
        self._output.write(self._render(_from_record(record), fields.get(LINES) or [fields]))

    def write_lines(self, target: str, message: str, lines: "_Lines") -> None:
        if enables_info(self._levels, target):
            entry = _Entry(time_ns() // 1_000_000, "info", target, message)
            self._output.write(self._render(entry, lines))

    def stop(self) -> None:
        _Sink.current = None
        self._output.close()

    def _render(self, entry: "_Entry", lines: "_Lines") -> bytes:
        try:
            return self._render_lines(entry, lines)
        except Exception as error:
            # loguru would print the record and the exception, including their values.
            return f"a log line could not be written\n{format_exception(error)}".encode()


class _Entry(NamedTuple):
    """What several lines have in common.

    Attributes:
        time_ms: Unix time.
        level: as RUST_LOG names it.
        target: the name of the module that logs.
    """

    time_ms: int
    level: str
    target: str
    message: str
    error: BaseException | None = None


def _from_record(record: "Record") -> _Entry:
    moment, level, exception = record["time"], record["level"].name, record["exception"]
    return _Entry(
        int(moment.timestamp()) * 1000 + moment.microsecond // 1000,
        _LEVEL_NAMES.get(level, level.lower()),
        str(record["name"]),
        record["message"],
        exception and exception.value,
    )


def _log_loss(lines: int) -> None:
    logger.warning("{} log lines were lost: the reader of stderr did not keep up", lines)


def _text_lines(entry: _Entry, lines: "_Lines", head: Callable[[_Entry], str]) -> bytes:
    message = entry.message
    if not message.isprintable():
        message = json.dumps(message)[1:-1]
    start = _encoded(f"{head(entry)} {message}")
    end = _encoded("\n" + format_exception(entry.error))
    return b"".join([start + _fields(fields) + end for fields in lines])


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _plain_head(entry: _Entry) -> str:
    return f"{_timestamp(entry.time_ms)} {entry.level.upper():>5} {entry.target}:"


def _colored_head(entry: _Entry) -> str:
    level = entry.level
    return (
        f"{DIM}{_timestamp(entry.time_ms)}{RESET} "
        f"{_STYLES.get(level, '')}{level.upper():>5}{RESET} {DIM}{entry.target}:{RESET}"
    )


def _fields(extra: dict[str, Any]) -> bytes:
    """` name=value` for each field that has a value."""
    fields = [
        f" {name}={'true' if value is True else value}"
        for name, value in extra.items()
        if value is not None
    ]
    text = _encoded("".join(fields))
    # Values rarely need quotes, so one check of the whole text usually suffices.
    if text.translate(None, _PLAIN) == _SEPARATORS * len(fields):
        return text
    quoted = (
        f" {name}={'true' if value is True else _quote(str(value))}"
        for name, value in extra.items()
        if value is not None
    )
    return _encoded("".join(quoted))


def _quote(text: str) -> str:
    if text.isprintable() and not any(map(text.__contains__, ' ="\\')):
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _json_lines(entry: _Entry, lines: "_Lines") -> bytes:
    start = {
        "time": _timestamp(entry.time_ms),
        "level": entry.level,
        "target": entry.target,
        "message": entry.message,
    }
    exception = format_exception(entry.error)
    end = {"exception": exception} if exception else {}
    return b"".join([_json_line({**start, **fields, **end}) for fields in lines])


def _json_line(fields: dict[str, Any]) -> bytes:
    line = _json_object(fields)
    if not line.isascii() and not line.decode().isprintable():
        # JSON allows characters that end a line for some readers or control terminals (U+0085).
        line = json.dumps(json.loads(line), separators=_JSON_SEPARATORS).encode()
    return line + b"\n"


def _json_object(fields: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(fields, enc_hook=str)
    except UnicodeEncodeError:
        # A client's JSON may contain lone surrogates, which UTF-8 cannot encode.
        text = json.dumps(fields, default=str, ensure_ascii=False, separators=_JSON_SEPARATORS)
        return text.encode("utf-8", "replace")


def _timestamp(time_ms: int) -> str:
    return f"{_format_second(time_ms // 1000)}.{time_ms % 1000:03}Z"


@lru_cache(maxsize=2)
def _format_second(seconds: int) -> str:
    """A Unix time in UTC. Most lines fall into the same second as the line before."""
    return strftime("%Y-%m-%dT%H:%M:%S", gmtime(seconds))


def format_exception(error: BaseException | None) -> str:
    """The tracebacks and types of an exception and its causes, innermost first, without texts.

    Empty if there is no exception.
    """
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "".join(
        "".join(format_tb(error.__traceback__, -_MAX_FRAMES)) + type(error).__qualname__ + "\n"
        for error in reversed(seen)
    )


class _Redirect(logging.Handler):
    """Passes records of the standard logging on to loguru, without their values."""

    _out_of_files_logged = -_OUT_OF_FILES_INTERVAL_S

    def emit(self, record: logging.LogRecord) -> None:
        if str(record.msg).startswith(_OUT_OF_FILES):
            self._log_out_of_files()
            return
        # asyncio formats a callback's arguments and an exception's text into its message, after
        # the first of these characters. Other libraries pass values as arguments, which are left
        # out.
        sentence = _VALUE_START.split(str(record.msg), maxsplit=1)[0].strip()
        error = record.exc_info[1] if record.exc_info else None
        level = "ERROR" if record.levelno >= logging.ERROR else "WARNING"
        named = logger.patch(lambda patched: patched.update({"name": record.name}))
        named.opt(exception=error).log(level, sentence)

    def _log_out_of_files(self) -> None:
        now = monotonic()
        if now - self._out_of_files_logged >= _OUT_OF_FILES_INTERVAL_S:
            self._out_of_files_logged = now
            logger.error("cannot accept connections: too many open files")


def _redirect_python_reports() -> None:
    """Log what Python would print to stderr itself, including values."""
    sys.excepthook = lambda kind, error, traceback: _report("uncaught exception", error)
    sys.unraisablehook = lambda args: _report("exception in a finalizer", args.exc_value)
    threading.excepthook = lambda args: _report("exception in a thread", args.exc_value)
    logging.captureWarnings(True)


def _report(message: str, error: BaseException | None) -> None:
    logger.opt(exception=error).error(message)


def _redirect_standard_logging() -> None:
    logging.root.handlers = [_Redirect()]
    logging.root.setLevel(logging.WARNING)
    silent = logging.getLogger("aiohttp")
    silent.handlers = [logging.NullHandler()]
    silent.propagate = False
    silent.setLevel(logging.CRITICAL + 1)
