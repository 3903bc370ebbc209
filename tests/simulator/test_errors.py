"""Errors in OpenAI's shape, for whatever a client sends."""

import pytest

from tests.support.simulator import CHAT, Site, request


@pytest.mark.parametrize("target", ["/v1/models", "/v1/models/m", "/v1/files", "/simulator/stats"])
async def test_head_is_answered_wherever_get_is(site: Site, target: str) -> None:
    get, head = [await site.ask(request(method, target)) for method in ("GET", "HEAD")]
    assert (get.status, head.status, head.body) == (200, 200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


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


async def test_body_that_is_not_of_its_encoding_is_a_400(site: Site) -> None:
    answer = await site.post("/chat/completions", b"plain", **{"Content-Encoding": "gzip"})
    assert answer.status == 400
