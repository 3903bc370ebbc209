"""`rustygate check`: validate the configuration and print it, with secrets masked."""

import argparse

from rustygate.cli.environment import DOTENV
from rustygate.cli.errors import print_errors
from rustygate.config import describe, describe_limits, exposure_warning, load


def add_arguments(_: argparse.ArgumentParser) -> None:
    """The configuration to check is that of the environment and `.env`."""


def run(_: argparse.Namespace) -> int:
    settings = load(dotenv=DOTENV)
    lines = [f"{name}={value}" for name, value in describe(settings)]
    lines += ["", "Limits in force:", *(f"- {line}" for line in describe_limits(settings))]
    print(*lines, sep="\n", flush=True)
    if warning := exposure_warning(settings):
        print_errors(f"warning: {warning}")
    return 0
