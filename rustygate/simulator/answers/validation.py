"""Whether a value validates against a JSON schema.

The keywords that describe a value's shape are covered: types, `enum`, `const`, limits, `pattern`,
objects, arrays, `$ref`, `allOf`, `anyOf`, `oneOf`, `not` and `if`. `format` is not checked, as in
most validators, and unknown keywords are ignored.
"""

import math
from collections.abc import Callable
from typing import Any

from rustygate.simulator.answers.json_schema import (
    Root,
    SchemaError,
    as_schema,
    is_number,
    lower_limit,
    number,
    pattern_matches,
    property_schemas,
    required_names,
    schema_list,
    size,
    subschemas,
    tuple_items,
    types_of,
    upper_limit,
)

# References and combinations within one another.
MAX_DEPTH = 100


def is_valid(root: Root, schema: Any, value: Any, depth: int = 0) -> bool:
    """Whether a value validates against a part of a schema."""
    root.step()
    schema = as_schema(schema)
    if isinstance(schema, bool):
        return schema
    if depth > MAX_DEPTH:
        raise SchemaError("it refers to itself without end")

    def valid(subschema: Any, item: Any) -> bool:
        return is_valid(root, subschema, item, depth + 1)

    if "$ref" in schema and not valid(root.resolve(schema["$ref"]), value):
        return False
    return all(check(schema, value, valid) for check in _CHECKS)


Valid = Callable[[Any, Any], bool]


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON; 1 is not true, but it is 1.0."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


def has_type(value: Any, name: str) -> bool:
    """Whether a value is of a type of JSON Schema."""
    if name == "integer":
        return is_number(value) and float(value).is_integer()
    return _TYPES.get(name, lambda _: False)(value)


_TYPES: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "number": is_number,
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}


def _check_value(schema: dict[str, Any], value: Any, valid: Valid) -> bool:
    types = types_of(schema)
    if types and not any(has_type(value, name) for name in types):
        return False
    if "const" in schema and not same(schema["const"], value):
        return False
    return "enum" not in schema or any(same(one, value) for one in schema_list(schema, "enum"))


def _check_combinations(schema: dict[str, Any], value: Any, valid: Valid) -> bool:
    if not all(valid(one, value) for one in schema_list(schema, "allOf")):
        return False
    if "anyOf" in schema and not any(valid(one, value) for one in schema_list(schema, "anyOf")):
        return False
    if "oneOf" in schema and sum(valid(one, value) for one in schema_list(schema, "oneOf")) != 1:
        return False
    if "not" in schema and valid(schema["not"], value):
        return False
    if "if" not in schema:
        return True
    return valid(schema.get("then" if valid(schema["if"], value) else "else", True), value)


def _check_number(schema: dict[str, Any], value: Any, valid: Valid) -> bool:
    if not is_number(value):
        return True
    low, high, step = lower_limit(schema), upper_limit(schema), number(schema, "multipleOf")
    if low is not None and (value < low[0] or (value == low[0] and low[1])):
        return False
    if high is not None and (value > high[0] or (value == high[0] and high[1])):
        return False
    return not step or is_multiple(value, step)


def is_multiple(value: float, step: float) -> bool:
    quotient = value / step
    return math.isfinite(quotient) and quotient == round(quotient)


def _check_string(schema: dict[str, Any], value: Any, valid: Valid) -> bool:
    if not isinstance(value, str):
        return True
    if not _in_range(len(value), size(schema, "minLength"), size(schema, "maxLength")):
        return False
    return "pattern" not in schema or pattern_matches(str(schema["pattern"]), value)


def _in_range(length: int, minimum: int | None, maximum: int | None) -> bool:
    return (minimum or 0) <= length and (maximum is None or length <= maximum)


def _check_array(schema: dict[str, Any], value: Any, valid: Valid) -> bool:
    if not isinstance(value, list):
        return True
    if not _in_range(len(value), size(schema, "minItems"), size(schema, "maxItems")):
        return False
    first, rest = tuple_items(schema)
    if not all(map(valid, first, value)) or not all(valid(rest, v) for v in value[len(first) :]):
        return False
    return _check_contains(schema, value, valid) and (
        not schema.get("uniqueItems") or _all_unique(value)
    )


def _check_contains(schema: dict[str, Any], value: list[Any], valid: Valid) -> bool:
    if "contains" not in schema:
        return True
    count = sum(valid(schema["contains"], item) for item in value)
    minimum = size(schema, "minContains")
    return _in_range(count, 1 if minimum is None else minimum, size(schema, "maxContains"))


def _all_unique(values: list[Any]) -> bool:
    return not any(same(one, other) for at, one in enumerate(values) for other in values[:at])


def _check_object(schema: dict[str, Any], value: Any, valid: Valid) -> bool:
    if not isinstance(value, dict):
        return True
    if not _in_range(len(value), size(schema, "minProperties"), size(schema, "maxProperties")):
        return False
    if not all(name in value for name in required_names(schema, value)):
        return False
    if not all(valid(schema.get("propertyNames", True), name) for name in value):
        return False
    for name, subschema in subschemas(schema, "dependentSchemas").items():
        if name in value and not valid(subschema, value):
            return False
    return all(
        valid(subschema, item)
        for name, item in value.items()
        for subschema in property_schemas(schema, name)
    )


_CHECKS = (
    _check_value,
    _check_combinations,
    _check_number,
    _check_string,
    _check_array,
    _check_object,
)
