"""Which requests without a model share a lane."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.lane_key import endpoint_key


@pytest.mark.parametrize(
    ("method", "path", "key"),
    [
        ("GET", "/v1/models", "GET /v1/models"),
        ("GET", "/v1/models/", "GET /v1/models"),
        ("GET", "/v1/models/gpt-4o", "GET /v1/models/*"),
        ("HEAD", "/v1/models", "HEAD /v1/models"),
        ("GET", "/v1/batches/x", "GET /v1/batches/*"),
        ("POST", "/v1/batches/batch_1/cancel", "POST /v1/batches/*/cancel"),
        ("POST", "/v1/threads/thread_1/runs", "POST /v1/threads/*/runs"),
        ("GET", "/v1/threads/t/runs/r/steps/s", "GET /v1/threads/*/runs/*/steps/*"),
        ("GET", "/v1/a/b/c/d/e/f/g/h/i", "GET /v1/a/*/*/*/*/*"),
        ("POST", "/v1/images/edits", "POST /v1/images/edits"),
        ("POST", "/v1/files", "POST /v1/files"),
        ("DELETE", "/v1/files/file-1", "DELETE /v1/files/*"),
        ("POST", "/v1/text-to-speech/voice-1/stream", "POST /v1/text-to-speech/*/stream"),
        ("POST", "/v1/ocr", "POST /v1/ocr"),
        ("POST", "/v1/0123", "POST /v1/*"),
        ("POST", "/v1/" + "x" * 33, "POST /v1/*"),
        ("POST", "/v1/\u0434/%41", "POST /v1/*/*"),
        ("INVENTED", "/v1/models", "* /v1/models"),
        ("GET", "/v1/", "GET /v1/*"),
        ("GET", "/v1//models", "GET /v1/*/models"),
    ],
)
def test_endpoint_keys(method: str, path: str, key: str) -> None:
    assert endpoint_key(method, path) == key


@given(st.text(), st.text())
def test_keys_are_short_and_printable(method: str, path: str) -> None:
    key = endpoint_key(method, "/v1/" + path)
    assert len(key) < 200
    assert key.isascii()
    assert key.isprintable()
