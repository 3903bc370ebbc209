"""The size of the input, of the types that upstream accepts and of any other."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.request_schema import (
    CHARACTERS_PER_TOKEN,
    MEDIA_CHARACTERS,
    NUMBER_LIMIT,
    Request,
    read_request,
)

DATA = "data:image/png;base64," + "iVBORw0KGgo" * 1000
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}

# A request in which every field that is read has a value.
WHOLE: dict[str, Any] = {
    "model": "gpt-4o",
    "stream": True,
    "max_tokens": 10,
    "max_completion_tokens": 20,
    "max_output_tokens": 30,
    "n": 2,
    "messages": [{"role": "user", "content": "12"}],
    "input": "345",
    "prompt": ["6789", "0"],
    "instructions": "1",
    "tools": [TOOL],
    "functions": [{"name": "g"}],
    "response_format": {"type": "json_object"},
    "text": {"format": {"type": "text"}},
}


def json_values() -> st.SearchStrategy[Any]:
    finite = st.floats(allow_nan=False, allow_infinity=False)
    scalars = st.none() | st.booleans() | st.integers() | finite | st.text()
    keys = st.sampled_from(["type", "text", "content", "output", "tool_calls", "x"])
    return st.recursive(scalars, lambda v: st.lists(v) | st.dictionaries(keys, v), max_leaves=20)


def dumped(value: Any) -> bytes:
    """JSON as SDKs write it: compact, characters as they are."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def read(value: Any) -> Request:
    request = read_request(dumped(value))
    assert request is not None
    return request


def characters(**fields: Any) -> int:
    return read(fields).input_characters()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({"messages": [{"role": "user", "content": "12345"}]}, 5, id="chat"),
        pytest.param({"messages": [{"content": "12"}, {"content": "345"}]}, 5, id="messages"),
        pytest.param({"messages": [{"content": "é☃𝄞"}]}, 3, id="characters-not-bytes"),
        pytest.param({"messages": [{"content": None}]}, 0, id="null-content"),
        pytest.param(
            {"messages": [{"content": [{"type": "text", "text": "123"}, {"text": "45"}]}]},
            5,
            id="parts",
        ),
        pytest.param(
            {"messages": [{"content": None, "tool_calls": [TOOL]}]},
            len(dumped([TOOL])),
            id="tool-calls",
        ),
        pytest.param({"tools": [TOOL]}, len(dumped([TOOL])), id="tools"),
        pytest.param(
            {"functions": [TOOL["function"]]}, len(dumped([TOOL["function"]])), id="functions"
        ),
        pytest.param({"response_format": {"type": "text"}}, len('{"type":"text"}'), id="format"),
        pytest.param({"tools": ["é☃"]}, len('["é☃"]'), id="tools-in-characters"),
        pytest.param({"prompt": "12345"}, 5, id="prompt"),
        pytest.param({"prompt": ["12", "345"]}, 5, id="prompts"),
        pytest.param({"prompt": {"id": "pmpt_1", "variables": {}}}, 0, id="template"),
        pytest.param({"input": "12345"}, 5, id="input"),
        pytest.param({"input": [1, 2, 3]}, 3 * CHARACTERS_PER_TOKEN, id="token-ids"),
        pytest.param({"input": [[1, 2], [3]]}, 3 * CHARACTERS_PER_TOKEN, id="lists-of-token-ids"),
        pytest.param({"input": ["1", 2, [3]]}, 1 + 2 * CHARACTERS_PER_TOKEN, id="mixed"),
        pytest.param({"input": []}, 0, id="nothing"),
        pytest.param(
            {"instructions": "12", "input": [{"role": "user", "content": "345"}]},
            5,
            id="responses",
        ),
        pytest.param(
            {"input": [{"type": "message", "content": [{"type": "input_text", "text": "123"}]}]},
            3,
            id="responses-parts",
        ),
        pytest.param(
            {
                "input": [
                    {"type": "function_call", "arguments": "12", "name": "f"},
                    {"type": "function_call_output", "output": "345"},
                    {"type": "custom_tool_call_output", "output": [{"text": "67"}]},
                    {"type": "reasoning", "summary": [{"text": "8"}], "encrypted_content": DATA},
                    {"type": "item_reference", "id": "msg_1"},
                ]
            },
            8,
            id="responses-items",
        ),
        pytest.param(
            {"input": [{"type": "text", "text": "12345"}]}, 5, id="moderations"
        ),
        pytest.param({"unknown": "12345", "metadata": {"a": "b"}}, 0, id="unknown"),
    ],
)  # fmt: skip
def test_input_in_characters(fields: dict[str, Any], expected: int) -> None:
    assert characters(**fields) == expected


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": DATA}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        {"type": "input_image", "image_url": DATA},
        {"type": "input_audio", "input_audio": {"data": DATA, "format": "wav"}},
        {"type": "file", "file": {"file_data": DATA}},
        {"type": "input_file", "file_data": DATA},
    ],
    ids=lambda part: str(part)[:40],
)
def test_media_count_the_same_at_any_length(part: dict[str, Any]) -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "12345"}, part]}
    assert characters(messages=[message]) == 5 + MEDIA_CHARACTERS
    assert characters(input=[message]) == 5 + MEDIA_CHARACTERS


