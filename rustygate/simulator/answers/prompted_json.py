"""The JSON that a prompt asks for in words: by a JSON schema, by an example, or by its keys."""

import json
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from rustygate.simulator.prompt import Prompt

# Of the prompt's end, where an object is looked for, and how many beginnings are tried.
MAX_TEXT_LENGTH = 100_000
MAX_ATTEMPTS = 200

_KEYS = re.compile(
    r"(?<![\"'`])\b(?:keys?|fields?|properties|attributes)\b([^.;\n]{0,500})", re.IGNORECASE
)
_QUOTED_KEY = re.compile(r"[\"'`]([\w-]{1,64})[\"'`]")
_PLAIN_KEYS = re.compile(r"^\s*:?\s*([\w-]+(?:(?:\s*,\s*(?:and\s+)?|\s+and\s+)[\w-]+)*)\s*$")

# Keys whose values are numbers.
_NUMBERS = {"age", "amount", "count", "price", "quantity", "rating", "score", "total", "year"}


def prompted_schema(prompt: Prompt) -> dict[str, Any] | None:
    """The JSON schema of what the prompt describes; None if it asks for no particular JSON."""
    text = "\n".join(turn.text for turn in prompt.turns if turn.role in ("system", "user"))
    objects = list(_objects(text[-MAX_TEXT_LENGTH:]))
    schemas = [value for value in objects if _is_schema(value)]
    if schemas:
        return schemas[-1]
    if objects:
        return _schema_of(objects[-1])
    return _object_with(_named_keys(prompt.request[-MAX_TEXT_LENGTH:]))


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in a text, without those within others."""
    decoder = json.JSONDecoder()
    end = 0
    for begin in islice(re.finditer(r"\{\s*\"", text), MAX_ATTEMPTS):
        if begin.start() < end:
            continue
        try:
            value, end = decoder.raw_decode(text, begin.start())
        except (ValueError, RecursionError):
            continue
        yield value


def _is_schema(value: dict[str, Any]) -> bool:
    return isinstance(value.get("properties"), dict) or "$ref" in value


def _schema_of(example: Any) -> dict[str, Any]:
    """The schema of values that look like an example."""
    if isinstance(example, dict):
        properties = {name: _schema_of(value) for name, value in example.items()}
        return {"type": "object", "properties": properties, "required": list(properties)}
    if isinstance(example, list):
        return {"type": "array", "items": _schema_of(example[0]) if example else {}}
    if example is None:
        return {}
    names = {bool: "boolean", int: "integer", float: "number"}
    return {"type": names.get(type(example), "string")}


def _named_keys(request: str) -> list[str]:
    """The keys in "with the keys 'name' and 'age'" or "with fields name, age"."""
    for found in _KEYS.finditer(request):
        plain = _PLAIN_KEYS.match(found[1])
        keys = _QUOTED_KEY.findall(found[1]) or (
            re.split(r"\s*,\s*(?:and\s+)?|\s+and\s+", plain[1]) if plain else []
        )
        if keys:
            return keys
    return []


def _object_with(keys: list[str]) -> dict[str, Any] | None:
    if not keys:
        return None
    properties = {key: {"type": "number"} if key in _NUMBERS else {} for key in keys}
    return {"type": "object", "properties": properties, "required": keys}
