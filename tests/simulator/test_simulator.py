"""The simulator: over real sockets with the official SDK and with raw bytes; its buckets in pure
form, with the time passed in."""

import argparse
import asyncio
import gzip
import json
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionMessageParam

from rustygate.simulator import Options
from rustygate.simulator.faults import GRAMMAR, FaultError, Faults, parse
from rustygate.simulator.limits import MINUTE, MODELS, Bucket, Limits, Quota, Quotas, go_duration
from rustygate.simulator.stats import NAMES, OTHERS, Stats, masked
from rustygate.simulator.text import seed_of, write
from tests.support.simulator import KEY, SOON_S, Site, post, request, running

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello, who is there?"}]
CHAT = {"model": "gpt-4o", "messages": HELLO, "max_tokens": 4}
SECOND = 1_000_000_000

# A law that takes its time on a busy machine is no less true.
unhurried = settings(deadline=None)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with running(Options()) as site:
        yield site


# The SDK


async def test_sdk_lists_and_retrieves_models(site: Site) -> None:
    async with site.sdk() as sdk:
        models = [model.id async for model in sdk.models.list()]
        assert "gpt-4o" in models
        assert (await sdk.models.retrieve("ft:any/thing")).id == "ft:any/thing"
        with pytest.raises(openai.NotFoundError) as error:
            await sdk.models.retrieve("no-such-model")
        assert error.value.code == "model_not_found"


async def test_sdk_chat_is_deterministic_and_counts_its_tokens(site: Site) -> None:
    async with site.sdk() as sdk:
        one, two = [
            await sdk.chat.completions.create(model="gpt-4o", messages=HELLO, max_tokens=9, n=2)
            for _ in range(2)
        ]
    texts = [choice.message.content or "" for choice in one.choices]
    assert texts == [choice.message.content for choice in two.choices]
    assert texts[0] != texts[1]
    assert [len(text.split()) for text in texts] == [9, 9]
    assert one.usage is not None
    assert (one.usage.prompt_tokens, one.usage.completion_tokens) == (5, 18)


async def test_sdk_streams_the_same_text_that_a_plain_answer_has(site: Site) -> None:
    async with site.sdk() as sdk:
        plain = await sdk.chat.completions.create(model="gpt-4o", messages=HELLO)
        chunks = [
            chunk
            async for chunk in await sdk.chat.completions.create(
                model="gpt-4o", messages=HELLO, stream=True, stream_options={"include_usage": True}
            )
        ]
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == plain.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == plain.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_text_parts_count_and_other_parts_do_not(site: Site) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    parts = [{"type": "text", "text": "twelve chars"}, image]
    answer = await site.post(
        "/chat/completions", CHAT | {"messages": [{"role": "user", "content": parts}]}
    )
    assert json.loads(answer.body)["usage"]["prompt_tokens"] == 3


async def test_sdk_response_plain(site: Site) -> None:
    async with site.sdk() as sdk:
        response = await sdk.responses.create(
            model="gpt-5", instructions="Be kind.", input=[{"role": "user", "content": "Hi"}]
        )
    assert response.status == "completed"
    assert response.usage is not None
    assert response.usage.output_tokens == len(response.output_text.split())


async def test_sdk_response_stream_has_the_true_events_in_order(site: Site) -> None:
    async with (
        site.sdk() as sdk,
        sdk.responses.stream(model="gpt-5", input="Hi", max_output_tokens=2) as stream,
    ):
        events = [event async for event in stream]
        final = await stream.get_final_response()
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
    assert len(final.output_text.split()) == 2
    assert final.usage is not None
    assert final.usage.total_tokens == 3


async def test_sdk_embeddings_are_the_same_in_both_encodings(site: Site) -> None:
    async with site.sdk() as sdk:
        packed = await sdk.embeddings.create(model="e", input=["a", "b"], dimensions=16)
        floats = await sdk.embeddings.create(
            model="e", input=["a", "b"], dimensions=16, encoding_format="float"
        )
        tokens = await sdk.embeddings.create(model="e", input=[1, 2, 3])
    assert [one.embedding for one in packed.data] == [one.embedding for one in floats.data]
    assert packed.data[0].embedding != packed.data[1].embedding
    assert sum(x * x for x in packed.data[0].embedding) == pytest.approx(1)
    assert (len(tokens.data), len(tokens.data[0].embedding)) == (1, 1536)
    assert tokens.usage.prompt_tokens == 3


