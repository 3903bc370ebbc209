"""What upstream says of its quotas, and what a refusal of it means."""

import gzip
import json
import zlib
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from rustygate.core.bucket import MINUTE, SECOND
from rustygate.core.rate_limits import (
    DEFAULT_PAUSE,
    DURATION_LIMIT,
    ERROR_BYTES,
    LONGEST_PAUSE,
    MS,
    NO_UPDATE,
    PASS,
    QUOTA_LIMIT,
    SHORTEST_PAUSE,
    Action,
    Quota,
    RateLimitUpdate,
    Verdict,
    go_duration,
    read_rate_limits,
    verdict,
)

HOUR = 60 * MINUTE
NOW_S = 1_760_000_000
NAMES = [f"X-RateLimit-{what}-{kind}" for what in ("Limit", "Remaining", "Reset")
         for kind in ("Requests", "Tokens")]  # fmt: skip
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


def headers_of(**headers: str) -> CIMultiDictProxy[str]:
    """Headers as aiohttp gives them; `retry_after` is `Retry-After`."""
    named = {name.replace("_", "-").title(): value for name, value in headers.items()}
    return CIMultiDictProxy(CIMultiDict(named))


def quota_headers(kind: str, limit: str, remaining: str, reset: str) -> dict[str, str]:
    return {
        f"x_ratelimit_limit_{kind}": limit,
        f"x_ratelimit_remaining_{kind}": remaining,
        f"x_ratelimit_reset_{kind}": reset,
    }


def error(**fields: Any) -> bytes:
    return json.dumps({"error": {"message": "", "param": None} | fields}).encode()


def judge(status: int, body: bytes = b"", **headers: str) -> Verdict:
    return verdict(status, headers_of(**headers), body, NOW_S * SECOND)


def pause_of(body: bytes = b"", **headers: str) -> int:
    """How long the lane pauses after a 429."""
    judged = judge(429, body, **headers)
    assert judged.action is Action.PAUSE
    return judged.wait_ns


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("6ms", 6 * MS),
        ("1s", SECOND),
        ("6m0s", 6 * MINUTE),
        ("1h2m3.5s", HOUR + 2 * MINUTE + 3 * SECOND + 500 * MS),
        ("1h0m0s", HOUR),
        ("1.5s", 1500 * MS),
        ("500us", 500_000),
        ("1.5\u00b5s", 1500),
        ("1.5\u03bcs", 1500),
        ("7ns", 7),
        ("0s", 0),
        ("2m59.56s", 2 * MINUTE + 59_560 * MS),
        ("6m", 6 * MINUTE),
        ("2h", 2 * HOUR),
        ("20", 20 * SECOND),
        ("1.25", 1250 * MS),
        ("1.s", SECOND),
        ("0.123456789012s", 123_456_789),
        ("24h0m0s", 24 * HOUR),
        ("768h", DURATION_LIMIT),
        ("768h0m0.001s", None),
        ("999999999999s", None),
        ("9" * 5000, None),
        ("1m30", None),
        ("-1s", None),
        ("+1s", None),
        ("-1", None),
        ("1e3", None),
        ("nan", None),
        ("s", None),
        (".5s", None),
        ("1s1m", None),
        ("1 s", None),
        ("1d", None),
        ("\u0661s", None),
        ("", None),
    ],
    ids=lambda value: str(value)[:20],
)
def test_durations(text: str, ns: int | None) -> None:
    assert go_duration(text) == ns


