"""JSON that a prompt asks for in words."""

from typing import Any

import pytest

from rustygate.simulator.answers.prompted_json import MAX_ATTEMPTS, prompted_schema
from rustygate.simulator.prompt import prompt_from

SCHEMA = '{"type": "object", "properties": {"a": {"type": "null"}}}'


def keys(schema: dict[str, Any] | None) -> list[str] | None:
    return None if schema is None else list(schema["properties"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write JSON", None),
        (f"JSON that matches:\n```json\n{SCHEMA}\n```", ["a"]),
        (f'An example: {{"properties": {{"x": 1}}}}. Use {SCHEMA}', ["a"]),
        ('JSON like {"n": 1, "m": ["x"]}', ["n", "m"]),
        ('JSON with the keys "name" and "age".', ["name", "age"]),
        ("JSON with fields name, age, and city.", ["name", "age", "city"]),
        ("JSON with keys: name and age", ["name", "age"]),
        ("JSON with the key `x-1`", ["x-1"]),
        ("My key is under the mat, and I want JSON", None),
        ('JSON {"broken": ', None),
    ],
)
def test_schema_is_read_from_the_prompt(text: str, expected: list[str] | None) -> None:
    assert keys(prompted_schema(prompt_from([text]))) == expected


def test_example_gives_the_types() -> None:
    text = '{"s": "", "i": 1, "f": 1.5, "b": true, "l": [1], "n": null, "o": {"x": 1}}'
    schema = prompted_schema(prompt_from([text]))
    assert schema is not None
    types = [one.get("type") for one in schema["properties"].values()]
    assert types == ["string", "integer", "number", "boolean", "array", None, "object"]


def test_braces_without_end_are_not_tried_forever() -> None:
    assert prompted_schema(prompt_from(['{"' * 50_000])) is None
    assert prompted_schema(prompt_from(['{" ' * MAX_ATTEMPTS + SCHEMA])) is None
    assert keys(prompted_schema(prompt_from(['{" ' * (MAX_ATTEMPTS - 1) + SCHEMA]))) == ["a"]