async def test_sync_sdk_streams(site: Site) -> None:
    def chat() -> int:
        with (
            openai.OpenAI(api_key=KEY, base_url=site.url, max_retries=0) as sdk,
            sdk.chat.completions.create(
                model="gpt-4o", messages=HELLO, max_tokens=3, stream=True
            ) as stream,
        ):
            return sum(1 for _ in stream)

    assert await asyncio.to_thread(chat) == 5


@pytest.mark.parametrize("tokens", [1, 2, 3, 40])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_json_mode_answers_an_object_at_any_length(
    site: Site, tokens: int, stream: bool
) -> None:
    body = CHAT | {
        "max_tokens": tokens,
        "stream": stream,
        "response_format": {"type": "json_object"},
    }
    answer = await site.post("/chat/completions", body)
    text = streamed_text(answer.body) if stream else plain_text(answer.body)
    assert isinstance(json.loads(text), dict)


async def test_json_schema_is_json_in_responses_too(site: Site) -> None:
    schema = {"type": "json_schema", "name": "a", "schema": {"type": "object"}}
    answer = await site.post(
        "/responses", {"model": "m", "input": "x", "text": {"format": schema}}
    )
    text = json.loads(answer.body)["output"][0]["content"][0]["text"]
    assert isinstance(json.loads(text), dict)


def plain_text(body: bytes) -> str:
    text: str = json.loads(body)["choices"][0]["message"]["content"]
    return text


def streamed_text(body: bytes) -> str:
    lines = [line for line in body.decode().split("\n\n") if line not in ("", "data: [DONE]")]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


# The bytes


async def test_chat_stream_looks_like_openais_on_the_wire(site: Site) -> None:
    answer = await site.post("/chat/completions", CHAT | {"stream": True})
    events = answer.body.split(b"\n\n")
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.whole
    assert all(event.startswith(b"data: {") for event in events[:-2])
    assert events[-2:] == [b"data: [DONE]", b""]
    assert b"\r" not in answer.body
    assert len(events) == 1 + 4 + 1 + 1 + 1


async def test_response_stream_names_its_events(site: Site) -> None:
    answer = await site.post("/responses", {"model": "m", "input": "x", "stream": True})
    for event in answer.body.removesuffix(b"\n\n").split(b"\n\n"):
        name, data = event.split(b"\n")
        assert name == b"event: " + json.loads(data.removeprefix(b"data: "))["type"].encode()


async def test_every_answer_of_a_model_carries_the_headers(site: Site) -> None:
    for simulate in ("gzip", "500", "slow_down"):
        answer = await site.post("/chat/completions", CHAT, simulate=simulate)
        names = {"x-request-id", "openai-processing-ms", "openai-version"} | {
            f"x-ratelimit-{what}-{kind}"
            for what in ("limit", "remaining", "reset")
            for kind in ("requests", "tokens")
        }
        assert names <= set(answer.headers)
    assert answer.headers["x-ratelimit-limit-requests"] == "500"
    assert answer.headers["x-ratelimit-remaining-requests"] == "497"


@pytest.mark.parametrize("target", ["/v1/models", "/v1/models/m", "/v1/files", "/simulator/stats"])
async def test_head_is_answered_wherever_get_is(site: Site, target: str) -> None:
    get, head = [await site.ask(request(method, target)) for method in ("GET", "HEAD")]
    assert (get.status, head.status, head.body) == (200, 200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


# Refusals


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (b"GET /v1/nope HTTP/1.1\r\n", 404, None),
        (b"GET / HTTP/1.1\r\n", 404, None),
        (b"GET /v1/models HTTP/1.1\r\n", 401, "invalid_api_key"),
        (b"GET /v1/models HTTP/1.1\r\nAuthorization: Basic x\r\n", 401, "invalid_api_key"),
        (b"GET /v1/models HTTP/1.1\r\nAuthorization: Bearer \r\n", 401, "invalid_api_key"),
        (b"PUT /v1/chat/completions HTTP/1.1\r\n", 405, None),
    ],
    ids=["path", "root", "no-key", "basic", "empty-key", "method"],
)
async def test_refused_by_its_head(site: Site, raw: bytes, status: int, code: str | None) -> None:
    answer = await site.ask(raw + b"Host: simulator\r\nConnection: close\r\n\r\n")
    assert (answer.status, answer.error["code"]) == (status, code)
    assert answer.error["type"] == "invalid_request_error"
    assert "x-request-id" in answer.headers


