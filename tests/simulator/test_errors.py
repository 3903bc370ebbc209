"""Error responses to invalid requests."""

import pytest

from tests.support.simulator import CHAT_BODY, Simulator, build_request


@pytest.mark.parametrize("target", ["/v1/models", "/v1/models/m", "/v1/files", "/simulator/stats"])
async def test_head_works_wherever_get_does(simulator: Simulator, target: str) -> None:
    get, head = [await simulator.send(build_request(method, target)) for method in ("GET", "HEAD")]
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
async def test_invalid_request_heads_are_rejected(
    simulator: Simulator, raw: bytes, status: int, code: str | None
) -> None:
    response = await simulator.send(raw + b"Host: simulator\r\nConnection: close\r\n\r\n")
    assert (response.status, response.error["code"]) == (status, code)
    assert response.error["type"] == "invalid_request_error"
    assert "x-request-id" in response.headers


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
async def test_bad_body_returns_400(simulator: Simulator, path: str, body: bytes) -> None:
    response = await simulator.post(path, body)
    assert (response.status, response.error["type"]) == (400, "invalid_request_error")


CHAT_FIELDS = ("model", "messages", "max_tokens", "max_completion_tokens", "n", "stream", "user")
UNEXPECTED_VALUES: list[object] = [
    True,
    -1,
    0,
    10**30,
    1.5,
    [],
    [1],
    {},
    {"type": 1},
    "",
    "\x00",
    [[[]]],
]


@pytest.mark.parametrize(
    ("path", "good", "fields"),
    [
        ("/chat/completions", CHAT_BODY, (*CHAT_FIELDS, "response_format", "stream_options")),
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
async def test_unexpected_field_values_never_cause_a_500(
    simulator: Simulator, path: str, good: dict[str, object], fields: tuple[str, ...]
) -> None:
    for field in fields:
        for value in UNEXPECTED_VALUES:
            response = await simulator.post(path, good | {field: value})
            assert response.status in (200, 400, 429), (field, value)
            assert response.complete


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
async def test_error_names_the_bad_parameter(
    simulator: Simulator, change: dict[str, object], param: str
) -> None:
    response = await simulator.post("/chat/completions", CHAT_BODY | change)
    assert (response.status, response.error["param"]) == (400, param)


async def test_wrong_content_encoding_returns_400(simulator: Simulator) -> None:
    response = await simulator.post("/chat/completions", b"plain", **{"Content-Encoding": "gzip"})
    assert response.status == 400
