"""Tool calls with the official SDK: chat completions, legacy functions, the Responses API."""

import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.support.simulator import CHAT_BODY, Simulator


class Weather(BaseModel):
    """The weather of a city."""

    city: str


PARAMETERS = Weather.model_json_schema()
FUNCTION: Any = {"name": "get_weather", "parameters": PARAMETERS}
TOOL: Any = {"type": "function", "function": FUNCTION}
RESPONSE_TOOL: Any = {"type": "function", "strict": True, **FUNCTION}
OTHER: Any = {"type": "function", "function": {"name": "look_up"}}
QUESTION = "How is the weather in Paris?"
MESSAGES: Any = [{"role": "user", "content": QUESTION}]


async def test_chat_calls_a_tool_and_then_answers(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        first = await sdk.chat.completions.create(
            model="gpt-4o", messages=MESSAGES, tools=[OTHER, TOOL]
        )
        message: Any = first.choices[0].message
        assert (first.choices[0].finish_reason, message.content) == ("tool_calls", None)
        (call,) = message.tool_calls
        assert (call.function.name, json.loads(call.function.arguments)) == (
            "get_weather",
            {"city": "Paris"},
        )
        result: Any = {"role": "tool", "tool_call_id": call.id, "content": "22 degrees"}
        second = await sdk.chat.completions.create(
            model="gpt-4o", messages=[*MESSAGES, message, result], tools=[OTHER, TOOL]
        )
    assert first.usage is not None
    # The name, the arguments, and what OpenAI counts for each call besides.
    assert first.usage.completion_tokens == 2 + 5 + 7
    assert second.choices[0].finish_reason == "stop"
    assert (second.choices[0].message.content or "").startswith("22 degrees How is")


async def test_streamed_chat_calls_the_same_tools(simulator: Simulator) -> None:
    messages: Any = [{"role": "user", "content": "The weather in Paris, Rome and Oslo"}]
    async with (
        simulator.sdk() as sdk,
        sdk.chat.completions.stream(
            model="gpt-4o", messages=messages, tools=[openai.pydantic_function_tool(Weather)]
        ) as stream,
    ):
        deltas = [
            event
            async for event in stream
            if event.type == "tool_calls.function.arguments.delta" and event.arguments_delta
        ]
        final = await stream.get_final_completion()
    calls = final.choices[0].message.tool_calls or []
    assert [call.function.parsed_arguments for call in calls] == [
        Weather(city=city) for city in ("Paris", "Rome", "Oslo")
    ]
    assert len({call.id for call in calls}) == 3
    assert final.choices[0].finish_reason == "tool_calls"
    assert [event.arguments_delta for event in deltas[:5]] == ['{"', "city", '":"', "Paris", '"}']
    assert len(deltas) == 3 * 5


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("none", None),
        ("auto", ["get_weather"]),
        ("required", ["get_weather"]),
        ({"type": "function", "function": {"name": "look_up"}}, ["look_up"]),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [OTHER]}},
            ["look_up"],
        ),
    ],
    ids=str,
)
async def test_tool_choice_is_followed(
    simulator: Simulator, choice: Any, names: list[str] | None
) -> None:
    async with simulator.sdk() as sdk:
        completion = await sdk.chat.completions.create(
            model="gpt-4o", messages=MESSAGES, tools=[OTHER, TOOL], tool_choice=choice
        )
        look_up: Any = {"type": "function", "name": "look_up"}
        tools = [look_up, RESPONSE_TOOL]
        if "function" in choice:
            choice = look_up
        elif "allowed_tools" in choice:
            choice = {"type": "allowed_tools", "mode": "required", "tools": [look_up]}
        response = await sdk.responses.create(
            model="gpt-5", input=QUESTION, tools=tools, tool_choice=choice
        )
    calls = completion.choices[0].message.tool_calls or ()
    assert [call.function.name for call in calls if call.type == "function"] == (names or [])
    found = [item.name for item in response.output if item.type == "function_call"]
    assert found == (names or [])


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("sometimes", "Supported values are: 'none', 'auto', and 'required'."),
        ({"type": "function", "function": {"name": "nothing"}}, "Tool choice 'nothing' not found"),
    ],
    ids=str,
)
async def test_unknown_tool_choice_is_a_bad_request(
    simulator: Simulator, choice: Any, message: str
) -> None:
    body = CHAT_BODY | {"tools": [TOOL], "tool_choice": choice}
    response = await simulator.post("/chat/completions", body)
    assert (response.status, response.error["param"]) == (400, "tool_choice")
    assert message in response.error["message"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("choice", ["auto", {"name": "get_weather"}], ids=str)
async def test_legacy_function_is_called(simulator: Simulator, choice: Any) -> None:
    async with simulator.sdk() as sdk:
        plain = await sdk.chat.completions.create(
            model="gpt-4o", messages=MESSAGES, functions=[FUNCTION], function_call=choice
        )
        stream = await sdk.chat.completions.create(
            model="gpt-4o",
            messages=MESSAGES,
            functions=[FUNCTION],
            function_call=choice,
            stream=True,
        )
        chunks = [chunk.choices[0] async for chunk in stream]
        called = plain.choices[0].message.function_call
        assert called is not None
        result: Any = {"role": "function", "name": "get_weather", "content": "22 degrees"}
        last = await sdk.chat.completions.create(
            model="gpt-4o", messages=[*MESSAGES, result], functions=[FUNCTION]
        )
    assert (called.name, called.arguments) == ("get_weather", '{"city":"Paris"}')
    assert plain.choices[0].finish_reason == chunks[-1].finish_reason == "function_call"
    deltas = [chunk.delta.function_call for chunk in chunks if chunk.delta.function_call]
    assert deltas[0].name == "get_weather"
    assert "".join(delta.arguments or "" for delta in deltas) == called.arguments
    assert last.choices[0].finish_reason == "stop"


async def test_response_calls_a_function_and_then_answers(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        first = await sdk.responses.parse(
            model="gpt-5", input=QUESTION, tools=[openai.pydantic_function_tool(Weather)]
        )
        (call,) = first.output
        assert call.type == "function_call"
        assert call.parsed_arguments == Weather(city="Paris")
        assert call.id != call.call_id
        second = await sdk.responses.create(
            model="gpt-5",
            previous_response_id=first.id,
            input=[
                {"type": "function_call_output", "call_id": call.call_id, "output": "22 degrees"}
            ],
            tools=[RESPONSE_TOOL],
        )
    assert first.status == "completed"
    assert second.output_text.startswith("22 degrees How is the weather in Paris?")


async def test_streamed_response_has_openais_function_call_events(simulator: Simulator) -> None:
    async with (
        simulator.sdk() as sdk,
        sdk.responses.stream(model="gpt-5", input=QUESTION, tools=[RESPONSE_TOOL]) as stream,
    ):
        events = [event async for event in stream]
        final = await stream.get_final_response()
    names = [event.type for event in events]
    assert list(dict.fromkeys(names)) == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    (call,) = final.output
    assert call.type == "function_call"
    assert call.arguments == '{"city":"Paris"}'
    assert names.count("response.function_call_arguments.delta") == 5
    assert final.usage is not None
    assert final.usage.output_tokens == 2 + 5 + 7


async def test_custom_tool_gets_text(simulator: Simulator) -> None:
    tool: Any = {"type": "custom", "name": "run"}
    async with simulator.sdk() as sdk:
        completion = await sdk.chat.completions.create(
            model="gpt-5", messages=MESSAGES, tools=[{"type": "custom", "custom": {"name": "run"}}]
        )
        stream = await sdk.responses.create(
            model="gpt-5", input=QUESTION, tools=[tool], stream=True
        )
        events = [event async for event in stream]
    assert completion.choices[0].message.tool_calls is not None
    (call,) = completion.choices[0].message.tool_calls
    assert call.type == "custom"
    assert (call.custom.name, call.custom.input) == ("run", QUESTION)
    deltas = [
        event.delta for event in events if event.type == "response.custom_tool_call_input.delta"
    ]
    assert "".join(deltas) == QUESTION
    last = events[-1]
    assert last.type == "response.completed"
    (item,) = last.response.output
    assert item.type == "custom_tool_call"
    assert item.input == QUESTION


@pytest.mark.parametrize("parameters", [None, {}, {"type": "object"}], ids=str)
async def test_function_without_parameters_gets_no_arguments(
    simulator: Simulator, parameters: object
) -> None:
    function = {"name": "now", "parameters": parameters}
    body = CHAT_BODY | {"tools": [{"type": "function", "function": function}]}
    chat = json.loads((await simulator.post("/chat/completions", body)).body)
    body = {"model": "m", "input": "x", "tools": [{"type": "function", **function}]}
    response = json.loads((await simulator.post("/responses", body)).body)
    assert chat["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == "{}"
    assert response["output"][0]["arguments"] == "{}"


async def test_tools_that_openai_runs_itself_are_not_called(simulator: Simulator) -> None:
    tool: Any = {"type": "web_search"}
    async with simulator.sdk() as sdk:
        response = await sdk.responses.create(
            model="gpt-5", input=QUESTION, tools=[tool], tool_choice=tool
        )
    assert response.output_text.startswith(QUESTION)


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("tools", [5], "tools[0]"),
        ("tools", [{"type": 5}], "tools[0].type"),
        ("tools", [{"type": "function", "name": "a", "parameters": []}], "tools[0].parameters"),
        ("input", [{"content": 5}], "input[0].content"),
        ("input", [5], "input[0]"),
    ],
)
async def test_bad_item_is_named(
    simulator: Simulator, field: str, value: object, param: str
) -> None:
    response = await simulator.post("/responses", {"model": "m", "input": "x", field: value})
    assert (response.status, response.error["param"]) == (400, param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools[0]"),
        ({"tools": [TOOL, {"type": "custom", "function": {"name": "f"}}]}, "tools[1]"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "auto", "tools": []}, "tool_choice"),
    ],
    ids=str,
)
async def test_chat_with_half_a_tool_is_a_bad_request(
    simulator: Simulator, fields: dict[str, Any], param: str
) -> None:
    response = await simulator.post("/chat/completions", CHAT_BODY | fields)
    assert (response.status, response.error["param"]) == (400, param)
