"""Values for JSON schemas; Pydantic generates the schemas and validates the values."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, Optional
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import AnyUrl, BaseModel, Field, TypeAdapter

from rustygate.simulator.answers.facts import Facts
from rustygate.simulator.answers.json_schema import Root, SchemaError
from rustygate.simulator.answers.validation import is_valid
from rustygate.simulator.answers.values import value_for

TEXT = "Jason is 25 years old and lives in Paris; Sarah is 31 and likes blue."


def make(schema: Any, text: str = TEXT, seed: int = 1) -> Any:
    return value_for(schema, Facts(text, seed))


class User(BaseModel):
    name: str
    age: int


class Address(BaseModel):
    street: str
    city: str
    postcode: str = Field(pattern=r"^\d{5}$")


class Colour(Enum):
    red = "red"
    blue = "blue"


class Profile(BaseModel):
    id: UUID
    born: date
    at: datetime
    wakes: time_of_day
    sleeps: timedelta
    page: AnyUrl
    colour: Colour
    address: Address | None
    tags: set[str]
    codes: frozenset[Literal["a", "b", "c"]] = Field(min_length=3)
    scores: dict[str, float]
    price: Decimal
    position: tuple[int, str]
    third: Annotated[int, Field(ge=4, le=8, multiple_of=3)]
    share: Annotated[float, Field(gt=0, lt=1)]
    long: Annotated[str, Field(min_length=200, max_length=210)]
    short: Annotated[str, Field(max_length=2)]
    many: Annotated[list[int], Field(min_length=7, max_length=7)]
    nickname: str | None = None


class Node(BaseModel):
    value: int
    left: Optional["Node"]
    right: Optional["Node"]
    children: list["Node"]


class Leaf(BaseModel):
    kind: Literal["leaf"]
    value: int


class Sum(BaseModel):
    kind: Literal["sum"]
    left: "Expression"
    right: "Expression"


Expression = Annotated[Sum | Leaf, Field(discriminator="kind")]


@pytest.mark.parametrize(
    "kind", [User, list[User], Profile, Node, Expression, dict[Colour, list[User]], int | None]
)
def test_value_validates_in_pydantic(kind: Any) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    for seed in range(10):
        value = make(adapter.json_schema(), seed=seed)
        adapter.validate_json(json.dumps(value))
        assert value == make(adapter.json_schema(), seed=seed)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (User, "Extract Jason is 25 years old.", {"name": "Jason", "age": 25}),
        (
            list[User],
            "Jason is 25, Sarah is 31 and Bob is 7",
            [{"name": n, "age": a} for n, a in (("Jason", 25), ("Sarah", 31), ("Bob", 7))],
        ),
        (User, "age: 30, name: Ann Lee, number 7", {"name": "Ann Lee", "age": 30}),
        (Colour, "I like red more.", "red"),
        (Colour, "I like Blue more.", "blue"),
    ],
)
def test_value_has_what_the_text_says(kind: Any, text: str, value: object) -> None:
    assert make(TypeAdapter(kind).json_schema(), text) == value


def test_places_and_names_are_distinguished() -> None:
    properties = {"city": {"type": "string"}, "name": {"type": "string"}}
    schema = {"type": "object", "properties": properties, "required": ["city", "name"]}
    text = "What does John do in New York?"
    assert make(schema, text) == {"city": "New York", "name": "John"}


def test_text_fields_repeat_the_whole_text() -> None:
    schema = {"type": "object", "properties": {"query": {"type": "string"}}}
    assert make(schema, "find my keys") == {"query": "find my keys"}


def one_of(keyword: str, *options: object) -> dict[str, object]:
    return {keyword: list(options)}


STRING, NUMBER, NULL = {"type": "string"}, {"type": "number"}, {"type": "null"}


@pytest.mark.parametrize(
    ("schema", "check"),
    [
        ({}, lambda value: isinstance(value, str)),
        (True, lambda value: isinstance(value, str)),
        ({"const": {"a": [1]}}, lambda value: value == {"a": [1]}),
        ({"enum": [None]}, lambda value: value is None),
        ({"type": ["null", "string"]}, lambda value: isinstance(value, str)),
        ({"type": "string", "nullable": True}, lambda value: isinstance(value, str)),
        (one_of("anyOf", NULL, NUMBER), lambda value: value is not None),
        (one_of("oneOf", {"minimum": 5}, {"maximum": 7}), lambda v: not 5 <= v <= 7),
        (one_of("allOf", {"minimum": 5}, {"maximum": 7}), lambda v: 5 <= v <= 7),
        ({"type": "integer", "exclusiveMinimum": 2, "maximum": 3}, lambda value: value == 3),
        ({"type": "integer", "minimum": 2, "exclusiveMaximum": 3}, lambda value: value == 2),
        ({"type": "number", "exclusiveMinimum": 2, "exclusiveMaximum": 2.01}, lambda v: v > 2),
        ({"type": "number"}, lambda value: value % 1 == 0),
        ({"type": "integer", "maximum": -(10**9)}, lambda value: value <= -(10**9)),
        ({"type": "integer", "minimum": 10**12}, lambda value: value >= 10**12),
        ({"type": "number", "multipleOf": 0.25, "minimum": 3.1, "maximum": 3.3}, (3.25).__eq__),
        ({"minimum": 3, "exclusiveMinimum": True, "maximum": 4, "type": "integer"}, (4).__eq__),
        ({"type": "string", "minLength": 5, "maxLength": 5}, lambda v: len(v) == 5),
        ({"type": "string", "format": "email"}, lambda value: "@" in value),
        ({"type": "string", "format": "ipv4"}, lambda value: value.count(".") == 3),
        ({"type": "array", "items": False, "maxItems": 3}, lambda value: value == []),
        ({"type": "array", "minItems": 3, "maxItems": 3}, lambda value: len(value) == 3),
        ({"type": "array", "contains": {"const": 9}, "items": {}}, lambda v: 9 in v),
        ({"type": "array", "prefixItems": [STRING], "items": NUMBER}, lambda v: v[1] * 1 == v[1]),
        ({"items": [STRING, NUMBER], "additionalItems": False}, lambda v: len(v) == 2),
        ({"uniqueItems": True, "items": {"type": "integer"}, "minItems": 9}, lambda v: True),
        ({"uniqueItems": True, "items": {"type": "string"}, "minItems": 9}, lambda v: True),
        ({"uniqueItems": True, "items": {"enum": [1, 2, 3]}, "minItems": 3}, lambda v: True),
        ({"type": "object", "additionalProperties": NUMBER}, lambda value: len(value) == 2),
        ({"type": "object"}, lambda value: value == {"answer": "some text"}),
        ({"type": "object", "properties": {}}, lambda value: value == {}),
        ({"type": "object", "additionalProperties": False}, lambda value: value == {}),
        ({"type": "object", "minProperties": 9}, lambda value: len(value) == 9),
        ({"patternProperties": {"^x_[a-z]+$": NUMBER}}, lambda v: all(k[:2] == "x_" for k in v)),
        ({"required": ["a"], "properties": {"b": NULL}}, lambda value: set(value) == {"a", "b"}),
        (
            {"properties": {"a": NULL, "b": NULL}, "maxProperties": 1, "required": ["b"]},
            lambda value: value == {"b": None},
        ),
        (
            {"properties": {"a": NULL}, "required": ["a"], "dependentRequired": {"a": ["c"]}},
            lambda value: set(value) == {"a", "c"},
        ),
        (
            {"properties": {"a": NUMBER}, "if": {"required": ["a"]}, "then": {"required": ["b"]}},
            lambda value: set(value) == {"a", "b"},
        ),
        (
            {"type": "object", "propertyNames": {"const": "b"}, "minProperties": 1},
            lambda v: "b" in v,
        ),
        ({"not": {"type": "string"}}, lambda value: not isinstance(value, str)),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"const": 1}}}, lambda value: value == 1),
        ({"$ref": "#/definitions/a", "definitions": {"a": {"const": 1}}}, lambda v: v == 1),
        ({"$ref": "#/$defs/a", "minimum": 50, "$defs": {"a": NUMBER}}, lambda v: v >= 50),
        (
            {"type": "object", "properties": {"a": {"$ref": "#"}}},
            lambda value: len(json.dumps(value)) < 200,
        ),
    ],
    ids=lambda value: None if callable(value) else str(value),
)
def test_keyword_is_followed(schema: Any, check: Callable[[Any], bool]) -> None:
    for seed in range(5):
        value = make(schema, "some text", seed)
        assert check(value), value
        assert is_valid(Root(schema), schema, value)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (False, "no value"),
        (5, "not an object"),
        ({"type": "strin"}, "there is no type 'strin'"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "no value"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "no value"),
        ({"enum": []}, "no value"),
        ({"allOf": [{"const": 1}, {"const": 2}]}, "no value"),
        ({"allOf": [{"type": "string"}, {"type": "null"}]}, "no value"),
        ({"$ref": "#/$defs/none"}, "leads nowhere"),
        ({"$ref": "https://example.com/schema"}, "does not begin with '#'"),
        ({"$ref": "#"}, "without end"),
        ({"required": ["a"], "properties": {"a": {"$ref": "#"}}, "type": "object"}, "no value"),
        ({"type": "string", "pattern": "("}, "unbalanced parenthesis"),
        ({"type": "string", "minLength": 10**9}, "1000000000 characters"),
        ({"type": "array", "minItems": 10**9}, "1000000000 items"),
        ({"type": "object", "minProperties": 10**9}, "1000000000 properties"),
    ],
    ids=str,
)
def test_schema_without_a_value_says_so(schema: Any, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        make(schema)


def test_exponential_schema_ends_soon() -> None:
    definitions: dict[str, Any] = {"0": {"type": "string"}}
    for level in range(1, 40):
        reference = {"$ref": f"#/$defs/{level - 1}"}
        properties = {name: reference for name in "abcdef"}
        definitions[str(level)] = {"properties": properties, "required": list(properties)}
    started = time.process_time()
    with pytest.raises(SchemaError):
        make({"$ref": "#/$defs/39", "$defs": definitions})
    assert time.process_time() - started < 30


SCALARS: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, False, 0, 1, -3, 2.5, "a", "red", [], {}]
)
NAMES = st.sampled_from(["a", "b", "name", "age"])
LEAVES = st.one_of(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["string", "integer", "number", "boolean", "null", "array"])}
    ),
    st.fixed_dictionaries(
        {"type": st.just("string")},
        optional={"minLength": st.integers(0, 9), "maxLength": st.integers(8, 40)},
    ),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["integer", "number"])},
        optional={"minimum": st.integers(-9, 9), "exclusiveMaximum": st.integers(8, 30)},
    ),
    st.fixed_dictionaries({"enum": st.lists(SCALARS, min_size=1, max_size=4)}),
)


def _combine(schemas: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.fixed_dictionaries(
            {"type": st.just("object"), "properties": st.dictionaries(NAMES, schemas, max_size=4)},
            optional={"required": st.lists(NAMES, max_size=3), "additionalProperties": schemas},
        ),
        st.fixed_dictionaries(
            {"type": st.just("array"), "items": schemas},
            optional={"minItems": st.integers(0, 3), "maxItems": st.integers(3, 5)},
        ),
        st.builds(
            lambda keyword, options: {keyword: options},
            st.sampled_from(["anyOf", "oneOf", "allOf"]),
            st.lists(schemas, min_size=1, max_size=3),
        ),
    )


@settings(suppress_health_check=list(HealthCheck))
@given(st.recursive(LEAVES, _combine, max_leaves=8), st.integers(0, 3))
def test_value_of_any_schema_validates_or_is_refused(schema: Any, seed: int) -> None:
    # Some of these schemas contradict themselves.
    with suppress(SchemaError):
        assert is_valid(Root(schema), schema, make(schema, seed=seed))
