"""`rustygate plan`: predict waits."""

import argparse

from rustygate.plan import forecast as plan


def run(arguments: argparse.Namespace) -> int:
    asked = plan.from_arguments(arguments)
    print(*plan.lines(asked, plan.forecast(asked)), sep="\n", flush=True)
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    plan.add_arguments(parser)
