"""What a 429 or 503 from upstream means."""

import gzip
import json
import zlib
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from rustygate.core.bucket import SECOND
from rustygate.core.durations import MS
from rustygate.core.verdict import (
    DEFAULT_PAUSE,
    MAX_ERROR_SIZE,
    MAX_PAUSE,
    MIN_PAUSE,
    PASS,
    Action,
    Verdict,
    judge,
)
from tests.support.rate_limit_headers import NAMES, headers_of, quota_headers

NOW_S = 1_760_000_000
PAUSE = Verdict(Action.PAUSE, DEFAULT_PAUSE)
SLOW = Verdict(Action.SLOW, DEFAULT_PAUSE)

RATE_LIMITED = (
    "Rate limit reached for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, "
    "Used 29000, Requested 2000. Please try again in 2s."
)
TOO_LARGE = (
    "Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, "
    "Requested 40000. The input or output tokens must be reduced in order to run successfully."
)


def error(**fields: Any) -> bytes:
    return json.dumps({"error": {"message": "", "param": None} | fields}).encode()


def verdict_on(status: int, body: bytes = b"", **headers: str) -> Verdict:
    return judge(status, headers_of(**headers), body, NOW_S * SECOND)


def pause_of(body: bytes = b"", **headers: str) -> int:
    """How long the lane pauses after a 429."""
    verdict = verdict_on(429, body, **headers)
    assert verdict.action is Action.PAUSE
    return verdict.wait_ns


@pytest.mark.parametrize(
    ("status", "fields", "expected"),
    [
        pytest.param(429, {"code": "rate_limit_exceeded", "type": "tokens"}, PAUSE, id="limited"),
        pytest.param(429, {"code": None, "type": "requests"}, PAUSE, id="limited-no-code"),
        pytest.param(429, {"code": 429, "type": "throttled"}, PAUSE, id="limited-other-codes"),
        pytest.param(429, {"code": {}, "type": []}, PAUSE, id="limited-no-codes"),
        pytest.param(
            429,
            {"code": "rate_limit_exceeded", "message": RATE_LIMITED},
            PAUSE,
            id="fits-later",
        ),
        pytest.param(
            429, {"code": "rate_limit_exceeded", "message": TOO_LARGE}, PASS, id="too-large"
        ),
        pytest.param(
            429, {"message": "Request too large for m."}, PASS, id="too-large-message-only"
        ),
        pytest.param(
            429,
            {"message": "Limit 6,000, Used 5,000, Requested 6,001."},
            PASS,
            id="too-large-used",
        ),
        pytest.param(429, {"message": "Limit 10, Requested 10."}, PAUSE, id="just-fits"),
        pytest.param(429, {"message": "Limit ,, Requested ,"}, PAUSE, id="no-numbers"),
        pytest.param(429, {"message": 5}, PAUSE, id="no-message"),
        pytest.param(429, {"code": "slow_down"}, SLOW, id="slow-down"),
        pytest.param(503, {"code": "server_is_overloaded"}, SLOW, id="overloaded"),
        pytest.param(503, {"code": None, "type": "server_is_overloaded"}, SLOW, id="by-type"),
        pytest.param(503, {"code": "503", "type": "slow_down"}, SLOW, id="503-slow-down"),
        pytest.param(429, {"code": "insufficient_quota"}, PASS, id="quota"),
        pytest.param(429, {"code": None, "type": "insufficient_quota"}, PASS, id="quota-by-type"),
        pytest.param(429, {"code": "project_spend_limit_exceeded"}, PASS, id="project-spent"),
        pytest.param(429, {"code": "organization_spend_limit_exceeded"}, PASS, id="org-spent"),
        pytest.param(429, {"code": "credit_balance_exhausted"}, PASS, id="no-credit"),
        pytest.param(429, {"code": "organization_usage_limit_exceeded"}, PASS, id="org-limit"),
        pytest.param(503, {"code": None, "type": "server_error"}, PASS, id="plain-503"),
        pytest.param(500, {"code": "server_is_overloaded"}, PASS, id="500"),
        pytest.param(502, {}, PASS, id="502"),
        pytest.param(504, {}, PASS, id="504"),
        pytest.param(400, {"code": "rate_limit_exceeded"}, PASS, id="other-4xx"),
        pytest.param(200, {"code": "slow_down"}, PASS, id="success"),
    ],
)
def test_verdicts(status: int, fields: dict[str, Any], expected: Verdict) -> None:
    assert verdict_on(status, error(**fields)) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"Too many requests",
        b"[]",
        b'{"error":null}',
        b'{"error":"rate limit"}',
        b'{"error":{"code":"insufficient_quota"',
        b'{"error":{"code":"\\ud800"}}',
        b'{"error":{"code":' + b"9" * 5000 + b"}}",
        b'{"error":{"code":' + b"[" * 50_000,
        b'[{"error":{"code":429,"status":"RESOURCE_EXHAUSTED"}}]',
    ],
    ids=lambda body: repr(body)[:30],
)
def test_unreadable_429_is_a_rate_limit_and_503_is_passed_on(body: bytes) -> None:
    assert verdict_on(429, body) == PAUSE
    assert verdict_on(503, body) == PASS


