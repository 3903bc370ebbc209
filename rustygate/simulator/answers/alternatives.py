"""The alternatives that a JSON schema leaves, each as a schema without references or choices.

`{"anyOf": [A, B], "minLength": 2}` leaves two: A and B, each with the minimum length. What cannot
be merged exactly, such as `not`, is left to the validation of the value.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rustygate.simulator.answers.json_schema import Root, SchemaError, as_schema, schema_list
from rustygate.simulator.answers.validation import same

# References and combinations within one another.
MAX_DEPTH = 60

_COMBINATIONS = ("$ref", "allOf", "anyOf", "oneOf", "if", "then", "else")
_ANNOTATIONS = ("$defs", "definitions", "$schema", "$id", "$comment", "examples", "default")

Order = Callable[[list[Any]], list[Any]]


class Contradiction(Exception):
    """Schemas that no value can match together."""


@dataclass(frozen=True, slots=True)
class _Choice:
    """Schemas of which one has to match."""

    options: list[Any]


def alternatives(root: Root, schema: Any, order: Order) -> Iterator[dict[str, Any]]:
    """The alternatives; `order` sorts the options of each choice by preference."""
    return _expand(root, {}, [schema], order, 0)


def _expand(
    root: Root, merged: dict[str, Any], pending: list[Any], order: Order, depth: int
) -> Iterator[dict[str, Any]]:
    """Merge the pending schemas and choices, one by one, into what is merged so far."""
    root.step()
    if depth > MAX_DEPTH:
        raise SchemaError("it refers to itself without end")
    if not pending:
        yield merged
        return
    first, *rest = pending
    if isinstance(first, _Choice):
        for option in order(first.options):
            yield from _expand(root, merged, [option, *rest], order, depth + 1)
        return
    schema = as_schema(first)
    if schema is False:
        return
    if schema is not True:
        try:
            merged = _merge(merged, _plain(schema))
        except Contradiction:
            return
        rest = [*_parts(root, schema), *rest]
    yield from _expand(root, merged, rest, order, depth + 1)


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    skipped = (*_COMBINATIONS, *_ANNOTATIONS)
    return {key: value for key, value in schema.items() if key not in skipped}


def _parts(root: Root, schema: dict[str, Any]) -> Iterator[Any]:
    """The schemas and choices that a schema combines."""
    if "$ref" in schema:
        yield root.resolve(schema["$ref"])
    yield from schema_list(schema, "allOf")
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema:
            yield _Choice(schema_list(schema, keyword))
    if "if" in schema:
        then = {"allOf": [schema["if"], schema.get("then", True)]}
        yield _Choice([then, schema.get("else", True)])


def _merge(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """A schema that only matches what both match. Raises `Contradiction` if there is none."""
    merged = one | other
    for keyword in one.keys() & other.keys() & _MERGES.keys():
        try:
            merged[keyword] = _MERGES[keyword](one[keyword], other[keyword])
        except TypeError as error:
            raise SchemaError(f"{keyword!r} has a value of the wrong type") from error
    return merged


def _both(one: Any, other: Any) -> Any:
    return one if one == other else {"allOf": [one, other]}


def _merge_types(one: Any, other: Any) -> list[str]:
    types, others = ([t] if isinstance(t, str) else list(t) for t in (one, other))
    common = [t for t in types if t in others or (t == "integer" and "number" in others)]
    if "number" in types and "integer" in others and "integer" not in common:
        common.append("integer")
    if not common:
        raise Contradiction
    return common


def _merge_enums(one: list[Any], other: list[Any]) -> list[Any]:
    common = [value for value in one if any(same(value, candidate) for candidate in other)]
    if not common:
        raise Contradiction
    return common


def _merge_consts(one: Any, other: Any) -> Any:
    if not same(one, other):
        raise Contradiction
    return one


def _merge_properties(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    common = {name: _both(one[name], other[name]) for name in one.keys() & other.keys()}
    return {name: common.get(name, value) for name, value in (one | other).items()}


_MERGES: dict[str, Callable[[Any, Any], Any]] = {
    "type": _merge_types,
    "enum": _merge_enums,
    "const": _merge_consts,
    "properties": _merge_properties,
    "patternProperties": _merge_properties,
    "required": lambda one, other: list(dict.fromkeys([*one, *other])),
    **dict.fromkeys(("minimum", "minLength", "minItems", "minProperties"), max),
    **dict.fromkeys(("maximum", "maxLength", "maxItems", "maxProperties"), min),
    **dict.fromkeys(("items", "additionalProperties", "contains", "propertyNames"), _both),
    "uniqueItems": lambda one, other: one or other,
}