BAD_BODIES = {
    "empty": b"",
    "not-json": b"{",
    "not-utf8": b'{"model": "\xff"}',
    "root-list": b"[]",
    "root-null": b"null",
    "no-model": b'{"messages": [{"role": "user", "content": "x"}]}',
    "deep-known": b'{"model": "m", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep-unknown": b'{"model": "m", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "huge-int": b'{"model": "m", "max_tokens": ' + b"9" * 5000 + b"}",
    "infinite": b'{"model": "m", "max_tokens": 1e999}',
    "lone-surrogate": b'{"model": "\\ud800"}',
    "nan": b'{"model": NaN}',
    "long-model": b'{"model": "' + b"m" * 513 + b'"}',
}


@pytest.mark.parametrize("path", ["/chat/completions", "/responses", "/embeddings"])
@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
async def test_bad_body_is_a_400_that_says_so(site: Site, path: str, body: bytes) -> None:
    answer = await site.post(path, body)
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")


CHAT_FIELDS = ("model", "messages", "max_tokens", "max_completion_tokens", "n", "stream", "user")
STRANGE: list[object] = [True, -1, 0, 10**30, 1.5, [], [1], {}, {"type": 1}, "", "\x00", [[[]]]]


@pytest.mark.parametrize(
    ("path", "good", "fields"),
    [
        ("/chat/completions", CHAT, (*CHAT_FIELDS, "response_format", "stream_options")),
        (
            "/responses",
            {"model": "m", "input": "x"},
            ("model", "input", "instructions", "max_output_tokens", "text", "stream", "user"),
        ),
        (
            "/embeddings",
            {"model": "m", "input": "x"},
            ("model", "input", "dimensions", "encoding_format", "user"),
        ),
    ],
    ids=["chat", "responses", "embeddings"],
)
async def test_no_value_in_any_field_breaks_it(
    site: Site, path: str, good: dict[str, object], fields: tuple[str, ...]
) -> None:
    for field in fields:
        for value in STRANGE:
            answer = await site.post(path, good | {field: value})
            assert answer.status in (200, 400, 429), (field, value)
            assert answer.whole


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"content": "x"}]}, "role"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": "two"}, "n"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
    ],
    ids=["empty", "no-role", "zero", "type", "enum"],
)
async def test_bad_parameter_is_named(site: Site, change: dict[str, object], param: str) -> None:
    answer = await site.post("/chat/completions", CHAT | change)
    assert (answer.status, answer.error["param"]) == (400, param)


@pytest.mark.parametrize("given_input", [[], [""], "", ["a", 1], [[]], [[1], "a"], ["a"] * 2049])
async def test_bad_embedding_input_is_a_400(site: Site, given_input: object) -> None:
    answer = await site.post("/embeddings", {"model": "m", "input": given_input})
    assert (answer.status, answer.error["param"]) == (400, "input")


async def test_body_that_is_not_of_its_encoding_is_a_400(site: Site) -> None:
    answer = await site.post("/chat/completions", b"plain", **{"Content-Encoding": "gzip"})
    assert answer.status == 400


async def test_unknown_model_is_a_404_only_by_its_prefix(site: Site) -> None:
    answer = await site.post("/chat/completions", CHAT | {"model": "no-such-thing"})
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    assert (await site.post("/chat/completions", CHAT | {"model": "mine"})).status == 200


# Quotas over the wire


async def test_beyond_the_requests_a_429_tells_when_to_come_back() -> None:
    async with running(Options(rpm=2)) as site:
        answers = [await site.post("/chat/completions", CHAT) for _ in range(3)]
        other = await site.post("/chat/completions", CHAT | {"model": "other"})
    assert [answer.status for answer in answers] == [200, 200, 429]
    refusal = answers[2]
    assert (refusal.error["type"], refusal.error["code"]) == ("requests", "rate_limit_exceeded")
    assert re.fullmatch(
        r"Rate limit reached for gpt-4o in organization org-simulator on requests per min "
        r"\(RPM\): Limit 2, Used 2, Requested 1\. Please try again in (30|29\.\d+)s\.",
        refusal.error["message"],
    )
    assert 29_000 < int(refusal.headers["retry-after-ms"]) <= 30_000
    assert refusal.headers["retry-after"] == "30"
    assert refusal.headers["x-ratelimit-remaining-requests"] == "0"
    assert other.status == 200


