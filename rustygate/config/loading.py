"""Loading: the environment over `.env`, secrets from files, and all problems at once.

An empty variable counts as unset; surrounding whitespace is removed. Nothing is written to
`os.environ`, and no secret appears in a problem or a warning.
"""

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from rustygate.config import names
from rustygate.config.dotenv_file import read_dotenv
from rustygate.config.env_reader import EnvReader, remove_quotes
from rustygate.config.file_checks import file_problems
from rustygate.config.misspelt import misspelt
from rustygate.config.own_address import own_address_problem
from rustygate.config.secret_files import read_secret_files
from rustygate.config.settings import Settings, kind_of, variable_of
from rustygate.config.warnings import misspelt_warning, settings_warnings

DOTENV, ENVIRONMENT = ".env", "environment"


class ConfigError(Exception):
    """The configuration is invalid.

    `problems` has one line for each reason; `warnings` may explain them.
    """

    def __init__(self, problems: list[str], warnings: tuple[str, ...] = ()) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
        self.warnings = warnings


@dataclass(frozen=True, slots=True)
class Configuration:
    """Loaded settings and what is known about them.

    Args:
        sources: where each variable that is set comes from: `environment` or `.env`.
        variables: the variables as given, with secrets from files.
        hints: a warning for each variable that looks like a misspelt setting.
    """

    settings: Settings
    sources: Mapping[str, str]
    variables: Mapping[str, str] = field(repr=False)
    hints: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        return (*self.hints, *settings_warnings(self.settings))

    def check_address(self) -> None:
        """Raises ConfigError if the gate is its own upstream."""
        if problem := own_address_problem(self.settings):
            raise ConfigError([problem], self.hints)


def load(environ: Mapping[str, str] | None = None, *, dotenv: Path | None = None) -> Settings:
    """The settings from `environ`, by default the process's, over those in the file `dotenv`.

    Values in the file are used as written; variables in them are not expanded. The file may be
    missing. Raises ConfigError.
    """
    return load_configuration(environ, dotenv=dotenv).settings


def load_configuration(
    environ: Mapping[str, str] | None = None,
    *,
    dotenv: Path | None = None,
    listens_elsewhere: bool = False,
) -> Configuration:
    """Like `load`, with the sources of the values and warnings.

    Args:
        listens_elsewhere: whether the gate listens on inherited sockets, so that BIND_ADDRESS and
            PORT say nothing about its address.
    """
    problems: list[str] = []
    in_file = read_dotenv(dotenv, problems) if dotenv else {}
    variables, sources = _merged(in_file, os.environ if environ is None else environ)
    _use_state_directory(variables, sources)
    hints = tuple(misspelt_warning(*each, sources[each[0]]) for each in misspelt(variables))
    problems += remove_quotes(variables)
    read_secret_files(variables, problems)
    reader = EnvReader(variables)
    values = {setting.name: reader.read(setting) for setting in fields(Settings)}
    problems += reader.problems()
    problems += file_problems(variables)
    if problems:
        raise ConfigError(problems, hints)
    configuration = Configuration(Settings(**values), sources, variables, hints)
    if not listens_elsewhere:
        configuration.check_address()
    return configuration


def _merged(
    in_file: Mapping[str, str], in_environ: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """The variables that are not empty, and where each comes from."""
    variables: dict[str, str] = {}
    sources: dict[str, str] = {}
    for source, given in ((DOTENV, in_file), (ENVIRONMENT, in_environ)):
        given = _with_upper_case_proxies(given)
        variables |= given
        sources |= dict.fromkeys(given, source)
    variables = {name: value.strip() for name, value in variables.items() if value.strip()}
    return variables, {name: sources[name] for name in variables}


def _use_state_directory(variables: dict[str, str], sources: dict[str, str]) -> None:
    """Let DATA_DIR default to the directory that systemd has made for the service."""
    directory = variables.get(names.STATE_DIRECTORY, "").partition(":")[0]
    if directory and names.DATA_DIR not in variables:
        variables[names.DATA_DIR] = directory
        sources[names.DATA_DIR] = names.STATE_DIRECTORY


def forget_secrets(environ: MutableMapping[str, str] = os.environ) -> None:
    """Remove the secrets from the environment once they are loaded.

    A dump of the environment or a child process then contains none. The kernel's copy of the
    environment at process start (Linux: /proc/PID/environ) cannot be changed.
    """
    for setting in fields(Settings):
        if kind_of(setting).secret:
            environ.pop(variable_of(setting), None)


def _with_upper_case_proxies(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables with those of proxies in upper case; lower case takes precedence."""
    lower = {
        name: variables[name.lower()]
        for name in names.PROXY_VARIABLES
        if name.lower() in variables
    }
    return {**variables, **lower}
