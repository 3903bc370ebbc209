"""The simulator's options, and the command-line flags that set them."""

import math
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from dataclasses import dataclass
from functools import reduce
from typing import Self

from rustygate.simulator.faults import GRAMMAR, MAX_WAIT_S, NO_FAULTS, FaultError, Faults, parse
from rustygate.simulator.limits import Limits


@dataclass(frozen=True, slots=True)
class Options:
    """How the simulator behaves, with all defaults.

    Args:
        rpm: requests per minute of each model; 0 means no limit. The default is that of a small
            paying account.
        tpm: tokens per minute of each model; 0 means no limit.
        model_limits: models by name, with limits that replace `rpm` and `tpm`.
        tokens_per_second: pace of streamed tokens; 0 is as fast as possible.
        latency: seconds between a request and the head of its response.
        faults: faults to apply; those in a request's `X-Simulate` header take precedence.
        fault_every: apply `faults` to every n-th request; 1 means to all.
        strict_models: whether models with unknown names do not exist.
    """

    rpm: int = 500
    tpm: int = 200_000
    model_limits: tuple[tuple[str, Limits], ...] = ()
    tokens_per_second: float = 0.0
    latency: float = 0.0
    faults: Faults = NO_FAULTS
    fault_every: int = 1
    strict_models: bool = False

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Declare a flag for each option."""
        group = parser.add_argument_group("simulator")
        for name, parse_value, value, text in _FLAGS:
            flag = "--" + name.replace("_", "-")
            help_text = f"{text} (default: %(default)s)"
            group.add_argument(
                flag, type=parse_value, default=getattr(cls(), name), metavar=value, help=help_text
            )
        group.add_argument(
            "--model-limit",
            type=_model_limit,
            action="append",
            default=[],
            metavar="MODEL=RPM/TPM",
            help="limits of one model; may be repeated",
        )
        group.add_argument(
            "--strict-models",
            action="store_true",
            help="respond with 404 to unknown models; by default any name is a model",
        )
        group.add_argument(
            "--fault",
            type=_faults,
            action="append",
            default=[],
            metavar="FAULT[=VALUE],...",
            help=f"faults to simulate, as in the header X-Simulate; may be repeated: {GRAMMAR}",
        )

    @classmethod
    def from_arguments(cls, arguments: Namespace) -> Self:
        """The options in the arguments of a parser set up by `add_arguments`."""
        return cls(
            rpm=arguments.rpm,
            tpm=arguments.tpm,
            model_limits=tuple(arguments.model_limit),
            tokens_per_second=arguments.tokens_per_second,
            latency=arguments.latency,
            faults=reduce(Faults.overridden_by, arguments.fault, NO_FAULTS),
            fault_every=arguments.fault_every,
            strict_models=arguments.strict_models,
        )

    def faults_for(self, n: int, requested: Faults) -> Faults:
        """The faults of the n-th request, counted from 1; `requested` take precedence."""
        configured = NO_FAULTS if n % self.fault_every else self.faults
        pace = Faults(latency=self.latency, tokens_per_second=self.tokens_per_second)
        return pace.overridden_by(configured).overridden_by(requested)


def _positive_integer(text: str) -> int:
    number = _integer(text)
    if not number:
        raise ArgumentTypeError(f"expected a whole number, 1 or more, got {text!r}")
    return number


def _integer(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 15:
        raise ArgumentTypeError(f"expected a whole number, got {text!r}")
    return int(text)


def _model_limit(text: str) -> tuple[str, Limits]:
    """A model and its limits; the model's name may contain `=`."""
    model, _, limits = text.rpartition("=")
    rpm, slash, tpm = limits.partition("/")
    if not model or not slash:
        raise ArgumentTypeError(f"expected MODEL=RPM/TPM, got {text!r}")
    return model, Limits(_integer(rpm), _integer(tpm))


def _rate(text: str) -> float:
    return _number(text, math.inf)


def _seconds(text: str) -> float:
    return _number(text, MAX_WAIT_S)


def _number(text: str, maximum: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= maximum or math.isinf(number):
        limits = "of 0 or more" if math.isinf(maximum) else f"from 0 to {maximum:g}"
        raise ArgumentTypeError(f"expected a number {limits}, got {text!r}")
    return number


def _faults(text: str) -> Faults:
    try:
        return parse(text)
    except FaultError as error:
        raise ArgumentTypeError(str(error)) from error


# Name, parser, placeholder and help text of each flag.
_FLAGS = (
    ("rpm", _integer, "N", "requests per minute of each model; 0: no limit"),
    ("tpm", _integer, "N", "tokens per minute of each model; 0: no limit"),
    ("tokens_per_second", _rate, "N", "pace of streamed tokens; 0: as fast as possible"),
    ("latency", _seconds, "SECONDS", "delay before the head of each response"),
    ("fault_every", _positive_integer, "N", "apply --fault to every N-th request"),
)
