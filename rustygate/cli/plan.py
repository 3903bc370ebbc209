"""`rustygate plan`: predict how long each client would wait under a quota."""

import argparse
import sys
from collections.abc import Iterator

from rustygate.cli.errors import CommandError
from rustygate.cli.output import print_lines
from rustygate.plan.arguments import add_arguments, from_arguments
from rustygate.plan.forecast import Forecast, Plan, forecast, requests_of
from rustygate.plan.progress import Progress
from rustygate.plan.table import rows
from rustygate.plan.tiers import NoTierSufficesError, TierSearch
from rustygate.system.terminal import has_color, is_terminal

STDOUT, STDERR = 1, 2

__all__ = ["add_arguments", "run"]


def run(arguments: argparse.Namespace) -> int:
    plan = from_arguments(arguments)
    total = sum(requests_of(plan).values())
    progress = Progress(total, sys.stderr, is_terminal=is_terminal(STDERR))
    try:
        if arguments.find_tier is None:
            lines = list(_table(plan, forecast(plan, progress.start_run(plan))))
        else:
            lines = list(_lowest_limits(plan, arguments.find_tier, progress))
    finally:
        progress.clear()
    print_lines(*lines)
    return 0


def _table(plan: Plan, result: Forecast) -> Iterator[str]:
    return rows(plan, result, colored=has_color(STDOUT))


def _lowest_limits(plan: Plan, limit_s: float, progress: Progress) -> Iterator[str]:
    try:
        found = TierSearch(plan, limit_s, progress.start_run).run()
    except NoTierSufficesError as error:
        raise CommandError(
            f"no limits suffice: even without any, more than 5% of the requests of {error.client} "
            f"wait longer than {limit_s:g} s, because a model's limits are unknown until its "
            "first response"
        ) from error
    if found.tier is None:
        yield "lowest tier: none suffices"
    else:
        yield "lowest tier: {} requests and {} tokens a minute".format(*found.tier)
    yield f"lowest limits: {found.plan.rpm} requests and {found.plan.tpm} tokens a minute"
    yield ""
    yield from _table(found.plan, found.forecast)
