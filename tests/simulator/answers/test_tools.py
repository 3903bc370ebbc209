"""Which tools are called, and with which arguments."""

import json
from typing import Any

import pytest

from rustygate.simulator.answers.facts import facts_of
from rustygate.simulator.answers.tools import MAX_CALLS, Tool, Toolbox, calls
from rustygate.simulator.prompt import Prompt, Turn

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = Tool("get_weather", "The weather of a city", CITY)
NEWS = Tool("get_news", "The latest news", CITY)
FINAL = Tool("final_result", "The final response", {"type": "object", "properties": {}})
TOOLS = (WEATHER, NEWS, FINAL)


def called(toolbox: Toolbox, *turns: Turn) -> list[str]:
    prompt = Prompt(turns)
    return [call.tool.name for call in calls(toolbox, prompt, facts_of(prompt, 1))]


def ask(text: str) -> Turn:
    return Turn("user", text)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Hello", ["get_weather"]),
        ("Which news are there?", ["get_news"]),
        ("The latest, please", ["get_news"]),
        ("News and weather", ["get_weather", "get_news"]),
    ],
)
def test_tool_that_fits_the_request_is_called(text: str, names: list[str]) -> None:
    assert sorted(called(Toolbox(TOOLS), ask(text))) == sorted(names)


def test_only_one_tool_is_called_if_calls_are_not_parallel() -> None:
    assert len(called(Toolbox(TOOLS, parallel=False), ask("News and weather"))) == 1
    cities = ask("The weather in Paris, Rome and Oslo")
    assert len(called(Toolbox([WEATHER], parallel=False), cities)) == 1


def test_tool_is_called_for_each_listed_name() -> None:
    prompt = Prompt((ask("What's the weather in San Francisco, Tokyo, and Paris?"),))
    made = calls(Toolbox([WEATHER]), prompt, facts_of(prompt, 1))
    cities = [json.loads(call.input)["city"] for call in made]
    assert cities == ["San Francisco", "Tokyo", "Paris"]


def test_number_of_calls_is_bounded() -> None:
    cities = ", ".join(f"City{letter}" for letter in "ABCDEFGH")
    assert len(called(Toolbox([WEATHER]), ask(f"Weather in {cities}"))) == MAX_CALLS


def test_auto_answers_in_text_after_a_result() -> None:
    turns = [ask("weather"), Turn("assistant", calls=("get_weather",)), Turn("tool", "sunny")]
    assert called(Toolbox(TOOLS), *turns) == []
    assert called(Toolbox(TOOLS), *turns, Turn("assistant", "Sunny."), ask("news")) == ["get_news"]


def test_required_goes_on_to_tools_that_were_not_called() -> None:
    turns: list[Turn] = [ask("the weather")]
    order = []
    for _ in TOOLS:
        (name,) = called(Toolbox(TOOLS, "required"), *turns)
        order.append(name)
        turns += [Turn("assistant", calls=(name,)), Turn("tool", "done")]
    assert order == ["get_weather", "get_news", "final_result"]
    assert called(Toolbox(TOOLS, "required"), *turns) == ["get_weather"]


def test_none_and_no_tools_answer_in_text() -> None:
    assert called(Toolbox(TOOLS, "none"), ask("the weather")) == []
    assert called(Toolbox((), "required"), ask("the weather")) == []
    assert called(Toolbox(TOOLS), Turn("system", "the weather")) == []


@pytest.mark.parametrize("parameters", [None, CITY])
def test_input_is_text_or_json(parameters: Any) -> None:
    prompt = Prompt((ask("Go to Rome"),))
    (call,) = calls(Toolbox([Tool("go", "", parameters)]), prompt, facts_of(prompt, 1))
    assert call.input == ("Go to Rome" if parameters is None else '{"city":"Rome"}')
