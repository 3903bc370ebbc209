"""The text that a model wrote, from events and bodies of every shape."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.output_text import Call, deltas_of_events, text_of_body, text_of_events


def event(data: Any, name: str = "") -> bytes:
    line = f"event: {name}\n" if name else ""
    return f"{line}data: {json.dumps(data)}\n\n".encode()


def compact(data: Any) -> bytes:
    return b"data: %b\n\n" % json.dumps(data, separators=(",", ":")).encode()


def delta(**fields: Any) -> dict[str, Any]:
    return {"id": "c", "choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


def call(**function: Any) -> dict[str, Any]:
    return delta(tool_calls=[{"index": 0, "function": function}])


def typed(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, "sequence_number": 4, "item_id": "i", **fields}


NEIGHBOURS = {
    "chat": delta(content="<"),
    "text": {"choices": [{"text": "<"}]},
    "response": typed("response.output_text.delta", delta="<"),
}
TRICKY = 'a "quoted" word, a \\ and a\nline; \u00e9\u4e16\U0001f642 "}'


@pytest.mark.parametrize("encode", [event, compact])
@pytest.mark.parametrize(
    ("data", "texts"),
    [
        (delta(content=" hello"), [" hello"]),
        (delta(content=TRICKY), [TRICKY]),
        (delta(content='at the end "}'), ['at the end "}']),
        (delta(content="plain", refusal=None), ["plain"]),
        (delta(role="assistant", content="", refusal=None), []),
        (delta(role="assistant", content="both"), ["both"]),
        (delta(refusal="I cannot"), ["I cannot"]),
        (delta(content=None, reasoning_content="think"), ["think"]),
        (delta(content="", reasoning="think", reasoning_details=[{"text": "think"}]), ["think"]),
        (delta(content="say", reasoning="think"), ["think", "say"]),
        (call(arguments='{"city"'), ['{"city"']),
        (call(name="get_weather", arguments='{"city"'), ['{"city"']),
        (delta(function_call={"name": "f", "arguments": "{}"}), ["{}"]),
        (delta(tool_calls=[{"index": 0, "custom": {"name": "f", "input": "in"}}]), ["in"]),
        (delta(content=[{"type": "text", "text": "part"}]), ["part"]),
        (delta(audio={"id": "a", "transcript": "spoken"}), ["spoken"]),
        (delta(audio={"id": "a", "data": "AAAAAAAA"}), []),
        (delta(), []),
        ({"choices": [], "usage": None}, []),
        ({"choices": [{"index": 0, "text": " word", "logprobs": None}]}, [" word"]),
        (
            {"choices": [delta(content="a")["choices"][0], delta(content="b")["choices"][0]]},
            ["a", "b"],
        ),
        (
            {"choices": [{"delta": {"content": "x"}, "logprobs": {"content": [{"token": "x"}]}}]},
            ["x"],
        ),
        (typed("response.output_text.delta", delta="word", logprobs=[]), ["word"]),
        (typed("response.output_text.delta", delta=TRICKY, obfuscation="Yx8dnb"), [TRICKY]),
        (typed("response.function_call_arguments.delta", delta='{"a":'), ['{"a":']),
        (typed("response.reasoning_summary_text.delta", delta="**Plan**"), ["**Plan**"]),
        (typed("response.refusal.delta", delta="no"), ["no"]),
        (typed("response.audio.delta", delta="AAAAAAAA"), []),
        (typed("response.output_text.done", text="word"), []),
        (typed("response.output_item.added", item={"type": "function_call", "name": "f"}), []),
        (typed("response.output_item.done", item={"name": "f", "arguments": "{}"}), []),
        (typed("response.completed", response={"output": [{"content": [{"text": "w"}]}]}), []),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else "",
)
def test_text_of_each_kind_of_event(encode: Any, data: Any, texts: list[str]) -> None:
    assert text_of_events(encode(data))[:2] == (len(texts), "".join(texts))
    assert deltas_of_events(encode(data)) == texts
    # Among others of the same API, where a different way of reading is taken.
    is_completion = "'text': ' word'" in str(data)
    other = NEIGHBOURS["text" if is_completion else data.get("type", "chat")[:8]]
    count, text, _ = text_of_events(encode(other) + encode(data) + encode(other))
    assert (count, text) == (len(texts) + 2, f"<{''.join(texts)}<")


@pytest.mark.parametrize(
    ("data", "calls"),
    [
        (call(name="get_weather", arguments=""), [(0, 0, "get_weather")]),
        (call(arguments='{"city"'), []),
        (call(name="", arguments="{"), []),
        (
            delta(tool_calls=[{"index": n, "function": {"name": "f"}} for n in (0, 1)]),
            [(0, 0, "f"), (0, 1, "f")],
        ),
        (
            {"choices": [call(name="f")["choices"][0] | {"index": n} for n in (0, 1)]},
            [(0, 0, "f"), (1, 0, "f")],
        ),
        (delta(tool_calls=[{"index": 2, "custom": {"name": "f"}}]), [(0, 2, "f")]),
        (delta(function_call={"name": "f", "arguments": ""}), [(0, None, "f")]),
        (
            typed("response.output_item.added", output_index=3, item={"name": "f"}),
            [(3, None, "f")],
        ),
        (typed("response.output_item.done", output_index=3, item={"name": "f"}), []),
        (delta(content="text"), []),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else "",
)
def test_calls_that_begin_in_an_event(data: Any, calls: list[Call]) -> None:
    assert list(text_of_events(event(data))[2]) == calls
    assert list(text_of_events(event(data) + b"data: {broken\n\n")[2]) == calls


def test_calls_in_plain_bodies() -> None:
    tool_calls = [{"function": {"name": "f", "arguments": "{}"}}, {"custom": {"name": "g"}}]
    chat = {"choices": [{"index": 0, "message": {"content": None, "tool_calls": tool_calls}}]}
    assert text_of_body(json.dumps(chat).encode()) == ("{}", [(0, None, "f"), (0, None, "g")])
    output = [{"type": "function_call", "name": name, "arguments": "{}"} for name in "ff"]
    response = {"output": output}
    calls = [(None, None, "f"), (None, None, "f")]
    assert text_of_body(json.dumps(response).encode()) == ("{}\n{}", calls)


def test_event_names_comments_and_done_are_no_text() -> None:
    stream = (
        b": ping\n\nretry: 10\nid: 7\n\n"
        + event(typed("response.output_text.delta", delta="word"), "response.output_text.delta")
        + b'data:{"choices":[{"delta":{"content":"more"}}]}\n\ndata: [DONE]\n\n'
    )
    assert text_of_events(stream)[:2] == (2, "wordmore")


def test_data_on_several_lines_is_read() -> None:
    events = b"".join(
        b"".join(b"data: %b\n" % line for line in json.dumps(data, indent=1).encode().split(b"\n"))
        + b"\n"
        for data in (delta(content="some "), delta(content="words"))
    )
    assert text_of_events(events)[:2] == (2, "some words")
    assert text_of_events(event(delta(content="With ")) + events)[:2] == (3, "With some words")


def test_unreadable_events_are_read_as_far_as_possible() -> None:
    stream = (
        b'data: {"choices":[{"delta":{"content":"one"}}]}\n\n'
        b'data: {"choices":[{"delta":{"content":" two"}\n\n'
        b'data: {"choices":[{"delta":{"role":"x","content":" thr'
    )
    assert text_of_events(stream)[:2] == (3, "one two thr")


def test_halves_of_a_character_in_two_deltas_are_joined() -> None:
    halves = (
        b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n' % half
        for half in (b"\\ud83d", b"\\ude42")
    )
    assert text_of_events(b"".join(halves))[:2] == (2, "\U0001f642")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"choices": [{"message": {"content": "hi", "refusal": None}}]}, "hi"),
        (
            {"choices": [{"message": {"content": TRICKY}}, {"message": {"content": "b"}}]},
            TRICKY + "\nb",
        ),
        ({"choices": [{"text": "completion"}]}, "completion"),
        (
            {
                "choices": [
                    {
                        "message": {
                            "content": None,
                            "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}],
                        }
                    }
                ]
            },
            "{}",
        ),
        (
            {"choices": [{"message": {"content": "say", "reasoning_content": "think"}}]},
            "think\nsay",
        ),
        (
            {
                "instructions": "not this",
                "tools": [{"name": "nor this"}],
                "output": [
                    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "think"}]},
                    {"type": "message", "content": [{"type": "output_text", "text": "say"}]},
                    {"type": "function_call", "name": "f", "arguments": "{}"},
                ],
            },
            "think\nsay\n{}",
        ),
        ({"data": [{"embedding": [0.5]}]}, ""),
        ([], ""),
        ("text", ""),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_text_of_plain_bodies(body: Any, text: str) -> None:
    assert text_of_body(json.dumps(body).encode())[0] == text


def test_beginning_of_a_plain_body_is_read_as_far_as_it_goes() -> None:
    body = json.dumps({"choices": [{"message": {"content": "one two"}}], "usage": {}}).encode()
    start = body[: body.index(b" two") + 3]
    assert text_of_body(start) == ("one tw", [])


@given(
    st.lists(
        st.sampled_from(
            [b'data: {"choices":[{"delta":{"content":"', b'"}', b"\\", b"\n\n", b"\xff", b"}]}"]
        )
    )
)
def test_any_bytes_are_accepted(parts: list[bytes]) -> None:
    text_of_events(b"".join(parts))
    text_of_body(b"".join(parts))


@pytest.mark.parametrize("nest", [b'{"choices":' + b"[" * 5000, b'{"delta":' + b'{"text":' * 5000])
def test_deep_nesting_is_accepted(nest: bytes) -> None:
    text_of_body(nest)
    text_of_events(b"data: " + nest + b"\n\n")