async def test_sdk_raises_rate_limit_error_for_tokens() -> None:
    async with running(Options(tpm=100)) as site, site.sdk() as sdk:
        await sdk.chat.completions.create(model="m", messages=HELLO, max_tokens=90)
        with pytest.raises(openai.RateLimitError) as error:
            await sdk.chat.completions.create(model="m", messages=HELLO, max_tokens=90)
        assert error.value.type == "tokens"
        with pytest.raises(openai.RateLimitError) as error:
            await sdk.chat.completions.create(model="m", messages=HELLO, max_tokens=100)
    assert "retry-after" not in error.value.response.headers
    assert isinstance(error.value.body, dict)
    assert error.value.body["message"] == (
        "Request too large for m in organization org-simulator on tokens per min (TPM): "
        "Limit 100, Requested 105. The input or output tokens must be reduced in order to run "
        "successfully."
    )


async def test_failed_requests_count_too() -> None:
    async with running(Options(rpm=2)) as site:
        for _ in range(2):
            await site.post("/chat/completions", CHAT, simulate="500")
        assert (await site.post("/chat/completions", CHAT)).status == 429


@pytest.mark.parametrize("nothing", [0, None])
async def test_changed_limit_holds_at_once(nothing: int | None) -> None:
    async with running(Options(rpm=2)) as site:
        first = await site.post("/chat/completions", CHAT)
        assert (await site.limits(rpm=1))["rpm"] == 1
        second = await site.post("/chat/completions", CHAT)
        assert (await site.limits(rpm=nothing))["rpm"] == 0
        third = await site.post("/chat/completions", CHAT)
    assert [answer.status for answer in (first, second, third)] == [200, 429, 200]
    assert second.headers["x-ratelimit-limit-requests"] == "1"
    assert "x-ratelimit-limit-requests" not in third.headers
    assert third.headers["x-ratelimit-limit-tokens"] == "200000"


async def test_limits_of_one_model_leave_the_others_alone() -> None:
    options = Options(model_limits=(("gpt-4o", Limits(7, 70)),))
    async with running(options) as site:
        assert await site.limits(model="m", tpm=5) == {
            "rpm": 500,
            "tpm": 200_000,
            "models": {"gpt-4o": {"rpm": 7, "tpm": 70}, "m": {"rpm": 500, "tpm": 5}},
        }
        told = [
            (await site.post("/chat/completions", CHAT | {"model": model})).headers
            for model in ("gpt-4o", "m", "other")
        ]
        assert await site.limits(rpm=9) == {
            "rpm": 9,
            "tpm": 200_000,
            "models": {"gpt-4o": {"rpm": 9, "tpm": 70}, "m": {"rpm": 9, "tpm": 5}},
        }
    assert [headers["x-ratelimit-limit-requests"] for headers in told] == ["7", "500", "500"]
    assert [headers["x-ratelimit-limit-tokens"] for headers in told] == ["70", "5", "200000"]


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b'{"rpm": -1}', b'{"rpm": 1.5}', b'{"model": ""}', b'{"tpm": 1' + b"0" * 16],
)
async def test_bad_limits_are_a_400_and_change_nothing(site: Site, body: bytes) -> None:
    answer = await site.ask(request("POST", "/simulator/limits", body))
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
    assert (await site.limits())["rpm"] == Options().rpm


async def test_reset_fills_the_buckets_and_zeroes_the_counts() -> None:
    async with running(Options(rpm=1)) as site:
        await site.post("/chat/completions", CHAT)
        assert (await site.ask(request("POST", "/simulator/reset"))).status == 204
        assert (await site.stats())["requests"] == 0
        assert (await site.post("/chat/completions", CHAT)).status == 200


# Faults


