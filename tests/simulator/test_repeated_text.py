"""Text that repeats words of the prompt: what suites that were written against OpenAI look for."""

import json

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from rustygate.simulator.text import tokens_of
from tests.support.simulator import Simulator
from tests.support.simulator_websocket import connect, receive_until


async def chat_texts(sdk: openai.AsyncOpenAI, *contents: str, max_tokens: int = 1000) -> list[str]:
    """The text of a chat, plain and streamed."""
    messages: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": contents[0]},
        {"role": "user", "content": contents[-1]},
    ]
    plain = await sdk.chat.completions.create(
        model="gpt-4o", messages=messages, temperature=0.7, max_tokens=max_tokens
    )
    stream = await sdk.chat.completions.create(
        model="gpt-4o", messages=messages, temperature=0.7, max_tokens=max_tokens, stream=True
    )
    deltas = [chunk.choices[0].delta.content or "" async for chunk in stream]
    return [plain.choices[0].message.content or "", "".join(deltas)]


@pytest.mark.parametrize(
    ("system", "user", "words"),
    [
        (
            "You explain complex things in simple terms.",
            "Explain quantum computing in simple terms, step by step",
            "quantum",
        ),
        (
            "You are a logic tutor.",
            "If all cats are animals, and Whiskers is a cat, what can we conclude about Whiskers?",
            "Whiskers",
        ),
        ("You translate.", "Translate to English: 'Hej världen, hur mår du idag?'", "världen"),
        ("Be brief.", "Reply with the single word: pineapple", "pineapple"),
    ],
)
async def test_sdk_finds_words_of_the_prompt(
    simulator: Simulator, system: str, user: str, words: str
) -> None:
    async with simulator.sdk() as sdk:
        for limit in (100, 1000):
            plain, streamed = await chat_texts(sdk, system, user, max_tokens=limit)
            assert plain == streamed
            assert words in plain
            assert len(tokens_of(plain)) == limit


async def test_sdk_finds_json_if_the_prompt_asks_for_it(simulator: Simulator) -> None:
    request = "Write a JSON configuration for a web server with nested settings."
    async with simulator.sdk() as sdk:
        for text in await chat_texts(sdk, "You are a senior engineer.", request):
            assert "configuration" in json.loads(text)["answer"]


async def test_sdk_finds_what_an_earlier_message_said(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        response = await sdk.responses.create(
            model="gpt-5",
            input=[
                {"role": "user", "content": "My name is Bob."},
                {"role": "assistant", "content": "Hello!"},
                {"role": "user", "content": "What is my name?"},
            ],
        )
    assert response.output_text.startswith("What is my name? My name is Bob.")


async def test_sdk_finds_the_beginning_in_a_completion(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        completion = await sdk.completions.create(model="m", prompt="Once upon a time")
    assert completion.choices[0].text.startswith("Once upon a time ")


async def test_realtime_text_repeats_the_conversation(simulator: Simulator) -> None:
    item = {"type": "message", "role": "user"}
    item |= {"content": [{"type": "input_text", "text": "Say open sesame"}]}  # type: ignore[dict-item]
    async with connect(simulator) as websocket:
        await websocket.send_json({"type": "conversation.item.create", "item": item})
        await websocket.send_json({"type": "response.create"})
        done = (await receive_until(websocket, "response.done"))[-1]
    text = done["response"]["output"][0]["content"][0]["text"]
    assert text.startswith("open sesame ")
