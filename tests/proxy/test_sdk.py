"""The official SDK, blocking and asynchronous, through a gate to the simulator.

What a client asks is a function of the SDK's client: the blocking one answers it, the
asynchronous one promises to.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import monotonic
from typing import Any, Protocol

import openai
import pytest

from tests.conftest import StartGate
from tests.support import http
from tests.support.client import Client
from tests.support.gate import Gate
from tests.support.http import UPSTREAM_KEY
from tests.support.upstream import Upstream
from tests.support.waiting import soon, until
from tests.support.wire import Wire

# At most so many blocking calls at a time.
THREADS = 20

HELLO = [{"role": "user", "content": "Hello, who is there?"}]
ENDLESS = {"X-Simulate": "tokens=100000,tokens_per_second=100"}
QUOTA_HEADERS = {
    f"x-ratelimit-{what}-{kind}"
    for what in ("limit", "remaining", "reset")
    for kind in ("requests", "tokens")
}

Ask = Callable[[Any], Any]


class Sdk(Protocol):
    """A client of one gate, whichever way it works."""

    async def call(self, ask: Ask) -> Any:
        """What the client answers."""

    async def events(self, ask: Ask) -> list[Any]:
        """A stream, read to its end."""

    async def glimpse(self, ask: Ask) -> Any:
        """A stream's first event; then the stream is closed."""


StartSdk = Callable[..., Sdk]


class Blocking:
    """`openai.OpenAI`, in threads beside the gate."""

    def __init__(self, client: openai.OpenAI, threads: ThreadPoolExecutor) -> None:
        self._client = client
        self._threads = threads

    async def call(self, ask: Ask) -> Any:
        return await self._in_thread(ask)

    async def events(self, ask: Ask) -> list[Any]:
        events: list[Any] = await self._in_thread(lambda client: list(ask(client)))
        return events

    async def glimpse(self, ask: Ask) -> Any:
        def first(client: openai.OpenAI) -> Any:
            with ask(client) as stream:
                return next(iter(stream))

        return await self._in_thread(first)

    async def _in_thread(self, work: Callable[[openai.OpenAI], Any]) -> Any:
        loop = asyncio.get_running_loop()
        async with soon():
            return await loop.run_in_executor(self._threads, work, self._client)


class Asynchronous:
    """`openai.AsyncOpenAI`."""

    def __init__(self, client: openai.AsyncOpenAI) -> None:
        self._client = client

    async def call(self, ask: Ask) -> Any:
        async with soon():
            return await ask(self._client)

    async def events(self, ask: Ask) -> list[Any]:
        async with soon():
            return [event async for event in await ask(self._client)]

    async def glimpse(self, ask: Ask) -> Any:
        async with soon(), await ask(self._client) as stream:
            return await anext(aiter(stream))


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(THREADS) as threads:
        yield threads


@pytest.fixture(params=["blocking", "asynchronous"])
def sdk(
    request: pytest.FixtureRequest,
    threads: ThreadPoolExecutor,
    openai_client: Callable[..., openai.OpenAI],
    async_client: Callable[..., openai.AsyncOpenAI],
) -> StartSdk:
    """Makes clients of a gate, which do not retry unless they are told to.

    They are spared the CA certificates: nobody speaks TLS here, and reading them takes longer
    than most tests.
    """

    def start(gate: Gate, **options: Any) -> Sdk:
        if request.param == "blocking":
            http_client = openai.DefaultHttpxClient(verify=False)
            return Blocking(openai_client(gate, http_client=http_client, **options), threads)
        async_http_client = openai.DefaultAsyncHttpxClient(verify=False)
        return Asynchronous(async_client(gate, http_client=async_http_client, **options))

    return start


@pytest.fixture
def simulated(gate: StartGate, simulator: str) -> StartGate:
    """Starts gates in front of the simulator."""

    def start(**settings: object) -> Awaitable[Gate]:
        return gate(OPENAI_BASE_URL=simulator, **settings)

    return start


def chat(**more: Any) -> Ask:
    asked = {"model": "gpt-4o", "messages": HELLO} | more
    return lambda client: client.chat.completions.create(**asked)


def raw_chat(**more: Any) -> Ask:
    asked = {"model": "gpt-4o", "messages": HELLO} | more
    return lambda client: client.chat.completions.with_raw_response.create(**asked)


def response(**more: Any) -> Ask:
    asked = {"model": "gpt-5", "input": "Hi"} | more
    return lambda client: client.responses.create(**asked)


def text_of(chunks: list[Any]) -> str:
    """The text of a streamed chat."""
    choices = [choice for chunk in chunks for choice in chunk.choices]
    return "".join(choice.delta.content or "" for choice in choices)


