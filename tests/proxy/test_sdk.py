"""The official SDK, blocking and asynchronous, through a gate to the simulator."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import openai
import pytest

from rustygate.simulator.text import tokens_of
from tests.conftest import StartGate
from tests.support import http
from tests.support.http import UPSTREAM_KEY
from tests.support.sdk import (
    ENDLESS,
    HELLO,
    MAX_THREADS,
    QUOTA_HEADERS,
    Operation,
    StartSdk,
    chat,
    chat_text,
    create_response,
    raw_chat,
    simulator_stats,
)
from tests.support.upstream import Upstream
from tests.support.waiting import soon


async def test_chat_completion(simulated: StartGate, sdk: StartSdk) -> None:
    completion = await sdk(await simulated()).call(chat(max_tokens=9, n=2))
    texts = [choice.message.content for choice in completion.choices]
    assert [len(tokens_of(text)) for text in texts] == [9, 9]
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (5, 18)


async def test_streamed_chat_has_the_same_text_and_usage(
    simulated: StartGate, sdk: StartSdk
) -> None:
    client = sdk(await simulated())
    plain = await client.call(chat())
    chunks = await client.events(chat(stream=True, stream_options={"include_usage": True}))
    assert chat_text(chunks) == plain.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert (chunks[-1].choices, chunks[-1].usage) == ([], plain.usage)


@pytest.mark.parametrize("kind", ["json_object", "json_schema"])
async def test_json_mode_streamed_and_not(simulated: StartGate, sdk: StartSdk, kind: str) -> None:
    schema = {"name": "answer", "schema": {"type": "object"}}
    as_json = {"type": kind} | ({"json_schema": schema} if kind == "json_schema" else {})
    client = sdk(await simulated())
    plain = await client.call(chat(response_format=as_json))
    chunks = await client.events(chat(response_format=as_json, stream=True))
    assert chat_text(chunks) == plain.choices[0].message.content
    assert json.loads(chat_text(chunks)).keys() == {"answer"}


@pytest.mark.parametrize("model", ["gpt-4", "o1-mini", "gpt-4o"])
async def test_any_model_responds_under_its_name(
    simulated: StartGate, sdk: StartSdk, model: str
) -> None:
    gate = await simulated()
    completion = await sdk(gate).call(chat(model=model))
    assert completion.model == model
    [line] = await gate.settled()
    assert (line["model"], line["outcome"]) == (model, "ok")
    assert (line["tokens_in"], line["tokens_out"]) == (5, completion.usage.completion_tokens)


async def test_compressed_response_is_decoded(simulated: StartGate, sdk: StartSdk) -> None:
    client = sdk(await simulated())
    plain = await client.call(chat())
    compressed = await client.call(raw_chat(extra_headers={"X-Simulate": "gzip"}))
    assert compressed.headers["content-encoding"] == "gzip"
    assert compressed.parse().choices == plain.choices


# Responses.


async def test_responses_api(simulated: StartGate, sdk: StartSdk) -> None:
    completion = await sdk(await simulated()).call(create_response(instructions="Be kind."))
    assert completion.status == "completed"
    assert completion.usage.output_tokens == len(tokens_of(completion.output_text))


async def test_streamed_response_has_its_events_in_order(
    simulated: StartGate, sdk: StartSdk
) -> None:
    client = sdk(await simulated())
    plain = await client.call(create_response(max_output_tokens=2))
    events = await client.events(create_response(max_output_tokens=2, stream=True))
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].response.output_text == plain.output_text
    assert events[-1].response.usage == plain.usage


async def test_streamed_response_names_its_events_on_the_wire(
    simulated: StartGate, async_client: Callable[..., openai.AsyncOpenAI]
) -> None:
    """The SDK reads the type from the data; other clients read the `event:` lines."""
    responses = async_client(await simulated()).responses.with_streaming_response
    async with (
        soon(),
        responses.create(model="gpt-5", input="Hi", max_output_tokens=2, stream=True) as raw,
    ):
        lines = [line async for line in raw.iter_lines() if line]
    names = [line.removeprefix("event: ") for line in lines[::2]]
    data = [json.loads(line.removeprefix("data: ")) for line in lines[1::2]]
    assert names == [event["type"] for event in data]
    assert (names[0], names[-1]) == ("response.created", "response.incomplete")


# Embeddings and models.


async def test_embeddings_are_the_same_in_both_encodings(
    simulated: StartGate, sdk: StartSdk
) -> None:
    """The SDK requests base64 by default."""

    def embeddings(**overrides: Any) -> Operation:
        arguments = {"model": "text-embedding-3-small", "input": ["a", "b"], "dimensions": 16}
        return lambda client: client.embeddings.create(**arguments, **overrides)

    client = sdk(await simulated())
    compressed = await client.call(embeddings())
    floats = await client.call(embeddings(encoding_format="float"))
    assert [one.embedding for one in compressed.data] == [one.embedding for one in floats.data]
    assert [len(one.embedding) for one in compressed.data] == [16, 16]
    assert compressed.usage.prompt_tokens == 2


async def test_models_are_listed_and_retrieved(simulated: StartGate, sdk: StartSdk) -> None:
    client = sdk(await simulated())
    listed = await client.call(lambda client: client.models.list())
    assert "gpt-4o" in [model.id for model in listed.data]
    name = "ft:gpt-4o:org/my model"
    assert (await client.call(lambda client: client.models.retrieve(name))).id == name


# Headers and queries.


async def test_response_has_headers_from_upstream_and_the_gate(
    simulated: StartGate, sdk: StartSdk
) -> None:
    raw = await sdk(await simulated()).call(raw_chat())
    assert set(raw.headers) >= QUOTA_HEADERS
    assert raw.headers["x-ratelimit-limit-requests"] == "100000"
    assert raw.headers["openai-version"] == "2020-10-01"
    assert raw.headers["X-RustyGate-Attempts"] == "1"
    assert raw.headers["X-RustyGate-Queued-Ms"] == "0"
    assert "X-RustyGate-Error" not in raw.headers
    assert raw.request_id.startswith("req_")
    assert raw.parse()._request_id == raw.request_id


async def test_extra_headers_query_and_body_are_forwarded(
    gate: StartGate, upstream: Upstream, sdk: StartSdk
) -> None:
    upstream.reply = http.response(b'{"choices": []}', "Content-Type: application/json")
    extra = chat(
        extra_headers={"OpenAI-Beta": "odd=v1", "Idempotency-Key": "key-1"},
        extra_query={"api-version": "2024-10-21", "list": ["a", "b"], "odd": "a b/ü"},
        extra_body={"vendor": {"odd": True}},
    )
    await sdk(await gate()).call(extra)
    [call] = upstream.calls
    path, _, query = call.target.partition("?")
    assert path == "/v1/chat/completions"
    assert query == "api-version=2024-10-21&list%5B%5D=a&list%5B%5D=b&odd=a+b%2F%C3%BC"
    assert (call.head["openai-beta"], call.head["idempotency-key"]) == ("odd=v1", "key-1")
    assert call.head["user-agent"].startswith(("OpenAI/Python", "AsyncOpenAI/Python"))
    assert call.head["authorization"] == f"Bearer {UPSTREAM_KEY}"
    sent = json.loads(bytes(call.wire.received).partition(b"\r\n\r\n")[2])
    assert sent == {"model": "gpt-4o", "messages": HELLO, "vendor": {"odd": True}}


async def test_upstream_sees_only_the_gates_key(
    simulated: StartGate, simulator: str, sdk: StartSdk
) -> None:
    await sdk(await simulated()).call(chat())
    assert list((await simulator_stats(simulator))["keys"]) == [f"...{UPSTREAM_KEY[-4:]}"]


# Concurrent calls, and a stream closed early.


async def test_concurrent_calls_get_their_own_responses(
    simulated: StartGate, sdk: StartSdk
) -> None:
    def arguments(number: int) -> dict[str, Any]:
        return {"model": f"model-{number}", "max_tokens": 5}

    client = sdk(await simulated())
    completions = [await client.call(chat(**arguments(number))) for number in range(MAX_THREADS)]
    texts = [completion.choices[0].message.content for completion in completions]
    plain = [client.call(chat(**arguments(number))) for number in range(0, MAX_THREADS, 2)]
    streamed = [client.events(chat(**arguments(n), stream=True)) for n in range(1, MAX_THREADS, 2)]
    responses, streams = await asyncio.gather(asyncio.gather(*plain), asyncio.gather(*streamed))
    assert [completion.choices[0].message.content for completion in responses] == texts[::2]
    assert [chat_text(chunks) for chunks in streams] == texts[1::2]


async def test_stream_closed_early_is_closed_upstream(
    simulated: StartGate, simulator: str, sdk: StartSdk
) -> None:
    gate = await simulated()
    client = sdk(gate)
    first = await client.first_event(chat(stream=True, extra_headers=ENDLESS))
    assert first.choices[0].delta.role == "assistant"
    await gate.wait_until(in_flight=0)
    assert (await gate.settled())[0]["outcome"] == "client_left"
    async with soon():
        while (await simulator_stats(simulator))["streams_open"]:
            pass
    assert (await simulator_stats(simulator))["left"] == 1
    assert (await client.call(chat())).choices
