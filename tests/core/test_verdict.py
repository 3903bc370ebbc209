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
    judge_event,
)
from tests.support.rate_limit_headers import NAMES, headers_of, quota_headers

NOW_S = 1_760_000_000
PAUSE = Verdict(Action.PAUSE, DEFAULT_PAUSE, guessed=True)
SLOW = Verdict(Action.SLOW, DEFAULT_PAUSE, guessed=True)

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
    return verdict.pause_ns


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
            Verdict(Action.PAUSE, 2 * SECOND),
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
        pytest.param(429, {"type": "usage_limit_reached"}, PASS, id="usage-limit"),
        pytest.param(429, {"code": "billing_not_active"}, PASS, id="billing"),
        pytest.param(429, {"code": "billing_hard_limit_reached"}, PASS, id="billing-limit"),
        pytest.param(429, {"code": "overbilling_x"}, PAUSE, id="not-billing"),
        pytest.param(429, {"code": "INSUFFICIENT_QUOTA"}, PASS, id="quota-upper-case"),
        pytest.param(429, {"code": "Billing_Not_Active"}, PASS, id="billing-mixed-case"),
        pytest.param(429, {"message": "Insufficient credits"}, PASS, id="credits"),
        pytest.param(429, {"message": "Insufficient balance or no resource"}, PASS, id="balance"),
        pytest.param(429, {"message": "Your credit balance is too low"}, PASS, id="low-balance"),
        pytest.param(429, {"message": "Not enough capacity, credits"}, PAUSE, id="capacity"),
        pytest.param(
            429,
            {"message": "You exceeded your current quota, please check your plan and billing"},
            PASS,
            id="billing-in-words",
        ),
        pytest.param(
            429,
            {"message": "Quota: please check your plan and billing details. Retry in 2s"},
            Verdict(Action.PAUSE, 2 * SECOND),
            id="billing-in-words-with-a-wait",
        ),
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
        pytest.param({"retry_after": "0"}, DEFAULT_PAUSE, id="zero"),
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
        assert MIN_PAUSE <= verdict.pause_ns <= MAX_PAUSE
        assert verdict.wait_ns >= verdict.pause_ns


GEMINI_PER_DAY = {
    "code": 429,
    "message": "You exceeded your current quota, please check your plan. Please retry in 34.07s.",
    "status": "RESOURCE_EXHAUSTED",
    "details": [
        {
            "@type": "type.googleapis.com/google.rpc.QuotaFailure",
            "violations": [
                {"quotaId": "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"},
                {"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"},
            ],
        },
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34s"},
    ],
}
GEMINI_PER_MINUTE: dict[str, Any] = GEMINI_PER_DAY | {
    "details": [
        {"violations": [{"quotaId": "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"}]},
        {"retryDelay": "5s"},
    ]
}


@pytest.mark.parametrize(
    "body",
    [
        {
            "error": {
                "code": "rate_limit_exceeded",
                "message": "Rate limit reached for gpt-4o on requests per day (RPD): Limit 200, "
                "Used 200, Requested 1. Please try again in 7m12s.",
            }
        },
        {"error": {"message": "Limit reached on tokens per day (TPD). Try again in 1.5s."}},
        {"error": {"message": "Rate limit exceeded: free-models-per-day. Add 10 credits"}},
        {"error": {"message": "Daily token limit exceeded"}},
        {"error": {"message": "Exceeded 200 requests/day"}},
        {"error": {"message": "The limit is 200 requests a day, try again in 2s"}},
        {"error": {"message": "Too many messages per 24 hours"}},
        {"error": {"message": "5 requests per 1 day"}},
        {"errors": [{"message": "you have used up your daily free allocation", "code": 3036}]},
        {"error": {"message": "You have reached your monthly quota."}},
        {"detail": "Quota of requests per day reached"},
        {"error": GEMINI_PER_DAY},
        [{"error": GEMINI_PER_DAY}],
    ],
    ids=lambda body: repr(body)[:60],
)
@pytest.mark.parametrize("headers", [{}, {"retry_after": "2"}], ids=["plain", "retry-after"])
def test_limits_of_long_periods_are_passed_on(body: object, headers: dict[str, str]) -> None:
    assert verdict_on(429, json.dumps(body).encode(), **headers) == PASS


@pytest.mark.parametrize(
    "message",
    [
        "Rate limit reached on tokens per minute (TPM). Need more? Upgrade to Dev Tier today",
        "See https://example.com/limits/day-pass",
        "The daily build is busy",
        "10 requests per 10 seconds",
        "Limit 3 / min",
    ],
)
def test_words_about_periods_are_not_limits_of_long_periods(message: str) -> None:
    assert verdict_on(429, error(message=message)) == PAUSE


