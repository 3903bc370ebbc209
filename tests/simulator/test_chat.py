"""Chat completions: with the official SDK, and as raw bytes."""

import asyncio
import json

import openai
import pytest

from rustygate.simulator.text import tokens_of
from tests.support.simulator import CHAT_BODY, KEY, MESSAGES, Simulator, chat_text


async def test_sdk_chat_is_deterministic_and_reports_usage(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        first, second = [
            await sdk.chat.completions.create(model="gpt-4o", messages=MESSAGES, max_tokens=9, n=2)
            for _ in range(2)
        ]
    texts = [choice.message.content or "" for choice in first.choices]
    assert texts == [choice.message.content for choice in second.choices]
    assert texts[0] != texts[1]
    assert [len(tokens_of(text)) for text in texts] == [9, 9]
    assert first.usage is not None
    assert (first.usage.prompt_tokens, first.usage.completion_tokens) == (5, 18)


async def test_sdk_stream_has_the_same_text_as_the_plain_response(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        plain = await sdk.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        chunks = [
            chunk
            async for chunk in await sdk.chat.completions.create(
                model="gpt-4o",
                messages=MESSAGES,
                stream=True,
                stream_options={"include_usage": True},
            )
        ]
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == plain.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == plain.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_only_text_parts_count_as_tokens(simulator: Simulator) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    parts = [{"type": "text", "text": "twelve chars"}, image]
    response = await simulator.post(
        "/chat/completions", CHAT_BODY | {"messages": [{"role": "user", "content": parts}]}
    )
    assert json.loads(response.body)["usage"]["prompt_tokens"] == 3


async def test_sync_sdk_streams_chat(simulator: Simulator) -> None:
    def chat() -> int:
        with (
            openai.OpenAI(api_key=KEY, base_url=simulator.url, max_retries=0) as sdk,
            sdk.chat.completions.create(
                model="gpt-4o", messages=MESSAGES, max_tokens=3, stream=True
            ) as stream,
        ):
            return sum(1 for _ in stream)

    assert await asyncio.to_thread(chat) == 5


@pytest.mark.parametrize("tokens", [1, 2, 3, 40])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_json_mode_returns_an_object_at_any_length(
    simulator: Simulator, tokens: int, stream: bool
) -> None:
    body = CHAT_BODY | {
        "max_tokens": tokens,
        "stream": stream,
        "response_format": {"type": "json_object"},
    }
    response = await simulator.post("/chat/completions", body)
    text = streamed_chat_text(response.body) if stream else chat_text(response.body)
    assert isinstance(json.loads(text), dict)


def streamed_chat_text(body: bytes) -> str:
    lines = [line for line in body.decode().split("\n\n") if line not in ("", "data: [DONE]")]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


async def test_chat_stream_has_openais_wire_format(simulator: Simulator) -> None:
    response = await simulator.post("/chat/completions", CHAT_BODY | {"stream": True})
    events = response.body.split(b"\n\n")
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.complete
    assert all(event.startswith(b"data: {") for event in events[:-2])
    assert events[-2:] == [b"data: [DONE]", b""]
    assert b"\r" not in response.body
    assert len(events) == 1 + 4 + 1 + 1 + 1
