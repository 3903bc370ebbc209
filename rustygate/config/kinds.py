"""The kinds of values that settings take, and the checks that they must pass."""

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from environs import ValidationError, validate

from rustygate.config import names, units
from rustygate.config.masking import mask, mask_credentials, mask_redis_url
from rustygate.config.redis_url import parse_redis_url
from rustygate.core.clients import MAX_NUMBER
from rustygate.core.cors import parse_origins
from rustygate.core.log_levels import parse_rust_log

# Keys and ids are sent in the head of each request; a longer file is not a key.
KEY_LIMIT = 4096

UNIX_PREFIX = "unix:"

# No value begins or ends with one; they come from files that are not read by a shell.
QUOTES = "\"'`\u2018\u2019\u201c\u201d"

# The kernel's limit on the path of a unix socket (unix(7)), without the terminating null byte.
_SOCKET_PATH_LIMIT = 107 if sys.platform == "linux" else 103

# Thirty years. Much longer, and sums of nanoseconds overflow the event loop's timers.
_LONGEST_S = 1_000_000_000


# How an unset value is shown; unlike `auto` and `off` it cannot be set.
NONE = "none"


@dataclass(frozen=True, slots=True)
class Kind:
    """The values that a setting takes.

    Args:
        expected: a description of the values, which follows "expected" in an error.
        parser: the name of the `EnvReader` method that reads a value.
        check: raises `ValidationError` for a value that can be read but is not allowed.
        without_unit: rewrites a value with a unit as a plain number.
        unset: the word for None.
        fallback: what replaces an unset variable, in words.
        secret: whether a rejected value is masked as a whole.
        redact: removes what is secret from a valid value.
        reason: why a value is not allowed, without the value.
    """

    expected: str
    parser: str
    check: Callable[[Any], Any] | None = None
    unset: str = NONE
    fallback: str | None = None
    secret: bool = False
    redact: Callable[[str], str] = str
    without_unit: Callable[[str], str] = str
    reason: Callable[[str], str | None] = lambda value: None


def whole_number(minimum: int, maximum: int | None = None) -> Kind:
    limits = f"of {minimum} or more" if maximum is None else f"from {minimum} to {maximum}"
    return Kind(f"a whole number {limits}", "int", validate.Range(minimum, maximum))


def count(minimum: int) -> Kind:
    expected = f"a whole number of {minimum} or more, such as 500 or 200k"
    check = validate.Range(minimum, MAX_NUMBER)
    return Kind(expected, "int", check, without_unit=units.in_units, reason=_too_large)


def _too_large(value: str) -> str | None:
    number = units.in_units(value)
    # Compared by length, since `int` rejects very long texts.
    is_too_large = number.isdecimal() and len(number) >= len(str(MAX_NUMBER))
    return f"at most {MAX_NUMBER:,}" if is_too_large else None


def size(minimum: int) -> Kind:
    expected = f"a whole number of bytes, {minimum} or more, such as 65536 or 256MiB"
    return Kind(expected, "int", validate.Range(minimum), without_unit=units.in_bytes)


def seconds(*, zero: bool) -> Kind:
    limits = f"from 0 to {_LONGEST_S}" if zero else f"above 0, up to {_LONGEST_S}"
    expected = f"a number of seconds {limits}, or a duration such as 500ms or 1m30s"
    check = validate.Range(0, _LONGEST_S, min_inclusive=zero)
    return Kind(expected, "float", check, without_unit=units.in_seconds)


def seconds_or_off() -> Kind:
    kind = seconds(zero=False)
    expected = f"{kind.expected.replace(', or', ',')}, or off"
    return replace(kind, expected=expected, parser="seconds_or_off", unset="off")


def id_of(owner: str) -> Kind:
    return Kind(f"{owner}'s id: visible ASCII characters, no spaces", "str", check_header_value)


# `\Z`, because `$` also matches before a newline at the end.
check_header_value = validate.Regexp(rf"[!-~]{{1,{KEY_LIMIT}}}\Z")


def _check_base_url(value: str) -> None:
    _split_url(value)
    if re.search(r"[@?#]", value):
        raise ValidationError("not a base URL")


def _check_proxy(value: str) -> None:
    parts = _split_url(with_scheme(value))
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if parts.path not in ("", "/") or re.search(r"[?#]", value) or ":" in user:
        raise ValidationError("not a proxy URL")
    # Basic authentication has no default encoding beyond ASCII (RFC 7617, section 2.1).
    if not (user + password).isascii():
        raise ValidationError("credentials are not ASCII")