async def stats(simulator: str) -> dict[str, Any]:
    """What the simulator saw."""
    client = Client(await Wire.connect(simulator))
    try:
        seen = (await client.request(http.get("/simulator/stats"))).json
    finally:
        client.disconnect()
    assert isinstance(seen, dict)
    return seen


# Chat.


async def test_chat_is_answered(simulated: StartGate, sdk: StartSdk) -> None:
    completion = await sdk(await simulated()).call(chat(max_tokens=9, n=2))
    texts = [choice.message.content for choice in completion.choices]
    assert [len(text.split()) for text in texts] == [9, 9]
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (5, 18)


async def test_streamed_chat_has_the_text_of_the_plain_one_and_its_usage(
    simulated: StartGate, sdk: StartSdk
) -> None:
    client = sdk(await simulated())
    plain = await client.call(chat())
    chunks = await client.events(chat(stream=True, stream_options={"include_usage": True}))
    assert text_of(chunks) == plain.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert (chunks[-1].choices, chunks[-1].usage) == ([], plain.usage)


@pytest.mark.parametrize("kind", ["json_object", "json_schema"])
async def test_json_is_whole_plain_and_streamed(
    simulated: StartGate, sdk: StartSdk, kind: str
) -> None:
    schema = {"name": "answer", "schema": {"type": "object"}}
    as_json = {"type": kind} | ({"json_schema": schema} if kind == "json_schema" else {})
    client = sdk(await simulated())
    plain = await client.call(chat(response_format=as_json))
    chunks = await client.events(chat(response_format=as_json, stream=True))
    assert text_of(chunks) == plain.choices[0].message.content
    assert json.loads(text_of(chunks)).keys() == {"answer"}


@pytest.mark.parametrize("model", ["gpt-4", "o1-mini", "gpt-4o"])
async def test_any_model_answers_under_its_name(
    simulated: StartGate, sdk: StartSdk, model: str
) -> None:
    gate = await simulated()
    completion = await sdk(gate).call(chat(model=model))
    assert completion.model == model
    [line] = await gate.settled()
    assert (line["model"], line["outcome"]) == (model, "ok")
    assert (line["tokens_in"], line["tokens_out"]) == (5, completion.usage.completion_tokens)


async def test_compressed_answer_is_read(simulated: StartGate, sdk: StartSdk) -> None:
    client = sdk(await simulated())
    plain = await client.call(chat())
    packed = await client.call(raw_chat(extra_headers={"X-Simulate": "gzip"}))
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.parse().choices == plain.choices


# Responses.


async def test_response_is_answered(simulated: StartGate, sdk: StartSdk) -> None:
    answered = await sdk(await simulated()).call(response(instructions="Be kind."))
    assert answered.status == "completed"
    assert answered.usage.output_tokens == len(answered.output_text.split())


async def test_streamed_response_has_its_events_in_order(
    simulated: StartGate, sdk: StartSdk
) -> None:
    client = sdk(await simulated())
    plain = await client.call(response(max_output_tokens=2))
    events = await client.events(response(max_output_tokens=2, stream=True))
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
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].response.output_text == plain.output_text
    assert events[-1].response.usage == plain.usage


async def test_streamed_response_names_its_events_on_the_wire(
    simulated: StartGate, async_client: Callable[..., openai.AsyncOpenAI]
) -> None:
    """The SDK goes by the data; others go by the `event:` lines."""
    responses = async_client(await simulated()).responses.with_streaming_response
    async with (
        soon(),
        responses.create(model="gpt-5", input="Hi", max_output_tokens=2, stream=True) as raw,
    ):
        lines = [line async for line in raw.iter_lines() if line]
    names = [line.removeprefix("event: ") for line in lines[::2]]
    data = [json.loads(line.removeprefix("data: ")) for line in lines[1::2]]
    assert names == [event["type"] for event in data]
    assert (names[0], names[-1]) == ("response.created", "response.completed")


# Embeddings and models.


async def test_embeddings_are_the_same_in_both_encodings(
    simulated: StartGate, sdk: StartSdk
) -> None:
    """What the SDK asks for by itself is base64."""

    def embeddings(**more: Any) -> Ask:
        asked = {"model": "text-embedding-3-small", "input": ["a", "b"], "dimensions": 16}
        return lambda client: client.embeddings.create(**asked, **more)

    client = sdk(await simulated())
    packed = await client.call(embeddings())
    floats = await client.call(embeddings(encoding_format="float"))
    assert [one.embedding for one in packed.data] == [one.embedding for one in floats.data]
    assert [len(one.embedding) for one in packed.data] == [16, 16]
    assert packed.usage.prompt_tokens == 2


