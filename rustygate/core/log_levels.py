"""RUST_LOG, read as `env_logger` and `tracing` read it, where Python's dots and Rust's `::` both
part a target."""

import re

# Target to level, False for off; as loguru's filters are typed.
Levels = dict[str | None, str | int | bool]

# What RUST_LOG calls a level, and what loguru does.
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
    """What RUST_LOG asks for, as loguru's filter: target to level, False for off.

    The target "" stands for all that is not named; without a bare level it gets errors only.
    Directives for targets that are not ours are checked and left out. Raises ValueError.
    """
    directives = [part.strip() for part in rust_log.split(",") if part.strip()]
    if not directives:
        raise ValueError("no directive")
    asked: Levels = {"": "ERROR"}
    asked.update((name, level) for name, level in map(_directive, directives) if _is_ours(name))
    return asked


def is_debug(rust_log: str) -> bool:
    """Whether anything of the gate is asked for that is finer than `info`."""
    return any(level in ("DEBUG", "TRACE") for level in parse_rust_log(rust_log).values())


def _directive(text: str) -> tuple[str, str | bool]:
    """Target and level of `level`, `target=level`, or of one of our targets alone: all of it."""
    target, equals, word = (part.strip() for part in text.rpartition("="))
    if not equals and _is_ours(word.replace("::", ".")):
        target, equals, word = word, "=", "trace"
    level = LEVELS.get(word.lower())
    if level is None or (equals and not _TARGET.fullmatch(target)):
        raise ValueError("not a directive")
    return target.replace("::", "."), level


def _is_ours(target: str) -> bool:
    return target in ("", "rustygate") or target.startswith("rustygate.")