def _split_url(value: str) -> SplitResult:
    """The parts of an http or https URL with a host."""
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError as error:
        raise ValidationError("not a URL") from error
    if not re.fullmatch(r"https?://[!-~]+", value, re.I) or port == 0:
        raise ValidationError("not a URL")
    _check_host(parts.hostname or "")
    return parts


def with_scheme(proxy: str) -> str:
    return proxy if "://" in proxy else f"http://{proxy}"


def _check_bind_address(value: str) -> None:
    if not value.startswith(UNIX_PREFIX):
        _check_host(value)
        return
    path = value.removeprefix(UNIX_PREFIX)
    printable = path.startswith("/") and path.isprintable()
    if not printable or len(os.fsencode(path)) > _SOCKET_PATH_LIMIT:
        raise ValidationError("not a socket path")


def _check_host(value: str) -> None:
    """An IP address or a host name. A name whose last label is a number is a broken address."""
    try:
        ip_address(value)
    except ValueError:
        label = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
        if not re.fullmatch(rf"({label}\.)*(?![0-9]+\Z){label}", value):
            raise ValidationError("not a host") from None


def _check_origins(value: str) -> None:
    try:
        parse_origins(value)
    except ValueError as error:
        raise ValidationError(str(error)) from error


def _check_redis_url(value: str) -> None:
    if reason := redis_url_problem(value):
        raise ValidationError(reason)


def redis_url_problem(value: str) -> str | None:
    """Why a value is not the URL of a Redis, without repeating any of it."""
    try:
        url = parse_redis_url(value)
        for host, _ in url.hosts:
            _check_host(host)
    except ValidationError:
        return "its host is not a host name or an IP address"
    except ValueError as error:
        return str(error)
    return None


def _check_rust_log(value: str) -> None:
    try:
        parse_rust_log(value)
    except ValueError as error:
        raise ValidationError(str(error)) from error


API_KEY = Kind(
    f"an OpenAI API key (visible ASCII characters, no spaces), or {names.API_KEY_FILE} with the "
    "path of a file that contains it; `rustygate demo` needs no key",
    "str",
    check_header_value,
    secret=True,
    redact=mask,
)
ADMIN_KEY = Kind(
    f"a key of visible ASCII characters, no spaces, or {names.ADMIN_KEY_FILE} with the path of a "
    "file that contains it",
    "str",
    check_header_value,
    secret=True,
    redact=mask,
)
BASE_URL = Kind(
    "an http or https URL without query, fragment, user or password",
    "base_url",
    _check_base_url,
)
BIND_ADDRESS = Kind(
    f"an IP address, a host name, or {UNIX_PREFIX} and an absolute path of at most "
    f"{_SOCKET_PATH_LIMIT} bytes",
    "str",
    _check_bind_address,
)
FILE = Kind("the path of a file", "str")
DIRECTORY = Kind("the path of a directory", "str")
DATA_DIRECTORY = replace(DIRECTORY, fallback=f"${names.STATE_DIRECTORY}, else {NONE}")
REDIS_URL = Kind(
    "a URL such as redis://user:password@host:6379/0, rediss://host (TLS), unix:///path, "
    "redis+sentinel://host:26379,host2:26379/mymaster/0 or redis+cluster://host,host2, or "
    f"{names.REDIS_URL_FILE} with the path of a file that contains one",
    "str",
    _check_redis_url,
    secret=True,
    redact=mask_redis_url,
    reason=redis_url_problem,
)
GROUP = Kind(
    "1 to 64 letters, digits, dots, underscores and hyphens",
    "str",
    validate.Regexp(r"[A-Za-z0-9_.-]{1,64}\Z"),
)
PROXY = Kind(
    "an http or https URL of a proxy, such as http://user:password@proxy.example.org:3128",
    "proxy",
    _check_proxy,
    redact=mask_credentials,
)
HOSTS = Kind("host names, IP addresses and CIDR blocks", "str")
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
# More processes than any machine needs are a mistake.
MAX_WORKERS = 256
WORKERS = Kind(
    f"a whole number from 1 to {MAX_WORKERS}, or auto",
    "workers",
    validate.Range(1, MAX_WORKERS),
    unset="auto",
)
RATE = Kind(
    "a positive number of requests per second, or auto",
    "rate",
    validate.Range(0, min_inclusive=False),
    unset="auto",
    without_unit=units.in_units,
)