@pytest.mark.parametrize(
    "item",
    [
        {"type": "image_generation_call", "result": DATA},
        {
            "type": "computer_call_output",
            "output": {"type": "computer_screenshot", "image_url": DATA},
        },
    ],
    ids=lambda item: str(item["type"]),
)
def test_media_among_items_count_the_same(item: dict[str, Any]) -> None:
    assert characters(input=[item]) == MEDIA_CHARACTERS


def test_data_in_definitions_does_not_count() -> None:
    mask = {"type": "image_generation", "input_image_mask": {"image_url": DATA}}
    assert characters(tools=[mask]) < 100


def test_escaped_characters_count_as_one() -> None:
    assert read_request(b'{"tools":"\\u00e9\\u2603"}').input_characters() == 4  # type: ignore[union-attr]
    assert read_request(b'{"input":"\\u00e9\\u2603"}').input_characters() == 2  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "content",
    [5, True, {"text": {"value": "12345"}}, [None, "12345"], [{"text": 5}], [[["12345"]]]],
    ids=str,
)
def test_input_of_unknown_type_counts_as_its_json(content: Any) -> None:
    messages = [{"content": content}]
    assert characters(messages=messages, input="12") == len(dumped(messages)) + 2


def test_input_of_unknown_type_counts_without_its_data() -> None:
    audio = {"type": "input_audio", "input_audio": {"data": "UklGR" * 1000}}
    assert characters(messages=[{"content": [audio, {"text": 5}]}]) < 200


@pytest.mark.parametrize(
    ("fields", "cap"),
    [
        ({}, None),
        ({"max_tokens": 100}, 100),
        ({"max_completion_tokens": 100}, 100),
        ({"max_output_tokens": 100}, 100),
        ({"max_tokens": 100, "max_completion_tokens": 200}, 200),
        ({"max_tokens": 100, "n": 3}, 300),
        ({"max_tokens": 100.0, "n": 3.0}, 300),
        ({"max_tokens": 0}, 0),
        ({"n": 3}, None),
        ({"max_tokens": 100, "n": -3}, 100),
        ({"max_tokens": 100, "n": 0}, 100),
        ({"max_tokens": 100, "n": "two"}, 100),
        ({"max_tokens": 100, "n": 10**30}, 100),
        ({"max_tokens": "many", "max_output_tokens": 100}, 100),
        ({"max_tokens": "100"}, None),
        ({"max_tokens": -1}, None),
        ({"max_tokens": 1.5}, None),
        ({"max_tokens": 1e300}, None),
        ({"max_tokens": True}, None),
        ({"max_tokens": None}, None),
        ({"max_tokens": [100]}, None),
        ({"max_tokens": NUMBER_LIMIT}, NUMBER_LIMIT),
        ({"max_tokens": NUMBER_LIMIT + 1}, None),
        ({"max_tokens": 10**4000}, None),
    ],
    ids=lambda value: str(value)[:40],
)
def test_output_cap(fields: dict[str, Any], cap: int | None) -> None:
    assert read(fields).output_cap() == cap


@pytest.mark.parametrize(
    "odd",
    [
        b"9" * 5000,
        b"1e999",
        b'"\xff"',
        b"[" * 200 + b"]" * 200,
        b'{"type":{}}',
        b'[{"type":"text"},5.5]',
    ],
    ids=lambda odd: repr(odd)[:20],
)
@pytest.mark.parametrize("name", WHOLE)
def test_odd_field_does_not_spoil_the_others(name: str, odd: bytes) -> None:
    unspoilt = read({key: value for key, value in WHOLE.items() if key != name})
    body = dumped(WHOLE)[:-1] + b',"' + name.encode() + b'":' + odd + b"}"
    request = read_request(body)
    assert request is not None
    for other in Request.__struct_fields__:
        if other != name:
            assert same(getattr(request, other), getattr(unspoilt, other))


def same(one: Any, other: Any) -> bool:
    """Compares the fields that were read; raw JSON has no equality of its own."""
    return repr(one) == repr(other) or bytes(one) == bytes(other)


@given(st.sampled_from(sorted(WHOLE)), json_values())
def test_any_value_in_any_field_is_accepted(name: str, value: Any) -> None:
    request = read(WHOLE | {name: value})
    assert request.input_characters() >= 0
    assert (request.output_cap() or 0) >= 0
    if name != "model":
        assert request.model == "gpt-4o"
    if name != "stream":
        assert request.stream is True


@given(json_values())
def test_any_json_object_is_a_request(value: Any) -> None:
    request = read_request(dumped(value))
    assert (request is not None) is isinstance(value, dict)


@given(st.binary(max_size=300))
def test_any_bytes_are_accepted(body: bytes) -> None:
    read_request(body)
    read_request(b'{"messages":' + body)


@given(st.lists(st.text(), max_size=8), st.lists(st.text(), max_size=8))
def test_characters_are_counted_as_by_python(contents: list[str], parts: list[str]) -> None:
    messages: list[dict[str, Any]] = [{"role": "user", "content": text} for text in contents]
    messages.append({"content": [{"type": "text", "text": text} for text in parts]})
    assert characters(messages=messages) == len("".join(contents + parts))


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"messages":' + b'[{"content":' * 100_000,
        b'{"tools":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
        b'{"messages":[{"content":"\\ud800"}]}',
        b'{"messages":"\\ud800 and more of it"}',
        b'{"model":"\\ud800"}',
    ],
    ids=lambda body: repr(body)[:30],
)
def test_hostile_bodies_raise_nothing(body: bytes) -> None:
    request = read_request(body)
    assert request is None or request.input_characters() >= 0
