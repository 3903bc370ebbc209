"""The errors of the gate itself, as the official SDK raises them."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import openai
import pytest

from tests.conftest import StartGate
from tests.proxy.refusals import (
    CASES,
    Case,
    drain,
    every_case,
    fail,
    reset_upstream,
    with_slot_taken,
)
from tests.support.gate import Gate, Log
from tests.support.http import (
    EVENT_STREAM,
    chunk,
    get,
    response,
    response_head,
)
from tests.support.upstream import Upstream
from tests.support.waiting import soon

JSON = "Content-Type: application/json"


Sdk = Callable[..., asyncio.Task[Any]]


@pytest.fixture
def sdk(
    request: pytest.FixtureRequest,
    async_client: Callable[..., openai.AsyncOpenAI],
    openai_client: Callable[..., openai.OpenAI],
) -> Sdk:
    """Starts a chat completion in the background, with the asynchronous or the blocking client.

    The client has no timeout of its own, which could be longer than UPSTREAM_READ_TIMEOUT.
    """
    blocking = getattr(request, "param", "async") == "blocking"

    async def complete(running: Gate, **options: Any) -> object:
        options = {"timeout": None} | options
        async with soon():
            if blocking:
                return await asyncio.to_thread(create_chat, openai_client(running, **options))
            return await create_chat(async_client(running, **options))

    return lambda running, **options: asyncio.create_task(complete(running, **options))


def create_chat(client: Any) -> Any:
    """A chat completion of a blocking client; an awaitable of an asynchronous one."""
    messages = [{"role": "user", "content": "Hello!"}]
    return client.chat.completions.create(model="gpt-4o", messages=messages)


COMPLETION = response(b'{"id": "c", "choices": []}', JSON)


@every_case
@pytest.mark.parametrize("sdk", ["async", "blocking"], indirect=True)
async def test_sdk_raises_the_refusal(
    gate: StartGate, upstream: Upstream, sdk: Sdk, case: Case
) -> None:
    running = await case.prepare(gate, upstream)
    pending = sdk(running)
    await case.act(running, upstream)
    with pytest.raises(case.raises) as caught:
        await pending
    error = caught.value
    assert type(error) is case.raises
    assert (error.status_code, error.type, error.code) == (case.status, case.kind, case.code)
    assert re.search(case.message, str(error))


@pytest.mark.parametrize(
    ("path", "raised", "reason"),
    [
        ("/v2", openai.NotFoundError, "not_found"),
        ("", openai.NotFoundError, "not_found"),
        ("/v1/%2e%2e", openai.BadRequestError, "bad_request"),
    ],
    ids=["other version", "no version", "dot segments"],
)
async def test_sdk_raises_an_error_for_a_wrong_base_url(
    gate: StartGate, sdk: Sdk, path: str, raised: type[openai.APIStatusError], reason: str
) -> None:
    running = await gate()
    with pytest.raises(raised) as caught:
        await sdk(running, base_url=f"{running.url}{path}", max_retries=2)
    assert caught.value.code == reason
    assert len(await running.settled()) == 1


async def test_large_upload_gets_a_413_and_not_a_reset(
    gate: StartGate, async_client: Callable[..., openai.AsyncOpenAI]
) -> None:
    """The SDK sends the whole body before it reads the response."""
    running = await gate(MAX_BODY_SIZE=1000)
    files = async_client(running, max_retries=2).files
    with pytest.raises(openai.APIStatusError) as caught:
        async with soon():
            await files.create(file=bytes(8 << 20), purpose="assistants")
    assert (caught.value.status_code, caught.value.code) == (413, "body_too_large")
    assert len(await running.settled()) == 1


async def test_sdk_raises_an_internal_error(
    gate: StartGate, sdk: Sdk, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rustygate.proxy.read_request_facts", fail)
    with pytest.raises(openai.InternalServerError) as caught:
        await sdk(await gate())
    assert (caught.value.status_code, caught.value.code) == (500, "internal_error")
    assert len(log.errors) == 1
    log.errors.clear()


# Which refusals the SDK retries.


async def test_sdk_retries_after_the_announced_wait(
    gate: StartGate, upstream: Upstream, async_client: Callable[..., openai.AsyncOpenAI]
) -> None:
    upstream.reply = COMPLETION
    # The second call comes before the next request is due, on a busy machine, too.
    running = await gate(RATE_LIMIT=0.4, RATE_LIMIT_BURST=1, RATE_LIMIT_TIMEOUT=0.05)
    client = async_client(running, max_retries=1)
    for _ in range(2):
        await create_chat(client)
    lines = await running.settled(3)
    assert [line["outcome"] for line in lines] == ["ok", "refused", "ok"]


async def test_sdk_retries_when_the_queue_is_full(
    gate: StartGate, upstream: Upstream, sdk: Sdk
) -> None:
    running = await gate(CONCURRENCY_LIMIT=1, QUEUE_LIMIT=0)
    holder = await running.send(get())
    held = await upstream.call()
    pending = sdk(running, max_retries=1)
    [line] = await running.settled()
    assert line["reason"] == "queue_full"
    upstream.reply = COMPLETION
    await held.respond(response())
    await holder.response()
    await pending


async def test_sdk_retries_while_the_gate_restarts(
    gate: StartGate, upstream: Upstream, sdk: Sdk
) -> None:
    running = await with_slot_taken(DRAIN_TIMEOUT=0)(gate, upstream)
    pending = sdk(running, max_retries=1)
    await drain(running, upstream)
    upstream.reply = COMPLETION
    await gate(PORT=running.url.rpartition(":")[2])
    await pending


async def test_sdk_retries_after_an_upstream_disconnect(
    gate: StartGate, upstream: Upstream, sdk: Sdk
) -> None:
    running = await gate(UPSTREAM_RETRIES=0)
    pending = sdk(running, max_retries=1)
    await reset_upstream(running, upstream)
    call = await upstream.call()
    await call.respond(COMPLETION)
    await pending
    assert [line["status"] for line in await running.settled(2)] == [502, 200]


@pytest.mark.parametrize("reason", ["upstream_timeout", "body_too_large"])
async def test_sdk_does_not_retry(
    gate: StartGate, upstream: Upstream, sdk: Sdk, reason: str
) -> None:
    running = await CASES[reason].prepare(gate, upstream)
    with pytest.raises(CASES[reason].raises):
        await sdk(running, max_retries=2)
    assert len(await running.settled()) == 1
    assert len(upstream.calls) == (reason == "upstream_timeout")


# Cut responses.

CHAT_EVENT = (
    b'data: {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o", '
    b'"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": null}]}\n\n'
)
RESPONSE_EVENT = (
    b"event: response.output_text.delta\n"
    b'data: {"type": "response.output_text.delta", "delta": "Hi", "item_id": "m", '
    b'"output_index": 0, "content_index": 0, "sequence_number": 1, "logprobs": []}\n\n'
)


def stream_chat(client: openai.AsyncOpenAI) -> Awaitable[openai.AsyncStream[Any]]:
    return client.chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": "Hello!"}], stream=True
    )


def stream_response(client: openai.AsyncOpenAI) -> Awaitable[openai.AsyncStream[Any]]:
    return client.responses.create(model="gpt-4o", input="Hello!", stream=True)


Start = Callable[[openai.AsyncOpenAI], Awaitable[openai.AsyncStream[Any]]]
both_apis = pytest.mark.parametrize(
    ("start", "event"),
    [(stream_chat, CHAT_EVENT), (stream_response, RESPONSE_EVENT)],
    ids=["chat", "responses"],
)


@both_apis
@pytest.mark.parametrize("reason", ["upstream_disconnected", "upstream_timeout"])
async def test_sdk_raises_the_reason_of_a_cut_between_events(
    gate: StartGate,
    upstream: Upstream,
    async_client: Callable[..., openai.AsyncOpenAI],
    start: Start,
    event: bytes,
    reason: str,
) -> None:
    # On a busy machine, too, the stream begins within this time.
    running = await gate(UPSTREAM_READ_TIMEOUT=1 if reason == "upstream_timeout" else 600)
    pending = asyncio.ensure_future(start(async_client(running, max_retries=2, timeout=None)))
    call = await upstream.call()
    call.send(EVENT_STREAM, chunk(event))
    async with soon():
        stream = await pending
        assert "Hi" in str(await anext(stream))
        if reason == "upstream_disconnected":
            call.reset()
        with pytest.raises(openai.APIError) as caught:
            await anext(stream)
    assert (caught.value.code, caught.value.type) == (reason, "upstream_error")
    assert caught.value.message
    assert len(upstream.calls) == 1


@both_apis
async def test_sdk_raises_on_a_cut_inside_an_event(
    gate: StartGate,
    upstream: Upstream,
    async_client: Callable[..., openai.AsyncOpenAI],
    start: Start,
    event: bytes,
) -> None:
    running = await gate()
    pending = asyncio.ensure_future(start(async_client(running, max_retries=2)))
    call = await upstream.call()
    call.send(EVENT_STREAM, chunk(event), chunk(event[:-20]))
    async with soon():
        stream = await pending
        await anext(stream)
        call.reset()
        with pytest.raises(openai.APIConnectionError):
            await anext(stream)
    assert len(upstream.calls) == 1


async def test_sdk_raises_on_a_cut_response(gate: StartGate, upstream: Upstream, sdk: Sdk) -> None:
    running = await gate()
    pending = sdk(running)
    call = await upstream.call()
    call.send(response_head(JSON, "Content-Length: 100"), b'{"id": "c", "choices": []}')
    call.close()
    with pytest.raises(openai.APIConnectionError):
        await pending
