"""What the simulator is told when it starts, and the command-line flags that say it."""

import math
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from dataclasses import dataclass
from functools import reduce
from typing import Self

from rustygate.simulator.faults import GRAMMAR, LONGEST_WAIT, NO_FAULTS, FaultError, Faults, parse
from rustygate.simulator.limits import Limits


@dataclass(frozen=True, slots=True)
class Options:
    """How the simulator behaves; the defaults stand only here.

    Args:
        rpm: requests per minute of each model; 0 is no limit. The default is what a small paying
            account has.
        tpm: the model's tokens per minute of each model; likewise.
        model_limits: models by name, with limits of their own in place of these.
        tokens_per_second: pace of streamed tokens; 0 is as fast as they can be sent.
        latency: seconds between a request and the head of its answer.
        faults: what goes wrong with requests that do not say it themselves (`X-Simulate`).
        fault_every: `faults` strike each n-th request; 1 is all of them.
    """

    rpm: int = 500
    tpm: int = 200_000
    model_limits: tuple[tuple[str, Limits], ...] = ()
    tokens_per_second: float = 0.0
    latency: float = 0.0
    faults: Faults = NO_FAULTS
    fault_every: int = 1

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Declare a flag for each option."""
        group = parser.add_argument_group("simulator")
        for name, read, value, text in _FLAGS:
            flag = "--" + name.replace("_", "-")
            help_text = f"{text} (default: %(default)s)"
            group.add_argument(
                flag, type=read, default=getattr(cls(), name), metavar=value, help=help_text
            )
        group.add_argument(
            "--model-limit",
            type=_model_limit,
            action="append",
            default=[],
            metavar="MODEL=RPM/TPM",
            help="limits of one model alone; may be repeated",
        )
        group.add_argument(
            "--fault",
            type=_faults,
            action="append",
            default=[],
            metavar="FAULT[=VALUE],...",
            help=f"what goes wrong, as in the header X-Simulate; may be repeated: {GRAMMAR}",
        )

    @classmethod
    def from_arguments(cls, arguments: Namespace) -> Self:
        """The options that a parser with `add_arguments` read."""
        return cls(
            rpm=arguments.rpm,
            tpm=arguments.tpm,
            model_limits=tuple(arguments.model_limit),
            tokens_per_second=arguments.tokens_per_second,
            latency=arguments.latency,
            faults=reduce(Faults.under, arguments.fault, NO_FAULTS),
            fault_every=arguments.fault_every,
        )

    def faults_of(self, n: int, own: Faults) -> Faults:
        """What befalls the n-th request (from 1); `own` is what it asks for itself."""
        flagged = NO_FAULTS if n % self.fault_every else self.faults
        always = Faults(latency=self.latency, tokens_per_second=self.tokens_per_second)
        return always.under(flagged).under(own)


def _count(text: str) -> int:
    """A whole number from 1 on, as a flag says it."""
    count = _limit(text)
    if not count:
        raise ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
    return count


def _limit(text: str) -> int:
    """A limit, as a flag says it: a whole number."""
    if not text.isascii() or not text.isdecimal() or len(text) > 15:
        raise ArgumentTypeError(f"expected a whole number, got {text!r}")
    return int(text)


def _model_limit(text: str) -> tuple[str, Limits]:
    """A model and its limits, as a flag says it; the model's name may hold a `=` itself."""
    model, _, limits = text.rpartition("=")
    rpm, slash, tpm = limits.partition("/")
    if not model or not slash:
        raise ArgumentTypeError(f"expected MODEL=RPM/TPM, got {text!r}")
    return model, Limits(_limit(rpm), _limit(tpm))


def _pace(text: str) -> float:
    """Tokens per second, as a flag says it."""
    return _amount(text, math.inf)


def _seconds(text: str) -> float:
    """A wait, as a flag says it."""
    return _amount(text, LONGEST_WAIT)


def _amount(text: str, most: float) -> float:
    try:
        amount = float(text)
    except ValueError:
        amount = math.nan
    if not 0 <= amount <= most or math.isinf(amount):
        raise ArgumentTypeError(f"expected a number from 0 to {most:g}, got {text!r}")
    return amount


def _faults(text: str) -> Faults:
    try:
        return parse(text)
    except FaultError as error:
        raise ArgumentTypeError(str(error)) from error


# What a flag is called, what reads its value, how the help calls that and what it says.
_FLAGS = (
    ("rpm", _limit, "N", "requests per minute of each model; 0: no limit"),
    ("tpm", _limit, "N", "tokens per minute of each model; 0: no limit"),
    ("tokens_per_second", _pace, "N", "pace of streamed tokens; 0: as fast as possible"),
    ("latency", _seconds, "SECONDS", "wait before the head of each answer"),
    ("fault_every", _count, "N", "--fault strikes each N-th request"),
)
