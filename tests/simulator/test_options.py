"""Command-line flags."""

import argparse

import pytest

from rustygate.simulator import Options
from rustygate.simulator.faults import Faults
from rustygate.simulator.limits import Limits


def parse_flags(*flags: str) -> Options:
    parser = argparse.ArgumentParser(exit_on_error=False)
    Options.add_arguments(parser)
    return Options.from_arguments(parser.parse_args(flags))


def test_no_flags_give_the_defaults() -> None:
    assert parse_flags() == Options()


def test_flags_are_parsed() -> None:
    flags = (
        "--rpm 3 --tpm 0 --tokens-per-second 5 --latency 0.5 --fault cut=2 --fault gzip,cut=3 "
        "--model-limit gpt-4o=500/30000 --model-limit a=b=0/1 --fault-every 7 "
        "--strict-models"
    )
    assert parse_flags(*flags.split()) == Options(
        rpm=3,
        tpm=0,
        model_limits=(("gpt-4o", Limits(500, 30_000)), ("a=b", Limits(0, 1))),
        tokens_per_second=5.0,
        latency=0.5,
        faults=Faults(cut=3, gzip=True),
        fault_every=7,
        strict_models=True,
    )


@pytest.mark.parametrize(
    "flags",
    [
        ("--fault-every", "0"),
        ("--model-limit", "gpt-4o"),
        ("--model-limit", "gpt-4o=5"),
        ("--model-limit", "gpt-4o=5/x"),
        ("--model-limit", "=5/5"),
        ("--tpm", "-1"),
        ("--latency", "nan"),
        ("--latency", "1e300"),
        ("--tokens-per-second", "inf"),
        ("--fault", "x"),
        ("--rpm", "9" * 99),
    ],
)
def test_bad_flags_are_rejected(flags: tuple[str, str]) -> None:
    with pytest.raises(argparse.ArgumentError):
        parse_flags(*flags)


def test_error_names_the_numbers_that_are_allowed() -> None:
    with pytest.raises(argparse.ArgumentError, match="a number of 0 or more, got 'inf'"):
        parse_flags("--tokens-per-second", "inf")
    with pytest.raises(argparse.ArgumentError, match="a number from 0 to 3600, got '3601'"):
        parse_flags("--latency", "3601")
