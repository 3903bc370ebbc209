"""Answers: their text, their length, their format."""

import json
import time
from typing import Any

import pytest

from rustygate.simulator.answers.answer import CALL_OVERHEAD, Answer, OutputFormat, Task
from rustygate.simulator.answers.tools import Tool, Toolbox
from rustygate.simulator.errors import ApiError
from rustygate.simulator.prompt import Prompt, Turn, prompt_from
from rustygate.simulator.text import tokens_of

SCHEMA = {"type": "object", "properties": {"a": {"enum": ["x" * 40]}}, "required": ["a"]}
VALUE = f'{{"a":"{"x" * 40}"}}'
TOOL = Tool("act", "", SCHEMA)
PLAIN = OutputFormat()


def task(
    text: str = "Hello there",
    limit: int | None = None,
    forced: int | None = None,
    output_format: OutputFormat = PLAIN,
    tools: tuple[Tool, ...] = (),
) -> Task:
    return Task(prompt_from([text]), "seed", limit, forced, output_format, Toolbox(tools))


# The tokens of a call of TOOL without its input.
CALL = CALL_OVERHEAD + len(tokens_of(TOOL.name))


def text_of(answer: Answer) -> str:
    assert answer.text is not None
    return str(answer.text)


def test_text_begins_with_the_words_of_the_prompt() -> None:
    assert text_of(task().answer()).startswith("Hello there ")
    assert len(tokens_of(text_of(task().answer()))) == 48


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("Say this is a test", "this is a test "),
        ("Reply with the word banana.", "banana "),
        ("Please answer with exactly: yes, sir. Nothing else.", "yes, sir "),
        ("Repeat 'Hej världen' twice, don't stop", "Hej världen "),
        ("Which is the capital of France?", "Which is the capital "),
    ],
)
def test_text_begins_with_what_is_to_be_said(text: str, start: str) -> None:
    answer = text_of(task(text).answer())
    assert answer.startswith(start)
    assert text in answer


def test_results_of_tools_come_first_and_other_turns_later() -> None:
    turns = (
        Turn("system", "Be kind."),
        Turn("user", "My name is Bob."),
        Turn("assistant", "Hello!"),
        Turn("user", "Which weather?"),
        Turn("assistant", calls=("weather",)),
        Turn("tool", "22 degrees"),
    )
    answer = Task(Prompt(turns), "seed", None, None, PLAIN, Toolbox(())).answer()
    expected = "22 degrees Which weather? My name is Bob. Be kind."
    assert text_of(answer).startswith(expected)


def test_other_answers_begin_with_another_word() -> None:
    texts = [text_of(task(limit=3).answer(index)) for index in range(3)]
    assert texts[0].startswith("Hello there")
    assert all("Hello there" in text for text in texts)
    assert len(set(texts)) == 3


def test_long_words_are_split_into_tokens() -> None:
    answer = task("y" * 1000).answer()
    assert answer.text is not None
    assert max(map(len, answer.text.tokens)) <= 25


@pytest.mark.parametrize(
    ("limit", "forced", "tokens", "complete"),
    [
        (None, None, None, True),
        (100, None, None, True),
        (5, None, 5, True),
        (1, None, 1, True),
        (None, 7, 7, True),
        (None, 90, 90, True),
        (100, 90, 90, True),
        (8, 90, 8, False),
        (8, 9, 8, False),
    ],
)
@pytest.mark.parametrize("kind", ["value", "call"])
def test_structured_output_is_cut_off_only_by_forced_tokens(
    limit: int | None, forced: int | None, tokens: int | None, complete: bool, kind: str
) -> None:
    if kind == "value":
        made = task(limit=limit, forced=forced, output_format=OutputFormat(True, SCHEMA))
        text = text_of(made.answer())
    else:
        made = task(limit=limit, forced=forced, tools=(TOOL,))
        text = str(made.answer().calls[0].input)
    answer = made.answer()
    tokens = tokens or len(tokens_of(VALUE)) + (CALL if kind == "call" else 0)
    assert (answer.token_count, answer.complete) == (tokens, complete)
    assert made.token_count() == tokens
    assert VALUE.startswith(text.rstrip()) if not complete else text.rstrip() == VALUE


def test_forced_tokens_are_divided_among_calls() -> None:
    tools = (Tool("act_first", "", SCHEMA), Tool("act_second", "", SCHEMA))
    made = task("first second", forced=31, tools=tools)
    answer = made.answer()
    assert [call.token_count for call in answer.calls] == [15, 16]
    assert [len(call.input.tokens) for call in answer.calls] == [15 - 9, 16 - 9]
    assert made.token_count() == answer.token_count == 31
    assert len(task("first second", forced=1, tools=tools).answer().calls) == 1


@pytest.mark.parametrize("limit", [1, 2, 3, 40, None])
def test_prompt_that_asks_for_json_gets_an_object(limit: int | None) -> None:
    answer = text_of(task('Say "yes\\no\t" in JSON', limit).answer())
    assert isinstance(json.loads(answer), dict)
    assert (limit or 48) >= 3 or answer in ("{}", '{"answer":""}')


def test_prompt_that_names_keys_gets_an_object_with_them() -> None:
    answer = text_of(task("JSON with the keys 'name' and 'age': Jason, 25").answer())
    assert json.loads(answer) == {"name": "Jason", "age": 25}


@pytest.mark.parametrize(
    "text",
    [
        "“" * 300_000,
        "'a" * 200_000,
        "say " * 200_000,
        '{"' * 200_000,
        "keys, " * 100_000,
        "x" * 10**6,
    ],
    ids=lambda text: text[:5],
)
def test_long_prompt_is_answered_soon(text: str) -> None:
    started = time.process_time()
    task(f"JSON {text}").answer()
    task(text, tools=(TOOL,)).answer()
    task(text).answer()
    assert time.process_time() - started < 5


def test_word_that_contains_json_asks_for_none() -> None:
    assert text_of(task("Jsonville is nice").answer()).startswith("Jsonville is nice")


def test_bad_schema_in_the_prompt_is_not_followed() -> None:
    answer = text_of(
        task('JSON: {"properties": {"a": {"type": "x"}}, "required": ["a"]}').answer()
    )
    assert list(json.loads(answer)) == ["answer"]


@pytest.mark.parametrize("kind", ["value", "call"])
def test_schema_without_a_value_is_a_bad_request(kind: str) -> None:
    schema: Any = {"type": "integer", "minimum": 2, "maximum": 1}
    if kind == "value":
        made = task(output_format=OutputFormat(True, schema, "response_format"))
    else:
        made = task(tools=(Tool("act", "", schema),))
    with pytest.raises(ApiError, match="no value that validates") as error:
        made.token_count()
    response = error.value.response
    param = "response_format" if kind == "value" else "tools"
    assert (response.status, response.code, response.param) == (400, "invalid_json_schema", param)
