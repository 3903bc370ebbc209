"""What an error's body says: its codes, its message, and when to try again.

OpenAI's shape is `{"error": {"message", "type", "param", "code"}}`. Look-alikes put the object
into a list (Gemini), leave out the outer object, have a `status` (Google) or a `detail` (FastAPI),
or send plain text. All of these are read.

Bodies come from outside. Whatever is in them, these functions return and do not raise.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from rustygate.core.durations import DURATION, parse_wait, sum_of_units, time_until
from rustygate.core.request_schema import DECODE_ERRORS

# What matters is at the beginning of an error's message.
MESSAGE_PREFIX = 1000

_NOTHING: Mapping[str, Any] = {}


class ErrorBody(msgspec.Struct, frozen=True):
    """An error.

    Args:
        codes: what `code`, `type` and `status` say, in lower case; servers put the same words into
            any of them.
        kind: OpenAI's `type`, which names the exhausted quota: `requests` or `tokens`.
        quota_ids: Google's names of the exhausted quotas.
        fields: the error and the objects around it, in which hints are looked for.
    """

    codes: frozenset[str] = frozenset()
    kind: str = ""
    message: str = ""
    quota_ids: tuple[str, ...] = ()
    fields: tuple[Mapping[str, Any], ...] = ()

    def wait_ns(self, epoch_ns: int) -> int | None:
        """When to try again, as a field or the message says: nanoseconds from now, or None."""
        for fields in self.fields:
            for name, value in fields.items():
                wait = _hint(name, value, epoch_ns)
                if wait is not None:
                    return wait
        return _hint_in_words(self.message, epoch_ns)


NO_ERROR = ErrorBody()


def read_error(body: bytes) -> ErrorBody:
    """The error in a body; one with nothing but a message if the body is not JSON."""
    try:
        root = msgspec.json.decode(body)
    except DECODE_ERRORS:
        return ErrorBody(message=body[:MESSAGE_PREFIX].decode(errors="replace"))
    if isinstance(root, list) and root:
        root = root[0]
    if not isinstance(root, dict):
        return ErrorBody(message=root[:MESSAGE_PREFIX]) if isinstance(root, str) else NO_ERROR
    return error_in(root)


def error_in(root: Mapping[str, Any]) -> ErrorBody:
    """The error in a JSON object."""
    error = root.get("error") or root.get("errors")
    if isinstance(error, list) and error:
        error = error[0]
    if isinstance(error, str):
        error = {"message": error} if " " in error else {"code": error}
    if not isinstance(error, dict):
        error = root
    details = [each for each in _items(error.get("details")) if isinstance(each, dict)]
    around = (error, *_metadata(error), *details, root)
    return ErrorBody(
        frozenset(map(str.lower, _words(error, "code", "type", "status"))),
        _text(error.get("type")),
        _text(error.get("message")) or _text(error.get("detail")) or _text(root.get("message")),
        tuple(_quota_ids(details)),
        around if error is not root else around[:-1],
    )


def _metadata(error: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """OpenRouter's `metadata`, and the headers in it."""
    metadata = error.get("metadata")
    if isinstance(metadata, dict):
        yield metadata
        headers = metadata.get("headers")
        if isinstance(headers, dict):
            yield headers


def _quota_ids(details: list[dict[str, Any]]) -> Iterator[str]:
    """The quotas in Google's `QuotaFailure`."""
    for detail in details:
        for violation in _items(detail.get("violations")):
            if isinstance(violation, dict):
                yield from _words(violation, "quotaId", "quotaMetric")


def _items(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _words(fields: Mapping[str, Any], *names: str) -> Iterator[str]:
    for name in names:
        value = fields.get(name)
        if isinstance(value, str) or type(value) is int:
            yield str(value)


def _text(value: object) -> str:
    return value[:MESSAGE_PREFIX] if isinstance(value, str) else ""


# Fields that say when to try again, in lower case without separators.
_HINTS = {
    "retryafter", "retryaftersec", "retryafterseconds", "retryin", "retrydelay",
    "reset", "resetafter", "resetat", "resetsat", "resetsin", "resetsinseconds", "resettime",
    "xratelimitreset",
}  # fmt: skip
_HINTS_IN_MS = {"retryafterms", "retryinms", "retryaftermilliseconds"}


def _hint(name: str, value: object, epoch_ns: int) -> int | None:
    """A wait in a field, in seconds or with its unit."""
    if not isinstance(value, str | int | float):
        return None
    plain_name = name.lower().replace("_", "").replace("-", "")
    if plain_name in _HINTS:
        return parse_wait(str(value), epoch_ns)
    if plain_name in _HINTS_IN_MS:
        return parse_wait(f"{value}ms", epoch_ns)
    return None


# `try again in 1m30.5s`, `retry after 5 seconds`, `wait for 20 s`, `try again at 2025-...Z`.
_WORDS = r"\b(?:try|retry|retrying|again|available|wait|cooldown|resets?)\b[^.\d]{0,60}?"
_in_words = re.compile(rf"{_WORDS}[ :~](?=\d){DURATION}", re.ASCII | re.IGNORECASE)
_at_instant = re.compile(rf"{_WORDS} (\d{{4}}-\d\d-\d\d[T ][\d:.]+(?:Z|[+-]\d\d:?\d\d)?)", re.I)
_after_number = re.compile(
    r"\b(?:retry|again|wait)[ -](?:after|in|for):? ?(\d{1,7}(?:\.\d{1,6})?)(?=\s*(?:$|[.,;!)\n]))",
    re.I,
)


def _hint_in_words(message: str, epoch_ns: int) -> int | None:
    """A wait in a message: in units, until an instant, or in plain seconds."""
    match = _at_instant.search(message)
    if match:
        return time_until(match[1], epoch_ns)
    for match in _in_words.finditer(message):
        wait = sum_of_units(match.groups())
        if wait:
            return wait
    match = _after_number.search(message)
    return parse_wait(match[1], epoch_ns) if match else None
