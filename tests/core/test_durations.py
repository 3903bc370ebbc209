"""Durations and instants in every form that upstreams write, and `Retry-After`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.bucket import MINUTE, SECOND
from rustygate.core.durations import (
    DAY,
    MAX_DURATION,
    MAX_LENGTH,
    MS,
    parse_duration,
    parse_wait,
    retry_after,
    time_until,
)

HOUR = 60 * MINUTE


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
        ("768h", MAX_DURATION),
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
        (".5s", SECOND // 2),
        (".5", SECOND // 2),
        (".s", None),
        (".", None),
        ("1s1m", None),
        ("1d", 24 * HOUR),
        ("5 s", 5 * SECOND),
        ("5 seconds", 5 * SECOND),
        ("1 minute", MINUTE),
        ("2 minutes and 5 secs", 2 * MINUTE + 5 * SECOND),
        ("1 hr 3 mins", HOUR + 3 * MINUTE),
        ("120 milliseconds", 120 * MS),
        ("5S", 5 * SECOND),
        ("5 apples", None),
        ("33d", None),
        ("5" + " " * 60 + "s", None),
        ("\u0661s", None),
        ("", None),
    ],
    ids=lambda value: str(value)[:20],
)
def test_durations(text: str, ns: int | None) -> None:
    assert parse_duration(text) == ns


@pytest.mark.parametrize(("zeros", "ns"), [(8, MINUTE + SECOND), (9, None)])
def test_durations_are_read_up_to_a_length(zeros: int, ns: int | None) -> None:
    text = f"00000000000001.00000000000000000000m00000000000001.{'0' * zeros}s"
    assert len(text) == MAX_LENGTH + (0 if ns else 1)
    assert parse_duration(text) == ns


@given(st.integers(0, MAX_DURATION // SECOND), st.integers(0, 999_999_999))
def test_durations_written_by_go_are_read_exactly(seconds: int, ns: int) -> None:
    hours, minutes = seconds // 3600, seconds // 60 % 60
    written = f"{hours}h{minutes}m{seconds % 60}.{ns:09}s"
    expected = seconds * SECOND + ns
    assert parse_duration(written) == (expected if expected <= MAX_DURATION else None)


@given(st.text(alphabet="0123456789.hmsunµ-", max_size=30) | st.text())
def test_any_text_is_a_duration_or_none(text: str) -> None:
    ns = parse_duration(text)
    assert ns is None or 0 <= ns <= MAX_DURATION


NOW_S = 1_760_000_000
NOW = NOW_S * SECOND


@pytest.mark.parametrize(
    ("text", "wait"),
    [
        ("2025-10-09T08:53:25Z", 5 * SECOND),
        ("2025-10-09t08:53:25.25z", 5250 * MS),
        ("2025-10-09T10:53:25+02:00", 5 * SECOND),
        ("2025-10-09 08:53:25", 5 * SECOND),
        ("2025-10-09T08:53:25.123456789Z", 5123 * MS),
        ("2025-10-09T08:53:15Z", 0),
        ("Thu, 09 Oct 2025 08:53:25 GMT", 5 * SECOND),
        ("Thursday, 09-Oct-25 08:53:25 GMT", 5 * SECOND),
        ("Thu, 09 Oct 2025 08:53:15 GMT", 0),
        (str(NOW_S + 5), 5 * SECOND),
        (f"{NOW_S + 5}.5", 5500 * MS),
        (f"{NOW_S + 5}250", 5250 * MS),
        (str(NOW_S - 5), 0),
        ("1000000000", 0),
        ("999999999", None),
        ("2025-10-09T99:53:25Z", None),
        ("2025-13-09", None),
        ("99999999999999999", None),
        ("5", None),
        ("soon", None),
        ("", None),
    ],
)
def test_instants(text: str, wait: int | None) -> None:
    assert time_until(text, NOW) == wait


@pytest.mark.parametrize(("zeros", "wait"), [(34, 5 * SECOND), (35, None)])
def test_instants_are_read_up_to_a_length(zeros: int, wait: int | None) -> None:
    text = f"2025-10-09T08:53:25.{'0' * zeros}+00:00"
    assert len(text) == MAX_LENGTH + (0 if wait else 1)
    assert time_until(text, NOW) == wait


@pytest.mark.parametrize(
    ("text", "wait"),
    [
        ("5", 5 * SECOND),
        ("5s", 5 * SECOND),
        ("500ms", 500 * MS),
        ("1m0s", MINUTE),
        ("2025-10-09T08:53:25Z", 5 * SECOND),
        (f"{NOW_S + 5}000", 5 * SECOND),
        ("Thu, 09 Oct 2025 08:53:15 GMT", 0),
        ("0", None),
        ("0s", None),
        ("-5", None),
        ("+5", 5 * SECOND),
        ('"5"', 5 * SECOND),
        (" 5s ", 5 * SECOND),
        ("5, 5", 5 * SECOND),
        ("5,5s", 5 * SECOND),
        (", 5", None),
        ("soon", None),
    ],
)
def test_waits_are_durations_or_instants(text: str, wait: int | None) -> None:
    assert parse_wait(text, NOW) == wait


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"retry-after-ms": "250", "retry-after": "9"}, 250 * MS),
        ({"retry-after-ms": "0.5"}, MS // 2),
        ({"retry-after-ms": "0", "retry-after": "9"}, 9 * SECOND),
        ({"retry-after-ms": "-1", "retry-after": "5s"}, 5 * SECOND),
        ({"retry-after": " 5.5 "}, 5500 * MS),
        ({"retry-after": "2025-10-09T08:53:25Z"}, 5 * SECOND),
        ({"retry-after": "0"}, None),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], wait: int | None) -> None:
    assert retry_after(headers, NOW) == wait


@given(st.text(alphabet="0123456789.-+:TZdhmsecond ,", max_size=40) | st.text(), st.integers(0))
def test_any_text_is_a_wait_or_none(text: str, epoch_ns: int) -> None:
    wait = parse_wait(text, epoch_ns)
    assert wait is None or 0 <= wait <= max(MAX_DURATION, 10_000 * 366 * DAY)
