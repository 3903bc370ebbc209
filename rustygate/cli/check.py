"""`rustygate check`: validate the configuration and print it."""

import argparse

from rustygate.cli.environment import DOTENV
from rustygate.cli.errors import print_errors
from rustygate.config import EXPOSED, describe, limits, load


def add_arguments(_: argparse.ArgumentParser) -> None:
    pass


def run(_: argparse.Namespace) -> int:
    settings = load(dotenv=DOTENV)
    lines = [f"{name}={value}" for name, value in describe(settings)]
    lines += ["", "Limits in force:", *(f"- {line}" for line in limits(settings))]
    print(*lines, sep="\n", flush=True)
    if settings.open_to_others:
        print_errors(f"warning: {EXPOSED.format(settings.bind_address)}")
    return 0
