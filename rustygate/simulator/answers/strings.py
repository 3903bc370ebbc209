"""Strings for a JSON schema: by format, by pattern, or of the prompt's words."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

from rustygate.simulator.answers import patterns
from rustygate.simulator.answers.facts import Facts
from rustygate.simulator.answers.json_schema import SchemaError, size
from rustygate.simulator.text import seed_from

MAX_LENGTH = 100_000

_HOST = r"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}"
_BYTE = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_DATE = r"\b\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])\b"
_TIME = r"\b(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:Z|[+-](?:0\d|1\d|2[0-3]):[0-5]\d)"

# What to look for in the prompt, and what to write if it has none.
_FORMATS = {
    "date": (_DATE, "2025-01-31"),
    "time": (_TIME, "12:30:00Z"),
    "date-time": (rf"{_DATE}T{_TIME[2:]}", "2025-01-31T12:30:00Z"),
    "duration": (r"\bP(?:\d+D)?T\d+[HMS]\b", "PT1H30M"),
    "email": (rf"\b[\w.+-]+@{_HOST}", "someone@example.com"),
    "hostname": (rf"\b{_HOST}", "example.com"),
    "ipv4": (
        r"\b(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)\b",
        "192.0.2.1",
    ),
    "ipv6": (r"\b(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}\b", "2001:db8::1"),
    "uri": (r"https?://[\w./?=&%#~+-]+\w", "https://example.com/page"),
    "uuid": (r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", ""),
    "regex": (r"(?!)", "^[a-z]+$"),
    "json-pointer": (r"(?!)", "/items/0"),
    "byte": (r"(?!)", "ZXhhbXBsZQ=="),
}
_ALIASES = {
    "idn-email": "email",
    "idn-hostname": "hostname",
    "iri": "uri",
    "iri-reference": "uri",
    "uri-reference": "uri",
    "url": "uri",
    "relative-json-pointer": "json-pointer",
    "binary": "byte",
    "base64": "byte",
    "uuid4": "uuid",
}


def strings(
    facts: Facts, schema: dict[str, Any], key: str, path: str, index: int, number: int | None
) -> Iterator[str]:
    """Candidates for a string, the best first; not each of them has to validate.

    They begin with the number, if there is one.
    """
    minimum, maximum = size(schema, "minLength") or 0, size(schema, "maxLength")
    if minimum > MAX_LENGTH:
        raise SchemaError(f"it requires a string of {minimum} characters")
    if maximum is not None and maximum < minimum:
        return
    words = facts.string(key, path, index)
    numbered = words if number is None else f"{number} {words}"
    text = _formatted(facts, schema.get("format"), path) or fit(numbered, minimum, maximum)
    pattern = schema.get("pattern")
    if not isinstance(pattern, str):
        yield text
        return
    try:
        if patterns.matches(pattern, text):
            yield text
        written = patterns.write(pattern, seed_from(str(facts.seed), path), minimum, maximum)
        if written is not None:
            yield written
    except patterns.PatternError as error:
        raise SchemaError(str(error)) from error


def _formatted(facts: Facts, name: Any, path: str) -> str | None:
    if not isinstance(name, str):
        return None
    name = _ALIASES.get(name, name)
    if name not in _FORMATS:
        return None
    pattern, default = _FORMATS[name]
    return facts.find(pattern) or default or _uuid(seed_from(str(facts.seed), path))


def _uuid(seed: int) -> str:
    return str(UUID(int=seed << 96 | seed << 48 | seed, version=4))


def fit(text: str, minimum: int, maximum: int | None) -> str:
    """A text, repeated or cut off until its length is within bounds."""
    if len(text) < minimum:
        text = (f"{text} " * (minimum // (len(text) + 1) + 1))[:minimum]
    if maximum is not None and len(text) > maximum:
        text = text[:maximum]
    stripped = text.strip()
    return stripped if len(stripped) >= minimum else text.replace(" ", "-")