@pytest.mark.parametrize(
    ("simulate", "status", "type_", "code", "retry_after_ms"),
    [
        ("500", 500, "server_error", None, None),
        ("status=418", 418, "invalid_request_error", None, None),
        ("slow_down", 429, "requests", "slow_down", None),
        ("slow_down=2.5", 429, "requests", "slow_down", "2500"),
        ("overloaded", 503, "service_unavailable_error", "server_is_overloaded", None),
        ("too_large", 429, "tokens", "rate_limit_exceeded", None),
        *[
            (code, 429, "insufficient_quota", code, None)
            for code in (
                "insufficient_quota",
                "organization_spend_limit_exceeded",
                "project_spend_limit_exceeded",
                "organization_usage_limit_exceeded",
                "credit_balance_exhausted",
            )
        ],
        ("rate_limited", 429, "requests", "rate_limit_exceeded", "1000"),
        ("rate_limited=0.25", 429, "requests", "rate_limit_exceeded", "250"),
    ],
)
async def test_failure_on_demand(
    site: Site,
    simulate: str,
    status: int,
    type_: str,
    code: str | None,
    retry_after_ms: str | None,
) -> None:
    answer = await site.post("/chat/completions", CHAT, simulate=simulate)
    assert (answer.status, answer.error["type"], answer.error["code"]) == (status, type_, code)
    assert answer.headers.get("retry-after-ms") == retry_after_ms


@pytest.mark.parametrize(
    ("simulate", "message"),
    [
        (
            "rate_limited=2",
            "Rate limit reached for gpt-4o in organization org-simulator on requests per min "
            "(RPM): Limit 500, Used 500, Requested 1. Please try again in 2s.",
        ),
        (
            "too_large",
            "Request too large for gpt-4o in organization org-simulator on tokens per min (TPM): "
            "Limit 30000, Requested 40000. The input or output tokens must be reduced in order to "
            "run successfully.",
        ),
    ],
)
async def test_refusal_on_demand_tells_the_models_own_limits(simulate: str, message: str) -> None:
    async with running(Options(tpm=30_000)) as site:
        answer = await site.post("/chat/completions", CHAT, simulate=simulate)
    assert answer.error["message"] == message


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_reset_comes_before_any_byte(site: Site, stream: bool) -> None:
    reader, writer = await site.send(
        post("/chat/completions", CHAT | {"stream": stream}, simulate="reset")
    )
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    assert (await site.stats())["severed"] == 1


@pytest.mark.parametrize("events", [0, 1, 3])
async def test_cut_comes_at_a_boundary(site: Site, events: int) -> None:
    answer = await site.post(
        "/chat/completions", CHAT | {"stream": True}, simulate=f"cut={events}"
    )
    assert not answer.whole
    assert answer.body.count(b"\n\n") == events
    assert answer.body.endswith(b"\n\n") or not events


async def test_cut_inside_comes_in_the_middle_of_an_event(site: Site) -> None:
    answer = await site.post("/chat/completions", CHAT | {"stream": True}, simulate="cut_inside=2")
    *whole, rest = answer.body.split(b"\n\n")
    assert not answer.whole
    assert len(whole) == 2
    assert rest.startswith(b"data: {")


async def test_stream_shorter_than_its_cut_comes_whole(site: Site) -> None:
    answer = await site.post("/chat/completions", CHAT | {"stream": True}, simulate="cut=100")
    assert answer.whole


@pytest.mark.parametrize("simulate", ["cut", "cut_inside"])
async def test_plain_answer_is_cut_in_its_middle(site: Site, simulate: str) -> None:
    answer = await site.post("/chat/completions", CHAT, simulate=simulate)
    assert answer.status == 200
    assert not answer.whole
    assert len(answer.body) == int(answer.headers["content-length"]) // 2


@pytest.mark.parametrize("simulate", ["cut=2", "cut_inside=2", "reset"])
async def test_sdk_raises_on_a_broken_stream(site: Site, simulate: str) -> None:
    async with site.sdk() as sdk:
        with pytest.raises(openai.APIConnectionError):
            async for _ in await sdk.chat.completions.create(
                model="m", messages=HELLO, stream=True, extra_headers={"X-Simulate": simulate}
            ):
                pass


