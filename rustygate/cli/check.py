"""`rustygate check`: validate the configuration and print it as a `.env` file.

With REDIS_URL, it also connects to the server there.
"""

import argparse
from collections.abc import Iterator

from rustygate.cli.budgets import check_budgets
from rustygate.cli.environment import DOTENV
from rustygate.cli.errors import print_warnings
from rustygate.cli.output import print_lines
from rustygate.cli.workers import describe_workers, workers_warnings
from rustygate.config import (
    Configuration,
    Settings,
    assignments,
    describe_client,
    describe_limits,
    describe_price,
    load_configuration,
    read_clients_file,
    read_prices_file,
)
from rustygate.system.data_dir import data_dir_problem, data_dir_warning
from rustygate.telemetry.usage.prices import describe_list


def add_arguments(_: argparse.ArgumentParser) -> None:
    """The configuration to check is that of the environment and `.env`."""


def run(_: argparse.Namespace) -> int:
    loaded = load_configuration(dotenv=DOTENV)
    check_budgets(loaded.settings)
    comments = [f"# {_one_line(line)}".rstrip() for line in _comments(loaded)]
    print_lines(*assignments(loaded), *comments)
    settings = loaded.settings
    print_warnings(*loaded.warnings, *workers_warnings(settings), *_data_dir_warnings(settings))
    print_lines(*_group(loaded.settings), "# OK")
    return 0


def _data_dir_warnings(settings: Settings) -> Iterator[str]:
    """A warning if DATA_DIR cannot be written to."""
    path = settings.data_dir
    if path is not None and (problem := data_dir_problem(path)):
        yield data_dir_warning(path, problem)


def _group(settings: Settings) -> Iterator[str]:
    """A description of the server at REDIS_URL, if it is set. Raises CommandError if it cannot be
    used."""
    if settings.redis_url is None:
        return
    from rustygate.cli.group_access import describe_group

    lines = list(describe_group(settings))
    yield f"# Group {settings.gate_group}:"
    yield from (f"# - {line}" for line in lines)
    yield "#"


def _one_line(text: str) -> str:
    """A text without line breaks, which would end a comment; paths and patterns may have them."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def _comments(loaded: Configuration) -> Iterator[str]:
    """What follows from the settings; comments, so that the output is a valid `.env` file."""
    yield ""
    yield "Limits in force:"
    yield from (f"- {line}" for line in describe_limits(loaded.settings))
    yield from (f"- {line}" for line in describe_workers(loaded.settings))
    if (path := loaded.settings.clients_file) is not None:
        yield ""
        yield f"Clients of {path}:"
        yield from (
            f"- {describe_client(each)}" for each in read_clients_file(path).by_name.values()
        )
    yield from _prices(loaded.settings)
    yield ""


def _prices(settings: Settings) -> Iterator[str]:
    yield ""
    yield f"Price list: {describe_list(settings.openai_base_url)}"
    if (path := settings.prices_file) is not None:
        yield ""
        yield f"Prices in {path}, which take precedence, in dollars per million tokens:"
        yield from (f"- {describe_price(*each)}" for each in read_prices_file(path).items())
