"""A value that validates against a JSON schema, made of the prompt's words and numbers.

Alternatives are tried in order of preference until one validates. Recursive schemas end because
the height of a value is limited: a low limit comes first, then higher ones, for schemas that
need them.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Self

from rustygate.simulator.answers.alternatives import alternatives
from rustygate.simulator.answers.facts import Facts, key_words
from rustygate.simulator.answers.json_schema import (
    Root,
    SchemaError,
    property_schemas,
    required_names,
    schema_list,
    size,
    subschemas,
    tuple_items,
    types_of,
)
from rustygate.simulator.answers.numbers import labelled_number, numbers, simple
from rustygate.simulator.answers.strings import strings
from rustygate.simulator.answers.validation import is_valid, same

# Objects and arrays within one another.
_HEIGHTS = (6, 12, 24)

# Values within values up to here are written in full, those below as small as possible.
_FULL_DEPTH = 3

# Beyond this many values the rest is written as small as possible.
_MANY_VALUES = 300
_MAX_VALUES = 20_000

# Of a list: without limits, and if the text lists names.
_DEFAULT_ITEMS = 2
_MAX_ITEMS = 5
_UNIQUE_ATTEMPTS = 20

# Without these, the whole value gets a property, so that it says something.
_ABOUT_PROPERTIES = {
    "properties",
    "required",
    "additionalProperties",
    "patternProperties",
    "propertyNames",
    "maxProperties",
}

# For schemas that say what a value is not.
_LAST_RESORTS: tuple[Any, ...] = ("", 0, 1, -1, True, None, [], {})


class _NoValue(Exception):
    """A part of a schema has no value within the height left."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a value is.

    Args:
        key: the name of the property that it is for.
        path: varies choices.
        index: its number among similar values.
        height: how many objects and arrays may be within one another.
        numbered: whether a text has to differ from similar ones by a number.
    """

    key: str
    path: str
    index: int
    height: int
    numbered: bool = False

    def below(self, key: str, name: object, index: int) -> Self:
        """A place within this one. Raises `_NoValue` if nothing may be there."""
        if not self.height:
            raise _NoValue
        return replace(
            self, key=key, path=f"{self.path}/{name}", index=index, height=self.height - 1
        )


def value_for(schema: Any, facts: Facts) -> Any:
    """A value that validates.

    Raises:
        SchemaError: the schema is malformed or too complex, or no value was found.
    """
    root = Root(schema)
    try:
        for height in _HEIGHTS:
            with suppress(_NoValue):
                return _Maker(root, facts, height).value(root.schema, _Place("", "", 0, height))
    except RecursionError as error:
        raise SchemaError("it is nested too deeply") from error
    raise SchemaError("the simulator found no value that validates against it")


class _Maker:
    """Makes one value; limited in height and in the number of values within."""

    def __init__(self, root: Root, facts: Facts, height: int) -> None:
        self._root = root
        self._facts = facts
        self._height = height
        self._count = 0
        self._numbers = list(facts.numbers)

    def value(self, schema: Any, place: _Place) -> Any:
        """A value for a part of the schema."""
        self._count += 1
        if self._count > _MAX_VALUES:
            raise SchemaError("its values are too large")
        order = self._by_size if self._is_small(place) else self._by_text
        for plain in alternatives(self._root, schema, order):
            with suppress(_NoValue):
                for candidate in self._candidates(plain, place):
                    if is_valid(self._root, schema, candidate):
                        return candidate
        for candidate in _LAST_RESORTS:
            if is_valid(self._root, schema, candidate):
                return candidate
        raise _NoValue

    def _is_small(self, place: _Place) -> bool:
        return self._height - place.height >= _FULL_DEPTH or self._count > _MANY_VALUES

    def _by_text(self, options: list[Any]) -> list[Any]:
        """Options that the text mentions come first, null comes last."""
        mentioned = self._facts.mentioned(list(map(_name, options)))
        return sorted(options, key=lambda one: (_is_null(one), _name(one) not in mentioned))

    def _by_size(self, options: list[Any]) -> list[Any]:
        return sorted(options, key=_size)

    def _candidates(self, schema: dict[str, Any], place: _Place) -> Iterator[Any]:
        if "const" in schema:
            yield schema["const"]
        elif "enum" in schema:
            yield from self._enum_values(schema_list(schema, "enum"), place)
        else:
            for name in self._types(schema, place):
                yield from self._typed_values(name, schema, place)

    def _enum_values(self, options: list[Any], place: _Place) -> Iterator[Any]:
        mentioned = self._facts.mentioned(options)
        for position in range(len(mentioned)):
            yield mentioned[(place.index + position) % len(mentioned)]
        start = self._facts.choose(place.path, range(len(options))) if options else 0
        yield from options[start:] + options[:start]

    def _types(self, schema: dict[str, Any], place: _Place) -> list[str]:
        types = types_of(schema) or [_implied_type(schema)]
        return sorted(types, key=lambda name: (name == "null") != self._is_small(place))

    def _typed_values(self, name: str, schema: dict[str, Any], place: _Place) -> Iterator[Any]:
        match name:
            case "null":
                yield None
            case "boolean":
                first = bool(self._facts.choose(place.path, range(2)))
                yield from (first, not first)
            case "integer" | "number":
                yield from self._number_values(schema, name == "integer", place)
            case "string":
                yield from self._string_values(schema, place)
            case "array":
                yield self._array(schema, place)
            case "object":
                yield self._object(schema, place)
            case _:
                raise SchemaError(f"there is no type {name!r}")

    def _string_values(self, schema: dict[str, Any], place: _Place) -> Iterator[str]:
        number = place.index if place.numbered else None
        for index in range(place.index, place.index + 4):
            path = f"{place.path}{index}"
            yield from strings(self._facts, schema, place.key, path, index, number)

    def _number_values(
        self, schema: dict[str, Any], integer: bool, place: _Place
    ) -> Iterator[int | float]:
        """What the prompt says about the field, the prompt's next numbers, then any others."""
        stated = labelled_number(self._facts, place.key)
        if stated is not None:
            yield simple(stated)
        for candidate in map(simple, self._numbers):
            if is_valid(self._root, schema, candidate):
                self._numbers.remove(candidate)
                yield candidate
                break
        yield from numbers(self._facts, schema, integer, place.path)

    def _array(self, schema: dict[str, Any], place: _Place) -> list[Any]:
        minimum, maximum = size(schema, "minItems") or 0, size(schema, "maxItems")
        if minimum > _MAX_VALUES:
            raise SchemaError(f"it requires a list of {minimum} items")
        wanted = 0 if self._is_small(place) else self._wanted_items(schema)
        # What the list has to contain comes after the items that have schemas of their own.
        wanted = max(wanted, len(tuple_items(schema)[0]) + 1) if "contains" in schema else wanted
        length = max(minimum, wanted if maximum is None else min(wanted, maximum))
        items: list[Any] = []
        for item_schema in _item_schemas(schema, length):
            try:
                items.append(
                    self._item(item_schema, bool(schema.get("uniqueItems")), items, place)
                )
            except _NoValue:
                break
        return items

    def _wanted_items(self, schema: dict[str, Any]) -> int:
        """As many items as the text lists names, if it does, and at least those of a tuple."""
        listed = min(len(self._facts.listed_names), _MAX_ITEMS) or _DEFAULT_ITEMS
        return max(len(tuple_items(schema)[0]), listed)

    def _item(self, schema: Any, unique: bool, before: list[Any], place: _Place) -> Any:
        place = place.below(place.key, len(before), len(before))
        return self._unique(schema, before, place) if unique else self.value(schema, place)

    def _unique(self, schema: Any, others: list[Any], place: _Place) -> Any:
        """A value unlike the others."""
        for attempt in range(_UNIQUE_ATTEMPTS):
            index, path = place.index + attempt, f"{place.path}.{attempt}"
            numbered = attempt >= _UNIQUE_ATTEMPTS // 2
            value = self.value(schema, replace(place, path=path, index=index, numbered=numbered))
            if not any(same(value, other) for other in others):
                return value
        raise _NoValue

    def _object(self, schema: dict[str, Any], place: _Place) -> dict[str, Any]:
        required = required_names(schema)
        value: dict[str, Any] = {}
        for name in self._property_names(schema, required, place):
            merged = {"allOf": list(property_schemas(schema, name))}
            try:
                value[name] = self.value(merged, place.below(name, name, place.index))
            except _NoValue:
                if name in required:
                    raise
        return value

    def _property_names(
        self, schema: dict[str, Any], required: list[str], place: _Place
    ) -> Iterator[str]:
        """The properties in the schema's order, then others if some are wanted."""
        known = list(dict.fromkeys([*subschemas(schema, "properties"), *required]))
        needed = _with_dependencies(schema, required)
        maximum = size(schema, "maxProperties")
        optional = 0 if self._is_small(place) else len(known)
        if maximum is not None:
            optional = min(optional, maximum - len(needed))
        optional = max(optional, (size(schema, "minProperties") or 0) - len(needed))
        extra = [name for name in known if name not in needed][:optional]
        chosen = _with_dependencies(schema, [*needed, *extra])
        yield from sorted(chosen, key=lambda name: known.index(name) if name in known else 0)
        yield from self._other_names(schema, chosen, place)

    def _other_names(
        self, schema: dict[str, Any], chosen: list[str], place: _Place
    ) -> Iterator[str]:
        """Names that the schema does not list: if it says what they are, or wants more."""
        minimum, maximum = size(schema, "minProperties") or 0, size(schema, "maxProperties")
        if minimum > _MAX_VALUES:
            raise SchemaError(f"it requires {minimum} properties")
        described = not chosen and _describes_others(schema) and not self._is_small(place)
        wanted = max(minimum, _DEFAULT_ITEMS if described else 0)
        wanted = wanted if maximum is None else min(wanted, maximum)
        names = {"type": "string", "allOf": _name_schemas(schema)}
        used: list[Any] = list(chosen)
        if not place.path and wanted == 0 and not schema.keys() & _ABOUT_PROPERTIES:
            yield "answer"
        for position in range(wanted - len(chosen)):
            at = _Place("name", f"{place.path}/names", position, 0)
            used.append(self._unique(names, used, at))
            yield used[-1]