@pytest.mark.parametrize(
    ("simulate", "stream", "before"),
    [
        ("stall", False, b""),
        ("stall", True, b""),
        ("stall=2", False, b"HTTP/1.1 200"),
        ("stall=2", True, b"\n\n"),
        ("latency=3600", False, b""),
        ("tokens_per_second=0.001", True, b"\n\n"),
    ],
    ids=["head", "stream-head", "body", "stream", "latency", "pace"],
)
async def test_client_that_leaves_ends_its_request(
    site: Site, simulate: str, stream: bool, before: bytes
) -> None:
    """Whatever the handler waits for, it is gone when the client is."""
    raw = post("/chat/completions", CHAT | {"stream": stream}, simulate=simulate)
    reader, writer = await site.send(raw)
    if before:
        await asyncio.wait_for(reader.readuntil(before), SOON_S)
    waiting = await site.stats_until(lambda stats: stats["requests_open"] == 1)
    assert waiting["streams_open"] == int(stream and bool(before))
    writer.close()
    stats = await site.stats_until(lambda stats: stats["requests_open"] == 0)
    assert (stats["left"], stats["streams_open"]) == (1, 0)


async def test_simulator_that_ends_waits_for_no_stalled_request() -> None:
    async with asyncio.timeout(SOON_S):
        async with running(Options()) as site:
            _, writer = await site.send(post("/chat/completions", CHAT, simulate="stall"))
            await site.stats_until(lambda stats: stats["requests_open"] == 1)
        writer.close()


async def test_stalled_stream_sends_its_events_first(site: Site) -> None:
    reader, writer = await site.send(
        post("/chat/completions", CHAT | {"stream": True}, simulate="stall=2")
    )
    for _ in range(3):  # The head, which ends in an empty line too, and two events.
        await asyncio.wait_for(reader.readuntil(b"\n\r\n"), SOON_S)
    writer.close()


async def test_gzip_compresses_a_plain_answer(site: Site) -> None:
    answer = await site.post("/chat/completions", CHAT, simulate="gzip")
    assert answer.headers["content-encoding"] == "gzip"
    assert plain_text(gzip.decompress(answer.body))


async def test_answer_longer_than_its_cap_is_cut_short_by_it(site: Site) -> None:
    answer = await site.post("/chat/completions", CHAT, simulate="tokens=9")
    body = json.loads(answer.body)
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 4
    response = await site.post(
        "/responses", {"model": "m", "input": "x", "max_output_tokens": 2}, simulate="tokens=9"
    )
    assert json.loads(response.body)["incomplete_details"] == {"reason": "max_output_tokens"}


async def test_unknown_fault_is_a_400_that_lists_the_known(site: Site) -> None:
    answer = await site.post("/chat/completions", CHAT, simulate="explode")
    assert (answer.status, answer.error["code"]) == (400, "unknown_fault")
    assert GRAMMAR in answer.error["message"]


async def test_flagged_faults_strike_each_nth_request_and_yield_to_the_header() -> None:
    options = Options(faults=parse("500"), fault_every=2)
    async with running(options) as site:
        statuses = []
        for simulate in ("", "", "", "status=502"):
            answer = await site.post("/chat/completions", CHAT, simulate=simulate)
            statuses.append(answer.status)
    assert statuses == [200, 500, 200, 502]


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("", Faults()),
        (" cut = 3 , gzip,", Faults(cut=3, gzip=True)),
        ("latency=0.5,tokens_per_second=20", Faults(latency=0.5, tokens_per_second=20.0)),
        ("stall", Faults(stall=-1)),
        ("stall=0", Faults(stall=0)),
        ("close=4001", Faults(close=4001)),
    ],
)
def test_faults_are_read(text: str, faults: Faults) -> None:
    assert parse(text) == faults


BAD_FAULTS = (
    "x = latency latency=nan latency=inf latency=-1 reset=1 99 600 cut=-1 cut=x cut= tokens=0 ² "
    "slow_down=x close close=999 close=5000 close=1006 too_large=1 tokens=" + "9" * 5000
)


@pytest.mark.parametrize("text", BAD_FAULTS.split(), ids=lambda text: text[:20])
def test_bad_faults_are_refused(text: str) -> None:
    with pytest.raises(FaultError):
        parse(text)


@unhurried
@given(st.text())
def test_no_fault_text_breaks_the_reader(text: str) -> None:
    with suppress(FaultError):
        parse(text)