def test_should_not_retry_is_passed_on() -> None:
    body = error(code="rate_limit_exceeded")
    assert verdict_on(429, body, x_should_retry="False") == PASS
    assert verdict_on(429, body, x_should_retry="false", retry_after="1") == PASS
    assert verdict_on(503, error(code="slow_down"), x_should_retry="false") == PASS
    assert verdict_on(429, body, x_should_retry="true") == PAUSE


@pytest.mark.parametrize(
    ("body", "wait_ns"),
    [
        ({"message": "Please try again in 5.000s."}, 5 * SECOND),
        ({"message": "Please try again in 1m30s. Visit https://x/1"}, 90 * SECOND),
        ({"message": "Please try again in 120ms"}, 120 * MS),
        ({"message": "Try again in 6m0s"}, 360 * SECOND),
        ({"message": "Please retry after 5 seconds."}, 5 * SECOND),
        ({"message": "Please retry your requests after 6 seconds."}, 6 * SECOND),
        ({"message": "Too many requests, wait 20 seconds please"}, 20 * SECOND),
        ({"message": "Too many requests. Wait for 1 minute and 5 secs"}, 65 * SECOND),
        ({"message": "Please retry in 3.2s"}, 3200 * MS),
        ({"message": "Limit resets in: 59 seconds"}, 59 * SECOND),
        ({"message": "Please try again 30 seconds later"}, 30 * SECOND),
        ({"message": "Retry after 7"}, 7 * SECOND),
        ({"message": "Try again at 2025-10-09T08:53:25Z."}, 5 * SECOND),
        ({"message": "Please try again in 0s"}, DEFAULT_PAUSE),
        ({"message": "retry 3 times, 5 seconds is the limit of 10 requests"}, DEFAULT_PAUSE),
        ({"message": "Try again in ~5 seconds"}, 5 * SECOND),
        ({"message": "Please try again in about 2h3m"}, 7380 * SECOND),
        ({"message": "Capacity is available again in 12 seconds"}, 12 * SECOND),
        ({"message": "Cooldown: 8s"}, 8 * SECOND),
        ({"message": "try again in 5s, at most in 10s"}, 5 * SECOND),
        ({"message": "try again in -5s"}, DEFAULT_PAUSE),
        ({"message": "try again in NaN seconds"}, DEFAULT_PAUSE),
        ({"message": "Try again in 5 apples"}, DEFAULT_PAUSE),
        ({"message": "Try again in 99999999999999 hours"}, DEFAULT_PAUSE),
        ({"retry_after": 5}, 5 * SECOND),
        ({"retry_after": 2.5}, 2500 * MS),
        ({"retry_after": 1e300}, DEFAULT_PAUSE),
        ({"retry_after": "soon", "message": "try again in 3s"}, 3 * SECOND),
        ({"reset_time": NOW_S + 9}, 9 * SECOND),
        ({"reset_after": 9}, 9 * SECOND),
        ({"retry_after": "4s"}, 4 * SECOND),
        ({"retryAfterMs": 300}, 300 * MS),
        ({"retry_after": True}, DEFAULT_PAUSE),
        ({"retry_after": -5}, DEFAULT_PAUSE),
        ({"retry_after": {"in": 5}}, DEFAULT_PAUSE),
        ({"metadata": {"headers": {"X-RateLimit-Reset": f"{NOW_S + 8}000"}}}, 8 * SECOND),
        (GEMINI_PER_MINUTE, 5 * SECOND),
        ({"details": [5, {"violations": [5, {}]}, {"retryDelay": None}]}, DEFAULT_PAUSE),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_hints_in_bodies(body: dict[str, Any], wait_ns: int) -> None:
    for shape in ({"error": body}, [{"error": body}], body):
        assert verdict_on(429, json.dumps(shape).encode()).wait_ns == wait_ns


@pytest.mark.parametrize(
    ("body", "wait_ns"),
    [
        (b'{"error": "rate limited", "retry_after": 3}', 3 * SECOND),
        (b'{"detail": "Rate limit exceeded, retry in 4 s"}', 4 * SECOND),
        (b'"Try again in 6s"', 6 * SECOND),
        (b"Too many requests, try again in 5 seconds", 5 * SECOND),
        (b'{"error": 5, "message": "try again in 2s"}', 2 * SECOND),
        (b'{"errors": [{"message": "try again in 3s"}, {}]}', 3 * SECOND),
        (b'{"error": ["try again in 4s"]}', 4 * SECOND),
        (b'{"error": [], "message": "try again in 2s"}', 2 * SECOND),
    ],
)
def test_hints_in_other_shapes(body: bytes, wait_ns: int) -> None:
    assert pause_of(body) == wait_ns


@pytest.mark.parametrize(
    ("reset", "wait_ns"),
    [
        ("2025-10-09T08:53:25Z", 5 * SECOND),
        (str(NOW_S + 5), 5 * SECOND),
        (f"{NOW_S + 5}000", 5 * SECOND),
        ("5", 5 * SECOND),
        ("5s", 5 * SECOND),
        ("59.5 seconds", 59_500 * MS),
        (str(NOW_S - 5), DEFAULT_PAUSE),
        ("0s", DEFAULT_PAUSE),
    ],
)
def test_resets_in_every_form(reset: str, wait_ns: int) -> None:
    assert pause_of(b"", **quota_headers("requests", "9", "0", reset)) == wait_ns
    assert pause_of(x_ratelimit_reset=reset) == wait_ns
    assert pause_of(ratelimit_reset=reset) == wait_ns
    assert pause_of(x_rate_limit_reset=reset) == wait_ns
    # Without the limit.
    spent = {"x_ratelimit_remaining_tokens": "0", "x_ratelimit_reset_tokens": reset}
    assert pause_of(b"", **spent) == wait_ns
    assert pause_of(error(type="requests"), x_ratelimit_reset_requests=reset) == wait_ns


@pytest.mark.parametrize(
    ("value", "wait_ns"),
    [
        ("limit=100, remaining=0, reset=12", 12 * SECOND),
        ('"default";r=0;t=12', 12 * SECOND),
        ('"default";r=0', DEFAULT_PAUSE),
        ("reset=-1", DEFAULT_PAUSE),
        ("reset=9999999999", DEFAULT_PAUSE),
    ],
)
def test_reset_in_the_ietf_header(value: str, wait_ns: int) -> None:
    assert pause_of(ratelimit=value) == wait_ns


def test_retry_after_goes_before_a_hint_and_the_shorter_of_hint_and_reset_counts() -> None:
    body = error(message="Please try again in 7s")
    assert pause_of(body, retry_after="9") == 9 * SECOND
    assert pause_of(body, **quota_headers("requests", "9", "0", "60s")) == 7 * SECOND
    assert pause_of(body, **quota_headers("requests", "9", "0", "6s")) == 6 * SECOND


def test_wait_is_kept_in_full_and_the_pause_is_bounded() -> None:
    verdict = verdict_on(429, retry_after="86400")
    assert (verdict.wait_ns, verdict.pause_ns) == (86_400 * SECOND, MAX_PAUSE)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"error": {"code": "rate_limit_exceeded", "message": "x"}}, PAUSE),
        ({"error": {"code": 429, "message": "x"}}, PAUSE),
        ({"error": {"type": "tokens", "message": "try again in 3s"}}, 3 * SECOND),
        ({"error": {"type": "rate_limit_error", "retry_after": 4}}, 4 * SECOND),
        ({"error": {"code": "Too_Many_Requests"}}, PAUSE),
        (
            {"type": "error", "code": "rate_limit_exceeded", "message": "try again in 2s"},
            2 * SECOND,
        ),
        ({"type": "error", "error": {"code": "rate_limit_exceeded"}}, PAUSE),
        (
            {
                "type": "response.failed",
                "response": {"status": "failed", "error": {"code": "rate_limit_exceeded"}},
            },
            PAUSE,
        ),
        ({"error": {"code": "server_is_overloaded"}}, SLOW),
        ({"error": {"code": "insufficient_quota"}}, PASS),
        ({"error": {"code": "rate_limit_exceeded", "message": "5 requests per day"}}, PASS),
        ({"error": {"code": "server_error"}}, PASS),
        ({"error": "broken"}, PASS),
        ({"type": "error"}, PASS),
        ({"type": "response.completed", "response": {"error": None}}, None),
        ({"choices": [], "error": None}, None),
        ({"choices": [{"delta": {"content": "rate_limit_exceeded"}}]}, None),
        ([], None),
        ("error", None),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_errors_in_a_stream(event: object, expected: Verdict | int | None) -> None:
    if isinstance(expected, int):
        expected = Verdict(Action.PAUSE, expected)
    assert judge_event(json.dumps(event).encode(), NOW_S * SECOND) == expected


@given(st.binary())
def test_any_event_is_judged(data: bytes) -> None:
    judge_event(data, 0)
    assert judge_event(b"[DONE]", 0) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.sampled_from(["error", "code", "message", "type", "details", "violations", "quotaId",
                         "retryDelay", "metadata", "headers", "retry_after", "response"]), inner
    ),
)  # fmt: skip


@given(json_values)
def test_any_json_is_judged(value: object) -> None:
    body = json.dumps(value).encode()
    assert verdict_on(429, body).wait_ns >= 0
    judge_event(body, 0)
