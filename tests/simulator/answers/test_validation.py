"""Whether values validate against JSON schemas."""

from typing import Any

import pytest

from rustygate.simulator.answers.json_schema import Root, SchemaError
from rustygate.simulator.answers.validation import is_valid

# Schema, values that validate, values that do not.
CASES: list[tuple[Any, list[Any], list[Any]]] = [
    (True, [1, None], []),
    (False, [], [1, None]),
    ({"type": "integer"}, [1, 1.0, -3], [1.5, True, "1", None]),
    ({"type": "number"}, [1, 1.5], [False, "1"]),
    ({"type": ["null", "boolean"]}, [None, True], [0, ""]),
    ({"const": 1}, [1, 1.0], [True, "1"]),
    ({"enum": [[1], {"a": False}]}, [[1], {"a": False}], [[True], {"a": 0}, {}]),
    ({"minimum": 2, "maximum": 3}, [2, 3, "x"], [1.9, 3.1]),
    ({"exclusiveMinimum": 2, "exclusiveMaximum": 3}, [2.5], [2, 3]),
    ({"minimum": 2, "exclusiveMinimum": True}, [2.1], [2]),
    ({"maximum": 2, "exclusiveMaximum": True}, [1.9], [2]),
    ({"minimum": 2, "exclusiveMinimum": 1}, [2], [1.5]),
    ({"multipleOf": 0.5}, [1, 1.5, 0], [0.7]),
    ({"minLength": 2, "maxLength": 3}, ["ab", "abc", 1], ["a", "abcd"]),
    ({"pattern": "b+"}, ["abc", 1], ["ac"]),
    ({"minItems": 1, "maxItems": 2}, [[1], [1, 2]], [[], [1, 2, 3]]),
    ({"uniqueItems": True}, [[1, True], [[1], [2]]], [[1, 1.0], [{"a": 1}, {"a": 1}]]),
    ({"items": {"type": "null"}}, [[], [None]], [[None, 1]]),
    ({"prefixItems": [{"const": 1}], "items": False}, [[], [1]], [[2], [1, 1]]),
    ({"items": [{"const": 1}], "additionalItems": {"const": 2}}, [[1, 2]], [[2], [1, 1]]),
    ({"contains": {"const": 1}, "maxContains": 1}, [[1], [2, 1]], [[], [2], [1, 1]]),
    ({"contains": {"const": 1}, "minContains": 0}, [[]], []),
    ({"required": ["a"]}, [{"a": 1}, []], [{}, {"b": 1}]),
    ({"properties": {"a": {"const": 1}}}, [{}, {"a": 1}, {"b": 2}], [{"a": 2}]),
    ({"properties": {"a": {}}, "additionalProperties": False}, [{"a": 1}], [{"b": 1}]),
    (
        {"patternProperties": {"^a": {"const": 1}}, "additionalProperties": {"const": 2}},
        [{"ab": 1, "b": 2}],
        [{"ab": 2}, {"b": 1}],
    ),
    ({"propertyNames": {"maxLength": 1}}, [{"a": 1}], [{"ab": 1}]),
    ({"minProperties": 1, "maxProperties": 2}, [{"a": 1}], [{}, {"a": 1, "b": 1, "c": 1}]),
    ({"dependentRequired": {"a": ["b"]}}, [{}, {"a": 1, "b": 1}], [{"a": 1}]),
    ({"dependentSchemas": {"a": {"required": ["b"]}}}, [{}, {"a": 1, "b": 1}], [{"a": 1}]),
    ({"allOf": [{"minimum": 1}, {"maximum": 2}]}, [1, 2], [0, 3]),
    ({"anyOf": [{"minimum": 5}, {"maximum": 2}]}, [1, 6], [3]),
    ({"oneOf": [{"minimum": 1}, {"maximum": 2}]}, [0, 3], [1, 2]),
    ({"not": {"const": 1}}, [2], [1]),
    ({"if": {"minimum": 5}, "then": {"const": 9}, "else": {"const": 1}}, [9, 1], [6, 2]),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"const": 1}}}, [1], [2]),
    (
        {"properties": {"a": {"$ref": "#"}}, "type": "object"},
        [{"a": {"a": {}}}],
        [{"a": {"a": 1}}],
    ),
]


@pytest.mark.parametrize(("schema", "valid", "invalid"), CASES, ids=str)
def test_values_validate_or_not(schema: Any, valid: list[Any], invalid: list[Any]) -> None:
    assert [value for value in valid if not is_valid(Root(schema), schema, value)] == []
    assert [value for value in invalid if is_valid(Root(schema), schema, value)] == []


def test_reference_to_itself_is_refused() -> None:
    schema = {"$ref": "#"}
    with pytest.raises(SchemaError, match="without end"):
        is_valid(Root(schema), schema, 1)