LIMITED = error(code="rate_limit_exceeded", type="tokens")
REQUESTS_SPENT = quota_headers("requests", "10", "0", "6s")
TOKENS_SPENT = quota_headers("tokens", "1000", "0", "9s")
TOKENS_LEFT = quota_headers("tokens", "1000", "7", "9s")


@pytest.mark.parametrize(
    ("headers", "wait_ns"),
    [
        pytest.param({"retry_after_ms": "1500", "retry_after": "9"}, 1500 * MS, id="ms-first"),
        pytest.param({"retry_after_ms": "0.5"}, MIN_PAUSE, id="not-below-the-minimum"),
        pytest.param({"retry_after_ms": "soon", "retry_after": "9"}, 9 * SECOND, id="unreadable"),
        pytest.param({"retry_after": "2.5"}, 2500 * MS, id="fraction"),
        pytest.param({"retry_after": "0"}, MIN_PAUSE, id="at-once"),
        pytest.param({"retry_after": "86400"}, MAX_PAUSE, id="tomorrow"),
        pytest.param({"retry_after": formatdate(NOW_S + 7, usegmt=True)}, 7 * SECOND, id="date"),
        pytest.param({"retry_after": formatdate(NOW_S - 7, usegmt=True)}, MIN_PAUSE, id="past"),
        pytest.param(
            {"retry_after": "Thu, 09 Oct 2025 08:53:25 -0000"}, 5 * SECOND, id="no-time-zone"
        ),
        pytest.param({"retry_after": "Thu, 09 Oct 9999 08:53:25 GMT"}, MAX_PAUSE, id="y9999"),
        pytest.param({"retry_after": "-5"}, DEFAULT_PAUSE, id="negative"),
        pytest.param({"retry_after": "inf"}, DEFAULT_PAUSE, id="inf"),
        pytest.param({"retry_after": "Thu, 99 Foo 2025"}, DEFAULT_PAUSE, id="no-date"),
        pytest.param({"retry_after": "9" * 5000}, DEFAULT_PAUSE, id="digits"),
        pytest.param(
            {"retry_after": "9", **REQUESTS_SPENT}, 9 * SECOND, id="retry-after-before-reset"
        ),
        pytest.param(REQUESTS_SPENT, 6 * SECOND, id="reset-of-requests"),
        pytest.param(REQUESTS_SPENT | TOKENS_SPENT, 9 * SECOND, id="later-of-two-resets"),
        pytest.param(TOKENS_LEFT, DEFAULT_PAUSE, id="none-exhausted"),
        pytest.param(quota_headers("tokens", "9", "0", "1h0m0s"), MAX_PAUSE, id="long-reset"),
        pytest.param(quota_headers("tokens", "9", "0", "soon"), DEFAULT_PAUSE, id="odd-reset"),
        pytest.param({}, DEFAULT_PAUSE, id="no-headers"),
    ],
)
def test_pauses(headers: dict[str, str], wait_ns: int) -> None:
    assert pause_of(error(code="rate_limit_exceeded"), **headers) == wait_ns


def test_error_type_names_the_exhausted_quota() -> None:
    assert pause_of(LIMITED, **TOKENS_LEFT) == 9 * SECOND


def test_slow_down_waits_for_retry_after() -> None:
    verdict = verdict_on(503, error(code="slow_down"), retry_after="3")
    assert verdict == Verdict(Action.SLOW, 3 * SECOND)


@pytest.mark.parametrize(
    ("encoding", "encode"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
def test_compressed_errors_are_read(encoding: str, encode: Any) -> None:
    body = encode(error(code="insufficient_quota"))
    assert verdict_on(429, body, content_encoding=encoding) == PASS
    assert verdict_on(429, body[:-20], content_encoding=encoding) == PAUSE
    assert verdict_on(429, error(code="insufficient_quota"), content_encoding=encoding) == PAUSE
    bomb = encode(error(code="insufficient_quota", message="x" * 10_000_000))
    assert verdict_on(429, bomb, content_encoding=encoding) == PASS


def test_error_too_long_to_be_read_is_passed_on() -> None:
    body = error(code="rate_limit_exceeded", message="x")
    assert verdict_on(429, body + b" " * (MAX_ERROR_SIZE - len(body))) == PAUSE
    assert verdict_on(429, body + b" " * (MAX_ERROR_SIZE - len(body) + 1)) == PASS


codes = st.none() | st.text() | st.sampled_from(["slow_down", "requests", "insufficient_quota"])


@given(
    st.sampled_from([429, 503]),
    st.binary() | st.builds(error, code=codes, type=codes, message=st.text()),
    st.dictionaries(
        st.sampled_from(["Retry-After", "retry-after-ms", "Content-Encoding", *NAMES]), st.text()
    ),
)
def test_any_response_has_a_verdict_with_a_bounded_pause(
    status: int, body: bytes, headers: dict[str, str]
) -> None:
    verdict = judge(status, CIMultiDict(headers), body, NOW_S * SECOND)
    if verdict.action is Action.PASS:
        assert verdict.wait_ns == 0
    else:
        assert MIN_PAUSE <= verdict.wait_ns <= MAX_PAUSE
