"""The `x-ratelimit-*` headers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from rustygate.core.rate_limit_headers import (
    MAX_QUOTA,
    NO_UPDATE,
    Quota,
    RateLimitUpdate,
    read_rate_limits,
)
from tests.support.rate_limit_headers import NAMES, headers_of, quota_headers


def test_reads_both_quotas() -> None:
    headers = headers_of(
        **quota_headers("requests", "10000", "9999", "6ms"),
        **quota_headers("tokens", "30000000", "29999000", "2m0s"),
    )
    assert read_rate_limits(headers) == RateLimitUpdate(
        Quota(10_000, 9_999), Quota(30_000_000, 29_999_000)
    )


@pytest.mark.parametrize("kind", ["requests", "tokens"])
@pytest.mark.parametrize(
    ("limit", "remaining", "reset", "quota"),
    [
        ("10", "0", "1s", Quota(10, 0)),
        ("10", "11", "1s", Quota(10, 10)),
        ("10", "-1", "1s", Quota(10, None)),
        ("10", "many", "soon", Quota(10, None)),
        ("10", "", "", Quota(10, None)),
        (str(MAX_QUOTA), "1", "1s", Quota(MAX_QUOTA, 1)),
        (str(MAX_QUOTA + 1), "1", "1s", None),
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
def test_reads_one_quota(
    kind: str, limit: str, remaining: str, reset: str, quota: Quota | None
) -> None:
    update = read_rate_limits(headers_of(**quota_headers(kind, limit, remaining, reset)))
    assert update == RateLimitUpdate(**{kind: quota})


def test_no_limit_headers_give_no_update() -> None:
    assert read_rate_limits(headers_of(date="now")) is NO_UPDATE
    assert read_rate_limits(headers_of(x_ratelimit_remaining_tokens="5")) is NO_UPDATE


@given(st.dictionaries(st.sampled_from(NAMES), st.text() | st.integers().map(str)))
def test_any_headers_give_plausible_quotas(headers: dict[str, str]) -> None:
    update = read_rate_limits(CIMultiDict(headers))
    for quota in (update.requests, update.tokens):
        if quota is not None:
            assert 0 < quota.limit <= MAX_QUOTA
            assert quota.remaining is None or 0 <= quota.remaining <= quota.limit
