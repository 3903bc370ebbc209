"""Log probabilities."""

import json
import math
from typing import Any

import pytest
from openai.types.responses import Response, ResponseOutputText

from tests.support.simulator import CHAT_BODY, MESSAGES, Simulator


def check(entries: list[Any], text: str, top: int) -> None:
    """Check what all APIs have in common: tokens, and probabilities in order."""
    assert "".join(entry.token for entry in entries) == text
    for entry in entries:
        alternatives = [(one.token, one.logprob) for one in entry.top_logprobs]
        assert len(alternatives) == top
        assert -1 < entry.logprob < 0
        if top:
            assert alternatives[0] == (entry.token, entry.logprob)
            values = [value for _, value in alternatives]
            assert values == sorted(values, reverse=True)
            assert sum(map(math.exp, values)) <= 1.0001
            assert len({token for token, _ in alternatives}) == top


def first_part(response: Response) -> ResponseOutputText:
    item = response.output[0]
    assert item.type == "message"
    part = item.content[0]
    assert part.type == "output_text"
    return part


@pytest.mark.parametrize("top", [0, 1, 20])
async def test_chat_has_log_probabilities_plain_and_streamed(
    simulator: Simulator, top: int
) -> None:
    async with simulator.sdk() as sdk:
        plain = await sdk.chat.completions.create(
            model="gpt-4o", messages=MESSAGES, logprobs=True, top_logprobs=top
        )
        stream = await sdk.chat.completions.create(
            model="gpt-4o", messages=MESSAGES, logprobs=True, top_logprobs=top, stream=True
        )
        streamed = [
            entry
            async for chunk in stream
            for entry in (chunk.choices[0].logprobs and chunk.choices[0].logprobs.content) or ()
        ]
    choice = plain.choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    check(choice.logprobs.content, choice.message.content or "", top)
    assert all(bytes(entry.bytes or ()).decode() == entry.token for entry in streamed)
    assert streamed == choice.logprobs.content


@pytest.mark.parametrize("top", [0, 3])
async def test_completion_has_log_probabilities_plain_and_streamed(
    simulator: Simulator, top: int
) -> None:
    async with simulator.sdk() as sdk:
        plain = await sdk.completions.create(
            model="m", prompt="Once upon", logprobs=top, echo=True
        )
        stream = await sdk.completions.create(
            model="m", prompt="Once upon", logprobs=top, echo=True, stream=True
        )
        streamed = [chunk.choices[0].logprobs async for chunk in stream]
    choice = plain.choices[0]
    logprobs = choice.logprobs
    assert logprobs is not None
    assert "".join(logprobs.tokens or ()) == choice.text
    assert logprobs.tokens is not None
    assert logprobs.text_offset is not None
    for token, offset in zip(logprobs.tokens, logprobs.text_offset, strict=True):
        assert choice.text[offset : offset + len(token)] == token
    assert {len(one) for one in logprobs.top_logprobs or ()} == {max(top, 1)}
    for field in ("tokens", "token_logprobs", "text_offset", "top_logprobs"):
        joined = [value for one in streamed if one for value in getattr(one, field)]
        assert joined == getattr(logprobs, field)


async def test_response_has_log_probabilities_plain_and_streamed(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        plain = await sdk.responses.create(
            model="gpt-5",
            input="Hi",
            include=["message.output_text.logprobs"],
            top_logprobs=2,
        )
        stream = await sdk.responses.create(
            model="gpt-5",
            input="Hi",
            include=["message.output_text.logprobs"],
            top_logprobs=2,
            stream=True,
        )
        deltas = [event async for event in stream if event.type == "response.output_text.delta"]
    part = first_part(plain)
    check(part.logprobs or [], plain.output_text, 2)
    entries = [entry for event in deltas for entry in event.logprobs]
    assert [(one.token, one.logprob) for one in entries] == [
        (one.token, one.logprob) for one in part.logprobs or ()
    ]


async def test_log_probabilities_are_left_out_unless_requested(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        chat = await sdk.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        completion = await sdk.completions.create(model="m", prompt="x")
        response = await sdk.responses.create(model="gpt-5", input="Hi")
    assert chat.choices[0].logprobs is None
    assert completion.choices[0].logprobs is None
    assert first_part(response).logprobs == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"top_logprobs": 2}, "logprobs"),
        ({"logprobs": False, "top_logprobs": 2}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": 1}, "logprobs"),
    ],
    ids=str,
)
async def test_bad_request_for_log_probabilities_returns_400(
    simulator: Simulator, fields: dict[str, Any], param: str
) -> None:
    response = await simulator.post("/chat/completions", CHAT_BODY | fields)
    assert (response.status, response.error["param"]) == (400, param), json.dumps(response.error)
