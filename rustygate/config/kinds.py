"""The kinds of values that settings take, and how they are checked."""

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from environs import ValidationError, validate

from rustygate.config.masking import without_password
from rustygate.core import log_levels
from rustygate.core.cors import parse_origins

KEY = "OPENAI_API_KEY"
KEY_FILE = "OPENAI_API_KEY_FILE"
ADMIN_KEY, ADMIN_KEY_FILE = "ADMIN_KEY", "ADMIN_KEY_FILE"

# Keys and ids go into the head of each request; a longer file was named by mistake.
KEY_LIMIT = 4096

UNIX = "unix:"

# What the system has room for in a unix socket's address (unix(7)), less the byte after its end.
_SOCKET_PATH_LIMIT = 107 if sys.platform == "linux" else 103

# Thirty years. Far beyond, sums of nanoseconds no longer fit the loop's timers.
_LONGEST_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Kind:
    """What values a setting takes.

    Args:
        expected: the same in words, to follow "expected".
        parser: the method of `_Env` that reads it.
        check: raises `ValidationError` for a value that could be read but will not do.
        unset: the word for None.
        secret: whether values are masked wherever they are shown.
        hide: what may be shown of one that is not.
    """

    expected: str
    parser: str
    check: Callable[[Any], Any] | None = None
    unset: str = "none"
    secret: bool = False
    hide: Callable[[str], str] = str


def whole(least: int, most: int | None = None) -> Kind:
    limits = f"of {least} or more" if most is None else f"from {least} to {most}"
    return Kind(f"a whole number {limits}", "int", validate.Range(least, most))


def seconds(*, zero: bool) -> Kind:
    limits = f"from 0 to {_LONGEST_S}" if zero else f"above 0, up to {_LONGEST_S}"
    check = validate.Range(0, _LONGEST_S, min_inclusive=zero)
    return Kind(f"a number of seconds {limits}", "float", check)


def seconds_or_off() -> Kind:
    check = validate.Range(0, _LONGEST_S, min_inclusive=False)
    return Kind(
        f"a number of seconds above 0, up to {_LONGEST_S}, or off", "seconds_or_off", check, "off"
    )


def id_of(what: str) -> Kind:
    return Kind(f"{what}'s id: visible ASCII characters, no blanks", "str", check_header_value)


# `\Z`, for `$` would let a newline pass.
check_header_value = validate.Regexp(rf"[!-~]{{1,{KEY_LIMIT}}}\Z")


def _check_base_url(value: str) -> None:
    _url_parts(value)
    if re.search(r"[@?#]", value):
        raise ValidationError("no base URL")


def _check_proxy(value: str) -> None:
    parts = _url_parts(with_scheme(value))
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if parts.path not in ("", "/") or re.search(r"[?#]", value) or ":" in user:
        raise ValidationError("no proxy")
    # What HTTP's basic authentication can carry without further words (RFC 7617, 2.1).
    if not (user + password).isascii():
        raise ValidationError("no credentials")


def _url_parts(value: str) -> SplitResult:
    """An http or https URL with a host, taken apart."""
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError as error:
        raise ValidationError("no URL") from error
    if not re.fullmatch(r"https?://[!-~]+", value, re.I) or port == 0:
        raise ValidationError("no URL")
    _check_address(parts.hostname or "")
    return parts


def with_scheme(proxy: str) -> str:
    return proxy if "://" in proxy else f"http://{proxy}"


def _check_bind_address(value: str) -> None:
    if not value.startswith(UNIX):
        _check_address(value)
        return
    path = value.removeprefix(UNIX)
    sayable = path.startswith("/") and path.isprintable()
    if not sayable or len(os.fsencode(path)) > _SOCKET_PATH_LIMIT:
        raise ValidationError("no path for a socket")


def _check_address(value: str) -> None:
    """An IP address or a host name; a name that ends in a number is a broken address."""
    try:
        ip_address(value)
    except ValueError:
        label = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
        if not re.fullmatch(rf"({label}\.)*(?![0-9]+\Z){label}", value):
            raise ValidationError("no address") from None


def _check_origins(value: str) -> None:
    try:
        parse_origins(value)
    except ValueError as error:
        raise ValidationError(str(error)) from error


def _check_rust_log(value: str) -> None:
    try:
        log_levels.parse_rust_log(value)
    except ValueError as error:
        raise ValidationError(str(error)) from error


UPSTREAM_KEY = Kind(
    f"OpenAI's key (visible ASCII characters, no blanks), or {KEY_FILE} with the path of a file "
    "that holds it; `rustygate demo` needs none",
    "str",
    check_header_value,
    secret=True,
)
ADMIN = Kind(
    f"a key of visible ASCII characters, no blanks, or {ADMIN_KEY_FILE} with the path of a file "
    "that holds it",
    "str",
    check_header_value,
    secret=True,
)
BASE_URL = Kind(
    "an http or https URL without query, fragment, user or password",
    "base_url",
    _check_base_url,
)
ADDRESS = Kind(
    f"an IP address, a host name, or {UNIX} and an absolute path of at most "
    f"{_SOCKET_PATH_LIMIT} bytes",
    "str",
    _check_bind_address,
)
FILE = Kind("the path of a file", "str")
PROXY = Kind(
    "an http or https URL of a proxy, such as http://user:password@proxy.example.org:3128",
    "proxy",
    _check_proxy,
    hide=lambda url: without_password(url),
)
HOSTS = Kind("host names", "str")
DIRECTORY = Kind("the path of a directory", "str")
ORIGINS = Kind(
    "origins such as https://app.example.org or http://localhost:3000, comma-separated, or *",
    "origins",
    _check_origins,
)
RUST_LOG = Kind(
    "trace, debug, info, warn, error, off, or directives such as rustygate=info,other=debug",
    "str",
    _check_rust_log,
)
LOG_FORMAT = Kind("text or json", "str", validate.OneOf(["text", "json"]))
RATE = Kind(
    "a positive number of requests per second, or auto",
    "rate",
    validate.Range(0, min_inclusive=False),
    unset="auto",
)
