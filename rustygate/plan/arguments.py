"""The arguments of `rustygate plan`, and the plan that they describe."""

import argparse
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from rustygate.config import ConfigError, in_seconds, in_units
from rustygate.plan.demand import Demand
from rustygate.plan.forecast import Plan

# Ten years in hours, or a day in seconds. A larger number is taken for a typing error.
MAX_NUMBER = 86_400

# A larger plan is taken for a typing error too: it would run for a quarter of an hour.
MAX_REQUESTS = 10_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare a flag for each part of a plan."""
    default = Plan(())

    def add(name: str, read: Callable[[str], Any], value: object, text: str) -> None:
        text = f"{text} (default: %(default)s)"
        parser.add_argument(name, type=read, default=value, metavar="N", help=text)

    add("--rpm", _limit, default.rpm, "requests per minute; 0: no limit")
    add("--tpm", _limit, default.tpm, "the model's tokens per minute; 0: no limit")
    add(
        "--hours",
        _positive,
        default.duration_s / 3600,
        "how long clients with a rate send requests",
    )
    add("--latency", _seconds, default.latency_s, "seconds upstream takes to respond")
    add("--timeout", _seconds, default.timeout_s, "seconds a request may wait")
    parser.add_argument(
        "--find-tier",
        type=_seconds,
        metavar="SECONDS",
        help="find the lowest limits, instead of --rpm and --tpm, under which 95%% of each "
        "client's requests wait no longer",
    )
    parser.add_argument(
        "--client",
        type=Demand.parse,
        action="append",
        required=True,
        dest="demands",
        metavar="NAME:ARRIVALS:TOKENS[:CLASS[:WEIGHT]]",
        help="ARRIVALS: 2/s, 90/m, 5/h, 1000@once or 1000@SECONDS; may be repeated",
    )


def _limit(text: str) -> int | None:
    number = in_units(text)
    if not number.isdecimal():
        raise argparse.ArgumentTypeError(
            f"expected a whole number, such as 500 or 200k, got {text!r}"
        )
    return int(number) or None


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 < float(in_seconds(text)) <= MAX_NUMBER:
            return float(in_seconds(text))
    raise argparse.ArgumentTypeError(
        f"expected a number of seconds above 0 and up to {MAX_NUMBER}, or a duration such as "
        f"500ms or 1m30s, got {text!r}"
    )


def _positive(text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text) <= MAX_NUMBER:
            return float(text)
    raise argparse.ArgumentTypeError(
        f"expected a number above 0 and up to {MAX_NUMBER}, got {text!r}"
    )


def from_arguments(arguments: argparse.Namespace) -> Plan:
    """The plan that a parser with `add_arguments` read. Raises ConfigError if it is too large."""
    demands: Sequence[Demand] = arguments.demands
    requests = sum(demand.requests(arguments.hours * 3600) for demand in demands)
    if requests > MAX_REQUESTS:
        raise ConfigError(
            [f"plan: expected at most {MAX_REQUESTS:,} requests in all, got {requests:,.0f}"]
        )
    return Plan(
        tuple(demands),
        arguments.rpm,
        arguments.tpm,
        duration_s=arguments.hours * 3600,
        latency_s=arguments.latency,
        timeout_s=arguments.timeout,
    )