@given(st.integers(0, DURATION_LIMIT // SECOND), st.integers(0, 999_999_999))
def test_what_go_writes_is_read_exactly(seconds: int, ns: int) -> None:
    hours, minutes = seconds // 3600, seconds // 60 % 60
    written = f"{hours}h{minutes}m{seconds % 60}.{ns:09}s"
    expected = seconds * SECOND + ns
    assert go_duration(written) == (expected if expected <= DURATION_LIMIT else None)


@given(st.text(alphabet="0123456789.hmsunµ-", max_size=30) | st.text())
def test_any_text_is_a_duration_or_none(text: str) -> None:
    ns = go_duration(text)
    assert ns is None or 0 <= ns <= DURATION_LIMIT


def test_news_of_both_quotas() -> None:
    headers = headers_of(
        **quota_headers("requests", "10000", "9999", "6ms"),
        **quota_headers("tokens", "30000000", "29999000", "2m0s"),
    )
    assert read_rate_limits(headers) == RateLimitUpdate(
        Quota(10_000, 9_999, "6ms"), Quota(30_000_000, 29_999_000, "2m0s")
    )


@pytest.mark.parametrize("kind", ["requests", "tokens"])
@pytest.mark.parametrize(
    ("limit", "remaining", "reset", "quota"),
    [
        ("10", "0", "1s", Quota(10, 0, "1s")),
        ("10", "11", "1s", Quota(10, 10, "1s")),
        ("10", "-1", "1s", Quota(10, None, "1s")),
        ("10", "many", "soon", Quota(10, None, "soon")),
        ("10", "", "", Quota(10, None, "")),
        (str(QUOTA_LIMIT), "1", "1s", Quota(QUOTA_LIMIT, 1, "1s")),
        (str(QUOTA_LIMIT + 1), "1", "1s", None),
        ("9" * 5000, "1", "1s", None),
        ("0", "0", "1s", None),
        ("-5", "0", "1s", None),
        ("1e3", "0", "1s", None),
        ("1_0", "0", "1s", None),
        ("\u0661", "0", "1s", None),
        ("\u00b2", "0", "1s", None),
        ("", "0", "1s", None),
    ],
    ids=lambda value: str(value)[:20],
)
def test_news_of_one_quota(
    kind: str, limit: str, remaining: str, reset: str, quota: Quota | None
) -> None:
    news = read_rate_limits(headers_of(**quota_headers(kind, limit, remaining, reset)))
    assert news == RateLimitUpdate(**{kind: quota})


def test_no_headers_are_no_news() -> None:
    assert read_rate_limits(headers_of(date="now")) is NO_UPDATE
    assert read_rate_limits(headers_of(x_ratelimit_remaining_tokens="5")) is NO_UPDATE


@given(st.dictionaries(st.sampled_from(NAMES), st.text() | st.integers().map(str)))
def test_any_headers_give_news_that_make_sense(headers: dict[str, str]) -> None:
    news = read_rate_limits(CIMultiDict(headers))
    for quota in (news.requests, news.tokens):
        if quota is not None:
            assert 0 < quota.limit <= QUOTA_LIMIT
            assert quota.remaining is None or 0 <= quota.remaining <= quota.limit
            assert quota.reset_ns is None or quota.reset_ns >= 0


@pytest.mark.parametrize(
    ("status", "fields", "expected"),
    [
        pytest.param(429, {"code": "rate_limit_exceeded", "type": "tokens"}, PAUSE, id="limited"),
        pytest.param(429, {"code": None, "type": "requests"}, PAUSE, id="limited-no-code"),
        pytest.param(429, {"code": 429, "type": "throttled"}, PAUSE, id="limited-other-words"),
        pytest.param(429, {"code": {}, "type": []}, PAUSE, id="limited-no-words"),
        pytest.param(
            429,
            {"code": "rate_limit_exceeded", "message": RATE_LIMITED},
            PAUSE,
            id="has-room-later",
        ),
        pytest.param(
            429, {"code": "rate_limit_exceeded", "message": TOO_LARGE}, PASS, id="too-large"
        ),
        pytest.param(429, {"message": "Request too large for m."}, PASS, id="too-large-in-words"),
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
    assert judge(status, error(**fields)) == expected


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
        error(code="insufficient_quota", message="x" * ERROR_BYTES),
    ],
    ids=lambda body: repr(body)[:30],
)
def test_429_that_cannot_be_read_is_a_rate_limit_and_503_is_plain(body: bytes) -> None:
    assert judge(429, body) == PAUSE
    assert judge(503, body) == PASS


LIMITED = error(code="rate_limit_exceeded", type="tokens")
REQUESTS_SPENT = quota_headers("requests", "10", "0", "6s")
TOKENS_SPENT = quota_headers("tokens", "1000", "0", "9s")
TOKENS_LEFT = quota_headers("tokens", "1000", "7", "9s")


@pytest.mark.parametrize(
    ("headers", "wait_ns"),
    [
        pytest.param({"retry_after_ms": "1500", "retry_after": "9"}, 1500 * MS, id="ms-first"),
        pytest.param({"retry_after_ms": "0.5"}, SHORTEST_PAUSE, id="not-less-than-the-least"),
        pytest.param({"retry_after_ms": "soon", "retry_after": "9"}, 9 * SECOND, id="unreadable"),
        pytest.param({"retry_after": "2.5"}, 2500 * MS, id="fraction"),
        pytest.param({"retry_after": "0"}, SHORTEST_PAUSE, id="at-once"),
        pytest.param({"retry_after": "86400"}, LONGEST_PAUSE, id="tomorrow"),
        pytest.param({"retry_after": formatdate(NOW_S + 7, usegmt=True)}, 7 * SECOND, id="date"),
        pytest.param(
            {"retry_after": formatdate(NOW_S - 7, usegmt=True)}, SHORTEST_PAUSE, id="past"
        ),
        pytest.param({"retry_after": "Thu, 09 Oct 2025 08:53:25 -0000"}, 5 * SECOND, id="no-zone"),
        pytest.param({"retry_after": "Thu, 09 Oct 9999 08:53:25 GMT"}, LONGEST_PAUSE, id="y9999"),
        pytest.param({"retry_after": "-5"}, DEFAULT_PAUSE, id="negative"),
        pytest.param({"retry_after": "inf"}, DEFAULT_PAUSE, id="inf"),
        pytest.param({"retry_after": "Thu, 99 Foo 2025"}, DEFAULT_PAUSE, id="no-date"),
        pytest.param({"retry_after": "9" * 5000}, DEFAULT_PAUSE, id="digits"),
        pytest.param({"retry_after": "9", **REQUESTS_SPENT}, 9 * SECOND, id="before-the-reset"),
        pytest.param(REQUESTS_SPENT, 6 * SECOND, id="reset-of-requests"),
        pytest.param(REQUESTS_SPENT | TOKENS_SPENT, 9 * SECOND, id="both-must-be-there"),
        pytest.param(TOKENS_LEFT, DEFAULT_PAUSE, id="none-exhausted"),
        pytest.param(quota_headers("tokens", "9", "0", "1h0m0s"), LONGEST_PAUSE, id="long-reset"),
        pytest.param(quota_headers("tokens", "9", "0", "soon"), DEFAULT_PAUSE, id="odd-reset"),
        pytest.param({}, DEFAULT_PAUSE, id="nothing-said"),
    ],
)
def test_pauses(headers: dict[str, str], wait_ns: int) -> None:
    assert pause_of(error(code="rate_limit_exceeded"), **headers) == wait_ns


def test_error_names_the_quota_that_is_exhausted() -> None:
    assert pause_of(LIMITED, **TOKENS_LEFT) == 9 * SECOND


def test_slow_down_waits_as_long_as_it_is_told() -> None:
    judged = judge(503, error(code="slow_down"), retry_after="3")
    assert judged == Verdict(Action.SLOW, 3 * SECOND)


@pytest.mark.parametrize(
    ("encoding", "encode"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
def test_encoded_errors_are_read(encoding: str, encode: Any) -> None:
    body = encode(error(code="insufficient_quota"))
    assert judge(429, body, content_encoding=encoding) == PASS
    assert judge(429, body[:-20], content_encoding=encoding) == PAUSE
    assert judge(429, error(code="insufficient_quota"), content_encoding=encoding) == PAUSE
    bomb = encode(error(code="insufficient_quota", message="x" * 10_000_000))
    assert judge(429, bomb, content_encoding=encoding) == PAUSE


words = st.none() | st.text() | st.sampled_from(["slow_down", "requests", "insufficient_quota"])


@given(
    st.sampled_from([429, 503]),
    st.binary() | st.builds(error, code=words, type=words, message=st.text()),
    st.dictionaries(
        st.sampled_from(["Retry-After", "retry-after-ms", "Content-Encoding", *NAMES]), st.text()
    ),
)
def test_any_answer_has_a_verdict_whose_pause_ends(
    status: int, body: bytes, headers: dict[str, str]
) -> None:
    judged = verdict(status, CIMultiDict(headers), body, NOW_S * SECOND)
    if judged.action is Action.PASS:
        assert judged.wait_ns == 0
    else:
        assert SHORTEST_PAUSE <= judged.wait_ns <= LONGEST_PAUSE