def _item_schemas(schema: dict[str, Any], length: int) -> list[Any]:
    """The schemas of the items; the last ones also have to be what the list has to contain."""
    first, rest = tuple_items(schema)
    minimum = size(schema, "minContains")
    wanted = 0 if "contains" not in schema else 1 if minimum is None else minimum
    length = max(length, wanted)
    items = [*first[:length], *[rest] * (length - len(first))]
    found = [{"allOf": [item, schema["contains"]]} for item in items[length - wanted :]]
    return items[: length - wanted] + found if wanted else items


def _with_dependencies(schema: dict[str, Any], names: list[str]) -> list[str]:
    """The names, and those of properties that are required because others are present."""
    chosen = list(dict.fromkeys(names))
    while len(more := list(dict.fromkeys([*chosen, *required_names(schema, chosen)]))) > len(
        chosen
    ):
        chosen = more
    return chosen


def _describes_others(schema: dict[str, Any]) -> bool:
    """Whether a schema describes properties that it does not list."""
    described = isinstance(schema.get("additionalProperties"), dict)
    return described or bool(subschemas(schema, "patternProperties"))


def _name_schemas(schema: dict[str, Any]) -> list[Any]:
    """What the names of properties that the schema does not list have to match."""
    schemas = [schema.get("propertyNames", True)]
    pattern = next(iter(subschemas(schema, "patternProperties")), None)
    if pattern is not None and schema.get("additionalProperties") in (None, False):
        schemas.append({"pattern": pattern})
    return schemas


def _name(option: Any) -> str:
    """What a schema is called."""
    if not isinstance(option, dict):
        return ""
    name = option.get("title") or option.get("const") or str(option.get("$ref", "")).split("/")[-1]
    return " ".join(key_words(str(name)))


def _is_null(option: Any) -> bool:
    return isinstance(option, dict) and option.get("type") == "null"


def _size(option: Any) -> int:
    """How large the values of a schema are, roughly."""
    if not isinstance(option, dict) or option.keys() & {"const", "enum"}:
        return 0
    kinds = {"null": 0, "array": 2, "object": 3}
    return kinds.get(str(option.get("type")), 3 if "$ref" in option else 1)


_IMPLIED = {
    "object": {"properties", "required", "additionalProperties", "patternProperties"},
    "array": {"items", "prefixItems", "minItems", "maxItems", "contains", "uniqueItems"},
    "number": {"minimum", "maximum", "multipleOf", "exclusiveMinimum", "exclusiveMaximum"},
}


def _implied_type(schema: dict[str, Any]) -> str:
    """The type that the keywords of a schema without a type are about."""
    found = (name for name, keywords in _IMPLIED.items() if keywords & schema.keys())
    return next(found, "string")
