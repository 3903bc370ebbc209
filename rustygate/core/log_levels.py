"""RUST_LOG, read as `env_logger` and `tracing` read it.

The parts of a target may be separated by Python's dot or by Rust's `::`.
"""

import re

# Target to level, False for off: the type of loguru's filters.
Levels = dict[str | None, str | int | bool]

# The levels of RUST_LOG, and loguru's names for them.
LEVELS: dict[str, str | bool] = {
    "trace": "TRACE",
    "debug": "DEBUG",
    "info": "INFO",
    "warn": "WARNING",
    "error": "ERROR",
    "off": False,
}

_TARGET = re.compile(r"[A-Za-z_][\w-]*((::|\.)[A-Za-z_][\w-]*)*", re.ASCII)


def parse_rust_log(rust_log: str) -> Levels:
    """RUST_LOG as a filter for loguru: target to level, False for off.

    The target "" stands for all that are not named; its level is ERROR unless RUST_LOG has a
    bare level. Directives for targets of other programs are checked, then left out.

    Raises ValueError.
    """
    directives = [part.strip() for part in rust_log.split(",") if part.strip()]
    if not directives:
        raise ValueError("no directive")
    levels: Levels = {"": "ERROR"}
    levels.update((name, level) for name, level in map(_directive, directives) if _is_ours(name))
    return levels


def enables_info(levels: Levels, target: str) -> bool:
    """Whether info lines of a target are written: its most specific directive decides."""
    while target not in levels:
        target = target.rpartition(".")[0]
    return levels[target] in ("INFO", "DEBUG", "TRACE")


def is_debug(rust_log: str) -> bool:
    """Whether RUST_LOG enables debug or trace logs for any part of the gate."""
    return any(level in ("DEBUG", "TRACE") for level in parse_rust_log(rust_log).values())


def is_trace(rust_log: str) -> bool:
    """Whether RUST_LOG enables trace logs for any part of the gate."""
    return "TRACE" in parse_rust_log(rust_log).values()


def _directive(text: str) -> tuple[str, str | bool]:
    """Target and level of `level`, `target=level`, or a target of ours alone (at trace level)."""
    target, equals, word = (part.strip() for part in text.rpartition("="))
    if not equals and _is_ours(word.replace("::", ".")):
        target, equals, word = word, "=", "trace"
    level = LEVELS.get(word.lower())
    if level is None or (equals and not _TARGET.fullmatch(target)):
        raise ValueError("not a directive")
    return target.replace("::", "."), level


def _is_ours(target: str) -> bool:
    return target in ("", "rustygate") or target.startswith("rustygate.")
