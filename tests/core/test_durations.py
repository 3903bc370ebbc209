"""Go durations, as upstream writes them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.bucket import MINUTE, SECOND
from rustygate.core.durations import MAX_DURATION, MS, parse_go_duration

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
    assert parse_go_duration(text) == ns


@given(st.integers(0, MAX_DURATION // SECOND), st.integers(0, 999_999_999))
def test_durations_written_by_go_are_read_exactly(seconds: int, ns: int) -> None:
    hours, minutes = seconds // 3600, seconds // 60 % 60
    written = f"{hours}h{minutes}m{seconds % 60}.{ns:09}s"
    expected = seconds * SECOND + ns
    assert parse_go_duration(written) == (expected if expected <= MAX_DURATION else None)


@given(st.text(alphabet="0123456789.hmsunµ-", max_size=30) | st.text())
def test_any_text_is_a_duration_or_none(text: str) -> None:
    ns = parse_go_duration(text)
    assert ns is None or 0 <= ns <= MAX_DURATION