# Options


def arguments(*flags: str) -> Options:
    parser = argparse.ArgumentParser(exit_on_error=False)
    Options.add_arguments(parser)
    return Options.from_arguments(parser.parse_args(flags))


def test_no_flags_are_the_defaults() -> None:
    assert arguments() == Options()


def test_flags_are_read() -> None:
    flags = (
        "--rpm 3 --tpm 0 --tokens-per-second 5 --latency 0.5 --fault cut=2 --fault gzip,cut=3 "
        "--model-limit gpt-4o=500/30000 --model-limit a=b=0/1 --fault-every 7"
    )
    assert arguments(*flags.split()) == Options(
        rpm=3,
        tpm=0,
        model_limits=(("gpt-4o", Limits(500, 30_000)), ("a=b", Limits(0, 1))),
        tokens_per_second=5.0,
        latency=0.5,
        faults=Faults(cut=3, gzip=True),
        fault_every=7,
    )


@pytest.mark.parametrize(
    "flags",
    [
        ("--fault-every", "0"),
        ("--model-limit", "gpt-4o"),
        ("--model-limit", "gpt-4o=5"),
        ("--model-limit", "gpt-4o=5/x"),
        ("--model-limit", "=5/5"),
        ("--tpm", "-1"),
        ("--latency", "nan"),
        ("--latency", "1e300"),
        ("--tokens-per-second", "inf"),
        ("--fault", "x"),
        ("--rpm", "9" * 99),
    ],
)
def test_bad_flags_are_refused(flags: tuple[str, str]) -> None:
    with pytest.raises(argparse.ArgumentError):
        arguments(*flags)


# Stats


async def test_stats_count_by_key_and_by_client(site: Site) -> None:
    await site.post("/chat/completions", CHAT | {"user": "ann"})
    await site.post("/chat/completions", CHAT | {"user": "bob"}, simulate="500")
    await site.post("/embeddings", b"{")
    stats = await site.stats()
    assert stats["requests"] == 3
    assert stats["by_status"] == {"200": 1, "500": 1, "400": 1}
    assert stats["by_path"] == {"/v1/chat/completions": 2, "/v1/embeddings": 1}
    assert (stats["tokens_in"], stats["tokens_out"]) == (5, 4)
    assert list(stats["keys"]) == ["...1234"]
    assert KEY not in json.dumps(stats)
    assert stats["clients"]["ann"]["by_status"] == {"200": 1}
    assert stats["clients"]["bob"]["by_status"] == {"500": 1}


@unhurried
@given(st.text(min_size=1))
def test_no_key_is_shown_whole(key: str) -> None:
    assert len(masked(key)) - len("...") <= min(4, len(key) // 2)


def test_names_in_the_stats_are_bounded() -> None:
    stats = Stats()
    for number in range(NAMES + 5):
        stats.client(str(number)).requests += 1
    clients = stats.snapshot()["clients"]
    assert len(clients) == NAMES + 1
    assert clients[OTHERS]["requests"] == 5


# The buckets and their headers


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0s"),
        (6, "6ms"),
        (999, "999ms"),
        (1000, "1s"),
        (1500, "1.5s"),
        (1005, "1.005s"),
        (10_000, "10s"),
        (60_000, "1m0s"),
        (360_000, "6m0s"),
        (72_500, "1m12.5s"),
        (3_600_000, "1h0m0s"),
        (90_061_001, "25h1m1.001s"),
    ],
)
def test_go_duration(ms: int, text: str) -> None:
    assert go_duration(ms) == text


def test_reset_is_the_time_until_full() -> None:
    quota = Quota(Limits(rpm=60, tpm=600))
    quota.charge(0, 100)
    assert quota.headers(SECOND // 2) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "500ms",
        "x-ratelimit-limit-tokens": "600",
        "x-ratelimit-remaining-tokens": "505",
        "x-ratelimit-reset-tokens": "9.5s",
    }


def test_want_of_tokens_costs_a_request_and_no_tokens() -> None:
    quota = Quota(Limits(rpm=10, tpm=100))
    assert quota.charge(0, 80) is None
    shortage = quota.charge(0, 40)
    assert shortage is not None
    assert (shortage.kind, shortage.used, shortage.wait) == ("tokens", 80, 12 * SECOND)
    headers = quota.headers(0)
    assert headers["x-ratelimit-remaining-requests"] == "8"
    assert headers["x-ratelimit-remaining-tokens"] == "20"


