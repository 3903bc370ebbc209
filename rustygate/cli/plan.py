"""`rustygate plan`: predict which client would wait how long under a quota."""

import argparse

from rustygate.plan.arguments import add_arguments, from_arguments
from rustygate.plan.forecast import forecast
from rustygate.plan.table import rows

__all__ = ["add_arguments", "run"]


def run(arguments: argparse.Namespace) -> int:
    plan = from_arguments(arguments)
    print(*rows(plan, forecast(plan)), sep="\n", flush=True)
    return 0
