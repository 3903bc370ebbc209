"""How answers end: by themselves, at a stop sequence, or at the token limit."""

import json
from typing import Any

import pytest

from tests.support.simulator import MESSAGES, Simulator

SAY = [{"role": "user", "content": 'Say "one two three four"'}]


async def chat(simulator: Simulator, **fields: Any) -> tuple[str, str, int]:
    """The text, the reason why it ended, and its tokens, plain and streamed alike."""
    body = {"model": "gpt-4o", "messages": SAY, **fields}
    plain = json.loads((await simulator.post("/chat/completions", body)).body)
    stream = {"stream": True, "stream_options": {"include_usage": True}}
    streamed = await simulator.post("/chat/completions", body | stream)
    lines = [line[6:] for line in streamed.body.split(b"\n") if line.startswith(b"data: {")]
    chunks = [json.loads(line) for line in lines]
    deltas = [choice for chunk in chunks for choice in chunk["choices"]]
    choice = plain["choices"][0]
    text = choice["message"]["content"]
    assert "".join(each["delta"].get("content") or "" for each in deltas) == text
    assert deltas[-1]["finish_reason"] == choice["finish_reason"]
    assert chunks[-1]["usage"] == plain["usage"]
    return text, choice["finish_reason"], plain["usage"]["completion_tokens"]


@pytest.mark.parametrize(
    ("limit", "reason"), [(1, "length"), (47, "length"), (48, "stop"), (200, "stop")]
)
@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_limit_below_the_length_of_the_text_cuts_it(
    simulator: Simulator, field: str, limit: int, reason: str
) -> None:
    _, finished, tokens = await chat(simulator, **{field: limit})
    assert (finished, tokens) == (reason, limit)


@pytest.mark.parametrize(
    ("stop", "text", "tokens"),
    [(" three", "one two", 2), (["four", "o t"], "one tw", 2), ("one", "", 0)],
)
async def test_stop_sequence_ends_the_text(
    simulator: Simulator, stop: str | list[str], text: str, tokens: int
) -> None:
    assert await chat(simulator, stop=stop) == (text, "stop", tokens)
    assert await chat(simulator, stop=stop, max_tokens=5) == (text, "stop", tokens)


async def test_limit_before_the_stop_sequence_cuts_the_text(simulator: Simulator) -> None:
    assert await chat(simulator, stop=" three", max_tokens=1) == ("one", "length", 1)
    assert (await chat(simulator, stop=["nowhere", ""]))[1:] == ("stop", 48)


async def test_five_stop_sequences_are_too_many(simulator: Simulator) -> None:
    body = {"model": "gpt-4o", "messages": MESSAGES, "stop": list("abcde")}
    response = await simulator.post("/chat/completions", body)
    assert (response.status, response.error["param"]) == (400, "stop")


async def test_completions_end_like_chats(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        cut = await sdk.completions.create(model="m", prompt="one two three", max_tokens=2)
        stopped = await sdk.completions.create(model="m", prompt="one two three", stop=" three")
        whole = await sdk.completions.create(model="m", prompt="one two three", max_tokens=60)
    texts = [each.choices[0].text for each in (cut, stopped)]
    assert texts == ["one two", "one two"]
    reasons = [each.choices[0].finish_reason for each in (cut, stopped, whole)]
    assert reasons == ["length", "stop", "stop"]
    assert [each.usage and each.usage.completion_tokens for each in (cut, stopped)] == [2, 2]


@pytest.mark.parametrize(("limit", "status"), [(47, "incomplete"), (48, "completed")])
async def test_limit_makes_a_response_incomplete(
    simulator: Simulator, limit: int, status: str
) -> None:
    async with simulator.sdk() as sdk:
        response = await sdk.responses.create(model="m", input="Hi", max_output_tokens=limit)
        stream = await sdk.responses.create(
            model="m", input="Hi", max_output_tokens=limit, stream=True
        )
        last = [event async for event in stream][-1]
    reason = response.incomplete_details and response.incomplete_details.reason
    assert reason == (None if status == "completed" else "max_output_tokens")
    assert (response.status, last.type) == (status, f"response.{status}")
    assert response.output[0].status == status  # type: ignore[union-attr]
    assert response.usage is not None
    assert response.usage.output_tokens == limit
