"""The arguments of `rustygate plan` take the units that settings take."""

import argparse

import pytest

from rustygate.plan.arguments import add_arguments, from_arguments
from rustygate.plan.forecast import Plan


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([*arguments, "--client", "web:1@once:1"])


def plan(*arguments: str) -> Plan:
    return from_arguments(parse(*arguments))


def test_limits_and_times_may_have_units() -> None:
    made = plan("--rpm", "1.5k", "--tpm", "2M", "--latency", "500ms", "--timeout", "1m30s")
    assert (made.rpm, made.tpm, made.latency_s, made.timeout_s) == (1500, 2_000_000, 0.5, 90)
    assert parse("--find-tier", "5 seconds").find_tier == 5


def test_limits_and_times_may_be_plain_numbers() -> None:
    made = plan("--rpm", "0", "--tpm", "200", "--latency", ".5", "--timeout", "86400")
    assert (made.rpm, made.tpm, made.latency_s, made.timeout_s) == (None, 200, 0.5, 86_400)


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        *[("--rpm", text) for text in ("-1", "1.5", "5s", "", "1.0001k")],
        *[("--timeout", text) for text in ("0", "0s", "-5s", "5k", "25h", "nan", "")],
        *[("--find-tier", text) for text in ("0ms", "86401", "2d")],
    ],
)
def test_other_values_are_rejected(
    flag: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(f"{flag}={text}")
    expected = "whole number" if flag == "--rpm" else "number of seconds"
    assert f"{flag}: expected a {expected}" in capsys.readouterr().err