async def test_models_are_listed_and_retrieved(simulated: StartGate, sdk: StartSdk) -> None:
    client = sdk(await simulated())
    listed = await client.call(lambda client: client.models.list())
    assert "gpt-4o" in [model.id for model in listed.data]
    name = "ft:gpt-4o:org/my model"
    assert (await client.call(lambda client: client.models.retrieve(name))).id == name


# Headers and queries.


async def test_answer_tells_upstream_s_quota_and_the_gate_s_doings(
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


async def test_extra_headers_query_and_body_go_up(
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


async def test_upstream_sees_the_gate_s_key_alone(
    simulated: StartGate, simulator: str, sdk: StartSdk
) -> None:
    await sdk(await simulated()).call(chat())
    assert list((await stats(simulator))["keys"]) == [f"...{UPSTREAM_KEY[-4:]}"]


# Many at once, and one that leaves.


async def test_simultaneous_calls_each_get_their_own_answer(
    simulated: StartGate, sdk: StartSdk
) -> None:
    def asked(number: int) -> dict[str, Any]:
        return {"model": f"model-{number}", "max_tokens": 5}

    client = sdk(await simulated())
    alone = [await client.call(chat(**asked(number))) for number in range(THREADS)]
    texts = [answered.choices[0].message.content for answered in alone]
    plain = [client.call(chat(**asked(number))) for number in range(0, THREADS, 2)]
    streamed = [client.events(chat(**asked(n), stream=True)) for n in range(1, THREADS, 2)]
    answers, streams = await asyncio.gather(asyncio.gather(*plain), asyncio.gather(*streamed))
    assert [answered.choices[0].message.content for answered in answers] == texts[::2]
    assert [text_of(chunks) for chunks in streams] == texts[1::2]


async def test_stream_closed_early_ends_upstream_too(
    simulated: StartGate, simulator: str, sdk: StartSdk
) -> None:
    gate = await simulated()
    client = sdk(gate)
    first = await client.glimpse(chat(stream=True, extra_headers=ENDLESS))
    assert first.choices[0].delta.role == "assistant"
    await gate.wait_until(in_flight=0)
    assert (await gate.settled())[0]["outcome"] == "client_left"
    async with soon():
        while (await stats(simulator))["streams_open"]:
            pass
    assert (await stats(simulator))["left"] == 1
    assert (await client.call(chat())).choices


# What goes wrong.


@pytest.mark.parametrize(
    ("fault", "kind", "code"),
    [
        ("400", openai.BadRequestError, None),
        ("409", openai.ConflictError, None),
        ("500", openai.InternalServerError, None),
        ("insufficient_quota", openai.RateLimitError, "insufficient_quota"),
    ],
)
async def test_upstream_s_error_is_raised_as_its_own(
    simulated: StartGate, sdk: StartSdk, fault: str, kind: type[openai.APIStatusError], code: str
) -> None:
    client = sdk(await simulated())
    with pytest.raises(kind) as raised:
        await client.call(chat(extra_headers={"X-Simulate": fault}))
    assert raised.value.code == code
    assert raised.value.request_id is not None
    assert "X-RustyGate-Error" not in raised.value.response.headers


async def test_unknown_model_is_not_found(simulated: StartGate, sdk: StartSdk) -> None:
    client = sdk(await simulated())
    with pytest.raises(openai.NotFoundError) as raised:
        await client.call(chat(model="no-such-model"))
    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")


async def test_base_url_without_v1_is_told_so(simulated: StartGate, sdk: StartSdk) -> None:
    gate = await simulated()
    client = sdk(gate, base_url=gate.url)
    with pytest.raises(openai.NotFoundError, match="the API is under /v1/") as raised:
        await client.call(chat())
    assert raised.value.response.headers["X-RustyGate-Error"] == "not_found"


@pytest.mark.parametrize("ask", [chat, response], ids=["chat", "response"])
async def test_stream_that_breaks_off_raises(
    simulated: StartGate, sdk: StartSdk, ask: Callable[..., Ask]
) -> None:
    client = sdk(await simulated())
    with pytest.raises(openai.APIError) as raised:
        await client.events(ask(stream=True, extra_headers={"X-Simulate": "cut=3"}))
    assert raised.value.code == "upstream_disconnected"


@pytest.mark.parametrize("ask", [chat, response], ids=["chat", "response"])
async def test_stream_that_breaks_off_inside_an_event_raises(
    simulated: StartGate, sdk: StartSdk, ask: Callable[..., Ask]
) -> None:
    client = sdk(await simulated())
    with pytest.raises(openai.APIConnectionError):
        await client.events(ask(stream=True, extra_headers={"X-Simulate": "cut_inside=3"}))


async def test_answer_that_breaks_off_raises(simulated: StartGate, sdk: StartSdk) -> None:
    client = sdk(await simulated())
    with pytest.raises(openai.APIConnectionError):
        await client.call(chat(extra_headers={"X-Simulate": "cut"}))


# Rate limiting.


async def test_ten_at_once_are_served_in_order_as_the_rate_allows(
    simulated: StartGate, sdk: StartSdk
) -> None:
    """Ten times as fast as compose's RATE_LIMIT=1 and RATE_LIMIT_BURST=3."""
    await warm_up(sdk, await simulated())
    gate = await simulated(RATE_LIMIT=10, RATE_LIMIT_BURST=3)
    client = sdk(gate)
    names = [f"model-{number}" for number in range(10)]
    began = monotonic()
    calls = await arriving(gate, [client.call(raw_chat(model=name)) for name in names])
    answers = [await call for call in calls]
    took = monotonic() - began
    assert [answered.parse().model for answered in answers] == names
    assert 0.7 <= took < 1.4
    lines = (await gate.settled(11))[1:]
    waited = [line["model"] for line in lines if line["queued_ms"]]
    assert waited == names[-len(waited) :]
    assert int(answers[-1].headers["X-RustyGate-Queued-Ms"]) == lines[-1]["queued_ms"]


async def test_two_clients_take_turns(simulated: StartGate, sdk: StartSdk) -> None:
    """However many requests one of them queued before the other came."""
    gate = await simulated(CONCURRENCY_LIMIT=1, RATE_LIMIT=20, RATE_LIMIT_BURST=1)
    holder = await gate.send(http.chat("X-Simulate: stall", "X-RustyGate-Client: holder"))
    await gate.wait_until(in_flight=1)
    await gate.send(http.chat("X-RustyGate-Client: next"))
    await gate.wait_until(waiters=1)
    many, few = (
        sdk(gate, default_headers={"X-RustyGate-Client": name}) for name in ("many", "few")
    )
    calls = await arriving(gate, [client.call(chat()) for client in [many] * 4 + [few] * 2])
    holder.disconnect()
    await asyncio.gather(*calls)
    served = [line["client"] for line in await gate.settled(8)]
    assert served == ["holder", "next", "many", "few", "many", "few", "many", "many"]


async def test_refusal_is_a_rate_limit_error(simulated: StartGate, sdk: StartSdk) -> None:
    gate = await simulated(RATE_LIMIT=0.01, RATE_LIMIT_BURST=1, RATE_LIMIT_TIMEOUT=1)
    client = sdk(gate)
    await client.call(chat())
    with pytest.raises(openai.RateLimitError) as raised:
        await client.call(chat())
    assert (raised.value.type, raised.value.code) == ("requests", "rate_limit_exceeded")
    assert raised.value.response.headers["X-RustyGate-Error"] == "queue_timeout"
    assert 90_000 < int(raised.value.response.headers["retry-after-ms"]) <= 100_000


async def test_refused_sdk_comes_back_when_it_was_told_to(
    simulated: StartGate, sdk: StartSdk
) -> None:
    gate = await simulated(RATE_LIMIT=2, RATE_LIMIT_BURST=1, RATE_LIMIT_TIMEOUT=0.05)
    client = sdk(gate, max_retries=1)
    await client.call(raw_chat())
    raw = await client.call(raw_chat())
    assert raw.retries_taken == 1
    outcomes = [line["outcome"] for line in await gate.settled(3)]
    assert outcomes == ["ok", "refused", "ok"]


async def warm_up(sdk: StartSdk, gate: Gate) -> None:
    """Let the SDK do what it does once, at its first call, and takes its time for."""
    await sdk(gate).call(chat())
    await gate.settled()


async def arriving(gate: Gate, calls: list[Coroutine[Any, Any, Any]]) -> list[asyncio.Task[Any]]:
    """Start calls, each as soon as the gate knows of the one before."""
    tasks = []
    for number, call in enumerate(calls, known_to(gate) + 1):
        tasks.append(asyncio.create_task(call))
        await until(partial(knows, gate, number))
    return tasks


def knows(gate: Gate, count: int) -> bool:
    return known_to(gate) == count


def known_to(gate: Gate) -> int:
    """How many exchanges a gate has in hand, and were settled."""
    now = gate.snapshot()
    return now["waiters"] + now["in_flight"] + len(gate.log.exchanges)
