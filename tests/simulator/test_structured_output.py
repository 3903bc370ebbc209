"""Structured output with the official SDK: `parse`, streams, strict tools."""

import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from rustygate.simulator.text import tokens_of
from tests.support.simulator import CHAT_BODY, Simulator


class User(BaseModel):
    name: str
    age: int


class Users(BaseModel):
    users: list[User]
    note: str | None


JASON = "Jason is 25 years old."
MESSAGES: Any = [{"role": "user", "content": JASON}]
USER = User(name="Jason", age=25)


async def test_chat_completion_is_parsed(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        completion = await sdk.chat.completions.parse(
            model="gpt-4o", messages=MESSAGES, response_format=User, n=2
        )
    assert [choice.message.parsed for choice in completion.choices] == [USER, USER]
    assert completion.usage is not None
    texts = [choice.message.content or "" for choice in completion.choices]
    assert completion.usage.completion_tokens == sum(len(tokens_of(text)) for text in texts)


async def test_streamed_chat_completion_is_parsed(simulator: Simulator) -> None:
    async with (
        simulator.sdk() as sdk,
        sdk.chat.completions.stream(
            model="gpt-4o",
            messages=MESSAGES,
            response_format=Users,
            stream_options={"include_usage": True},
        ) as stream,
    ):
        events = [event async for event in stream if event.type == "content.delta"]
        final = await stream.get_final_completion()
    deltas = [event.delta for event in events if event.delta]
    assert isinstance(final.choices[0].message.parsed, Users)
    assert "".join(deltas) == final.choices[0].message.content
    assert final.usage is not None
    assert final.usage.completion_tokens == len(deltas) > 5


async def test_response_is_parsed(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        response = await sdk.responses.parse(model="gpt-5", input=JASON, text_format=User)
    assert response.output_parsed == USER
    assert response.text is not None
    assert response.text.format is not None
    assert response.text.format.type == "json_schema"


async def test_streamed_response_is_parsed(simulator: Simulator) -> None:
    async with (
        simulator.sdk() as sdk,
        sdk.responses.stream(model="gpt-5", input=JASON, text_format=User) as stream,
    ):
        deltas = [event async for event in stream if event.type == "response.output_text.delta"]
        final = await stream.get_final_response()
    assert final.output_parsed == USER
    assert final.usage is not None
    assert final.usage.output_tokens == len(deltas) > 1


async def test_truncated_output_raises_in_the_sdk(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        with pytest.raises(openai.LengthFinishReasonError):
            await sdk.chat.completions.parse(
                model="gpt-4o",
                messages=MESSAGES,
                response_format=User,
                max_tokens=3,
                extra_headers={"X-Simulate": "tokens=20"},
            )


@pytest.mark.parametrize("limit", [1, 3, 500])
async def test_limit_alone_does_not_truncate(simulator: Simulator, limit: int) -> None:
    async with simulator.sdk() as sdk:
        completion = await sdk.chat.completions.parse(
            model="gpt-4o", messages=MESSAGES, response_format=User, max_tokens=limit
        )
    assert completion.choices[0].message.parsed == USER
    assert completion.usage is not None
    assert completion.usage.completion_tokens <= limit


async def test_forced_tokens_are_the_usage(simulator: Simulator) -> None:
    schema = {"name": "user", "schema": User.model_json_schema()}
    body = {
        "model": "gpt-4o",
        "messages": MESSAGES,
        "response_format": {"type": "json_schema", "json_schema": schema},
    }
    response = await simulator.post("/chat/completions", body, simulate="tokens=33")
    completion = json.loads(response.body)
    assert completion["usage"]["completion_tokens"] == 33
    assert json.loads(completion["choices"][0]["message"]["content"]) == USER.model_dump()


@pytest.mark.parametrize(
    "response_format",
    [{"type": "json_schema"}, {"type": "json_schema", "json_schema": {"name": "a"}}],
    ids=str,
)
async def test_format_without_a_schema_returns_any_object(
    simulator: Simulator, response_format: object
) -> None:
    body = CHAT_BODY | {"response_format": response_format}
    response = await simulator.post("/chat/completions", body)
    assert json.loads(json.loads(response.body)["choices"][0]["message"]["content"])


async def test_schema_without_a_value_is_a_bad_request(simulator: Simulator) -> None:
    schema = {"type": "integer", "minimum": 1, "maximum": 0}
    chat = CHAT_BODY | {
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    }
    text = {"format": {"type": "json_schema", "name": "a", "schema": schema}}
    for path, body, param in (
        ("/chat/completions", chat, "response_format"),
        ("/responses", {"model": "m", "input": "x", "text": text}, "text.format.schema"),
    ):
        response = await simulator.post(path, body)
        error = response.error
        assert (response.status, error["param"]) == (400, param)
        assert error["code"] == "invalid_json_schema"
    stats = await simulator.stats()
    assert stats["tokens_in"] == 0
