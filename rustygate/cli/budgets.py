"""Errors for budgets in CLIENTS_FILE that the gate could not enforce."""

from collections.abc import Iterable

from rustygate.access.budget_checks import unkept_budgets
from rustygate.cli.errors import CommandError
from rustygate.config import Settings, names, read_clients_file
from rustygate.telemetry.usage.prices import load_prices

_BAD_CONFIGURATION = 2


def check_budgets(settings: Settings) -> None:
    """Raises CommandError if a budget cannot be enforced."""
    if settings.clients_file is not None:
        clients = read_clients_file(settings.clients_file)
        if problems := unkept_budgets(settings, load_prices(settings), clients):
            raise invalid_clients(settings, problems)


def invalid_clients(settings: Settings, problems: Iterable[str]) -> CommandError:
    """The error for problems of the clients file."""
    prefix = f"{names.CLIENTS_FILE}={settings.clients_file}"
    lines = (f"{prefix}: {problem}" for problem in problems)
    return CommandError(*lines, exit_code=_BAD_CONFIGURATION)
