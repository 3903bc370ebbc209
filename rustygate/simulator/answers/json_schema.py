"""Reading JSON schemas: their keywords, and the references within them.

Source: JSON Schema, draft 2020-12; `definitions`, lists in `items` and boolean exclusive limits
are those of earlier drafts. A keyword with a value of the wrong type counts as left out.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeGuard
from urllib.parse import unquote

import msgspec

from rustygate.simulator.answers import patterns

Schema = dict[str, Any] | bool

# For one answer: what a malicious schema may cost.
MAX_STEPS = 100_000


class SchemaError(ValueError):
    """A schema that is malformed or too large, or has no value."""


class Root:
    """A whole schema: what references in its parts refer to; and the work done on it."""

    def __init__(self, schema: Any) -> None:
        self.schema = as_schema(schema)
        self._steps = 0

    def step(self) -> None:
        """Count a step. Raises `SchemaError` if there were too many."""
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise SchemaError("it is too complex")

    def resolve(self, reference: Any) -> Schema:
        """The schema that a `$ref` refers to, within this schema."""
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise SchemaError(f"the reference {reference!r} does not begin with '#'")
        target: Any = self.schema
        for part in reference[1:].split("/")[1:]:
            target = _child(target, unquote(part).replace("~1", "/").replace("~0", "~"), reference)
        return as_schema(target)


def as_schema(value: Any) -> Schema:
    """Raises `SchemaError` if the value is no schema."""
    if not isinstance(value, dict | bool):
        raise SchemaError(f"{_shown(value)} is not an object")
    return value


def _shown(value: Any) -> str:
    return msgspec.json.encode(value).decode()[:80]


def _child(parent: Any, name: str, reference: str) -> Any:
    if isinstance(parent, dict) and name in parent:
        return parent[name]
    if isinstance(parent, list) and name.isdecimal() and int(name[:9]) < len(parent):
        return parent[int(name[:9])]
    raise SchemaError(f"the reference {reference!r} leads nowhere")


def types_of(schema: dict[str, Any]) -> list[str]:
    """The types that `type` allows; none if it is left out."""
    types = schema.get("type", [])
    return types if isinstance(types, list) else [types]


def number(schema: dict[str, Any], keyword: str) -> Any:
    """The value of a keyword that is a number, or None."""
    value = schema.get(keyword)
    return value if is_number(value) and math.isfinite(value) else None


def is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def size(schema: dict[str, Any], keyword: str) -> int | None:
    """The value of a keyword that is a number of characters, items or properties, or None."""
    value = number(schema, keyword)
    return None if value is None else max(0, math.ceil(value))


def subschemas(schema: dict[str, Any], keyword: str) -> dict[str, Any]:
    """The value of a keyword that is an object of schemas; empty if it is left out."""
    value = schema.get(keyword, {})
    return value if isinstance(value, dict) else {}


def schema_list(schema: dict[str, Any], keyword: str) -> list[Any]:
    """The value of a keyword that is a list; empty if it is left out."""
    value = schema.get(keyword, [])
    return value if isinstance(value, list) else []


def tuple_items(schema: dict[str, Any]) -> tuple[list[Any], Any]:
    """The schemas of the first items, and that of the rest; the latter is True if left out."""
    if isinstance(schema.get("items"), list):
        return schema["items"], schema.get("additionalItems", True)
    return schema_list(schema, "prefixItems"), schema.get("items", True)


def property_schemas(schema: dict[str, Any], name: str) -> Iterator[Any]:
    """The schemas that a property has to match: by name, by pattern, else the additional one."""
    found = False
    properties = subschemas(schema, "properties")
    if name in properties:
        found = True
        yield properties[name]
    for pattern, subschema in subschemas(schema, "patternProperties").items():
        if pattern_matches(pattern, name):
            found = True
            yield subschema
    if not found:
        yield schema.get("additionalProperties", True)


def pattern_matches(pattern: str, text: str) -> bool:
    try:
        return patterns.matches(pattern, text)
    except patterns.PatternError as error:
        raise SchemaError(str(error)) from error


def lower_limit(schema: dict[str, Any]) -> tuple[Any, bool] | None:
    """The lower limit of a number, and whether the limit itself is excluded."""
    return _limit(schema, "minimum", "exclusiveMinimum", max)


def upper_limit(schema: dict[str, Any]) -> tuple[Any, bool] | None:
    """The upper limit of a number, and whether the limit itself is excluded."""
    return _limit(schema, "maximum", "exclusiveMaximum", lambda limits: min(limits, key=_tighter))


def _tighter(limit: tuple[Any, bool]) -> tuple[Any, bool]:
    return limit[0], not limit[1]


def _limit(
    schema: dict[str, Any], keyword: str, exclusive: str, choose: Callable[[Any], Any]
) -> tuple[Any, bool] | None:
    inclusive, excluded = number(schema, keyword), number(schema, exclusive)
    limits = [(inclusive, schema.get(exclusive) is True)] if inclusive is not None else []
    limits += [(excluded, True)] if excluded is not None else []
    return choose(limits) if limits else None


def required_names(schema: dict[str, Any], present: Iterable[str] = ()) -> list[str]:
    """The names of required properties, also of those required because others are present."""
    names = [name for name in schema_list(schema, "required") if isinstance(name, str)]
    dependent = subschemas(schema, "dependentRequired")
    for name in present:
        names += dependent.get(name, [])
    return names