def test_want_of_requests_costs_nothing() -> None:
    quota = Quota(Limits(rpm=1, tpm=100))
    quota.charge(0, 1)
    waits = [shortage.wait for now in range(3) if (shortage := quota.charge(now, 1))]
    assert waits == [MINUTE, MINUTE - 1, MINUTE - 2]


def test_too_large_never_fits() -> None:
    shortage = Quota(Limits(rpm=1, tpm=100)).charge(0, 101)
    assert shortage is not None
    assert shortage.wait is None


def test_limit_that_changes_keeps_what_was_taken_as_far_as_it_goes() -> None:
    bucket = Bucket(100)
    bucket.take(0, 40)
    bucket.resize(0, 200)
    assert (bucket.remaining(0), bucket.reset(0)) == (160, 12 * SECOND)
    bucket.resize(0, 10)
    assert (bucket.remaining(0), bucket.reset(0)) == (0, MINUTE)


def test_changed_limit_refills_at_its_own_rate_from_then_on() -> None:
    bucket = Bucket(60)
    bucket.take(0, 60)
    bucket.resize(10 * SECOND, 600)
    assert bucket.remaining(10 * SECOND) == 550
    assert bucket.remaining(11 * SECOND) == 560


def test_limit_that_is_new_begins_with_a_full_bucket() -> None:
    quota = Quota(Limits(rpm=0, tpm=0))
    assert quota.charge(0, 10**9) is None
    assert quota.headers(0) == {}
    quota.apply(0, Limits(rpm=5, tpm=0))
    assert quota.headers(0)["x-ratelimit-remaining-requests"] == "5"


def test_models_with_limits_of_their_own_are_bounded() -> None:
    quotas = Quotas(Limits(1, 1), {str(number): Limits(2, 2) for number in range(MODELS)})
    quotas.change(0, "0", rpm=3)
    with pytest.raises(OverflowError):
        quotas.change(0, "one more", rpm=3)


def test_models_are_bounded_and_the_least_recently_used_goes() -> None:
    quotas = Quotas(Limits(1, 1), {})
    first = quotas.of("first")
    for number in range(MODELS - 1):
        quotas.of(str(number))
    assert quotas.of("first") is first
    quotas.of("one more")
    assert len(quotas) == MODELS
    assert quotas.of("first") is first


LIMITS = st.integers(1, 10**7)
TIMES = st.integers(0, 10**12)


@unhurried
@given(LIMITS, st.lists(st.tuples(st.integers(0, 10**10), st.integers(1, 10**6))))
def test_any_window_holds_at_most_a_minutes_limit_and_the_refill(
    limit: int, tries: list[tuple[int, int]]
) -> None:
    bucket, now, taken = Bucket(limit), 0, 0
    for pause, units in tries:
        now += pause
        if not bucket.wait(now, units):
            bucket.take(now, units)
            taken += units
        assert taken * MINUTE <= (MINUTE + now) * limit
        assert 0 <= bucket.remaining(now) <= limit


@unhurried
@given(LIMITS, TIMES, st.data())
def test_denied_before_the_promise_and_allowed_at_it(limit: int, now: int, data: Any) -> None:
    units = st.integers(1, limit)
    bucket = Bucket(limit)
    bucket.take(now, data.draw(units))
    wanted = data.draw(units)
    wait = bucket.wait(now, wanted)
    assert bucket.wait(now + wait, wanted) == 0
    assert not wait or bucket.wait(now + wait - 1, wanted) > 0
    full = now + bucket.reset(now)
    assert bucket.remaining(full) == limit
    assert full == now or bucket.reset(full - 1) > 0


# The text


@unhurried
@given(st.integers(1, 300), st.booleans(), st.text(st.characters(codec="utf-8")))
def test_text_is_deterministic_and_as_long_as_asked(
    tokens: int, as_json: bool, prompt: str
) -> None:
    one, two = (write(seed_of(prompt), tokens, None, as_json) for _ in range(2))
    assert one == two
    assert one.whole
    assert len(one.tokens) == tokens
    assert not as_json or isinstance(json.loads(str(one)), dict)
