"""Values with units are rewritten as plain numbers; anything else stays as it is."""

from collections.abc import Callable

import pytest

from rustygate.config import units


@pytest.mark.parametrize(
    ("convert", "text", "plain"),
    [
        (units.in_seconds, "30s", "30"),
        (units.in_seconds, "500ms", "0.500"),
        (units.in_seconds, "1m30s", "90"),
        (units.in_seconds, "1h 30min", "5400"),
        (units.in_seconds, "1.5h", "5400"),
        (units.in_seconds, "2d", "172800"),
        (units.in_seconds, "1m500ms", "60.500"),
        (units.in_seconds, "10 sec", "10"),
        (units.in_seconds, "30 seconds", "30"),
        (units.in_seconds, "1 second", "1"),
        (units.in_seconds, "5 minutes", "300"),
        (units.in_seconds, "1 minute 30 secs", "90"),
        (units.in_seconds, "1hr 2 mins", "3720"),
        (units.in_seconds, "1 Hour", "3600"),
        (units.in_seconds, "2 hours", "7200"),
        (units.in_seconds, "3hrs", "10800"),
        (units.in_seconds, "1 day", "86400"),
        (units.in_seconds, "2 days", "172800"),
        (units.in_seconds, "0s", "0"),
        (units.in_seconds, "30S", "30"),
        (units.in_units, "200k", "200000"),
        (units.in_units, "200 K", "200000"),
        (units.in_units, "2M", "2000000"),
        (units.in_units, "1.5M", "1500000"),
        (units.in_units, "1G", "1000000000"),
        (units.in_units, "1e6", "1000000"),
        (units.in_units, "1.5E6", "1500000"),
        (units.in_units, "2e+3", "2000"),
        (units.in_units, "1_000_000", "1000000"),
        (units.in_units, "10_000.5", "10000.5"),
        (units.in_units, "9" * 15, "9" * 15),
        (units.in_units, "1e30", f"1{'0' * 30}"),
        (units.in_bytes, "1e6", "1000000"),
        (units.in_bytes, "268_435_456", "268435456"),
        (units.in_bytes, "1B", "1"),
        (units.in_bytes, "1kB", "1000"),
        (units.in_bytes, "1KiB", "1024"),
        (units.in_bytes, "64k", "65536"),
        (units.in_bytes, "2MB", "2000000"),
        (units.in_bytes, "256MiB", "268435456"),
        (units.in_bytes, "256M", "268435456"),
        (units.in_bytes, "256Mi", "268435456"),
        (units.in_bytes, "1gi", "1073741824"),
        (units.in_bytes, "1GB", "1000000000"),
        (units.in_bytes, "1GiB", "1073741824"),
        (units.in_bytes, "0.5 GiB", "536870912"),
    ],
)
def test_value_with_a_unit_becomes_a_plain_number(
    convert: Callable[[str], str], text: str, plain: str
) -> None:
    assert convert(text) == plain


@pytest.mark.parametrize(
    ("convert", "text"),
    [
        (units.in_seconds, "30"),
        (units.in_seconds, ""),
        (units.in_seconds, "30s1m"),
        (units.in_seconds, "1s1s"),
        (units.in_seconds, "1m30"),
        (units.in_seconds, "30k"),
        (units.in_seconds, "-1s"),
        (units.in_seconds, "1e3s"),
        (units.in_seconds, ".5s"),
        (units.in_seconds, "s"),
        (units.in_units, "30s"),
        (units.in_units, "1k1k"),
        (units.in_units, "1ki"),
        (units.in_units, "1,000,000"),
        (units.in_units, "1__000"),
        (units.in_units, "_1"),
        (units.in_units, "1_"),
        (units.in_units, "1e-3"),
        (units.in_units, "1e400"),
        (units.in_units, "e6"),
        (units.in_units, "1e"),
        (units.in_units, "9" * 5000),
        (units.in_units, "-5"),
        (units.in_bytes, "1TB"),
        (units.in_bytes, "1MiBB"),
        (units.in_bytes, "\u0661kB"),
        (units.in_bytes, "9" * 5000 + "k"),
    ],
)
def test_other_text_stays_as_it_is(convert: Callable[[str], str], text: str) -> None:
    assert convert(text) == text
