"""Reads each setting's value by its kind, with environs, and collects what is wrong."""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any

from environs import Env, EnvValidationError

from rustygate.config.kinds import FILE, QUOTES, Kind, with_scheme
from rustygate.config.masking import MASKED, show_rejected
from rustygate.config.names import SECRET_FILES
from rustygate.config.settings import Settings, kind_of, variable_of
from rustygate.core.cors import parse_origins


def remove_quotes(variables: dict[str, str]) -> Iterator[str]:
    """Remove quotes around values, with a problem for each.

    A shell removes quotes, and so does the reader of `.env`; `docker run --env-file` does not.
    """
    known = {variable_of(each): kind_of(each) for each in fields(Settings)}
    known |= dict.fromkeys(SECRET_FILES.values(), FILE)
    for name in [name for name in known if name in variables]:
        value = variables[name]
        bare = value.strip(QUOTES).strip()
        if bare != value:
            yield (
                f"{name}={_shown(known[name], value)}: expected a value without quotes around it; "
                "remove them (docker's --env-file does not)"
            )
            variables[name] = bare


class EnvReader(Env):
    """environs over the mapping `variables` instead of `os.environ`.

    Methods without an underscore are the parsers that a `Kind` names.
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        super().__init__(eager=False)
        self._variables = variables
        self._kinds = {variable_of(setting): kind_of(setting) for setting in fields(Settings)}

    def _get_value(self, env_key: str, default: Any) -> Any:
        value = self._variables.get(env_key)
        return default if value is None else self._kinds[env_key].without_unit(value)

    def read(self, setting: Field[Any]) -> Any:
        kind = kind_of(setting)
        default = ... if setting.default is MISSING else setting.default
        return getattr(self, kind.parser)(variable_of(setting), default, validate=kind.check)

    def base_url(self, name: str, default: str, **options: Any) -> str | None:
        url = self.str(name, default, **options)
        return url.rstrip("/") if url else None

    def proxy(self, name: str, default: str, **options: Any) -> str | None:
        url = self.str(name, default, **options)
        return with_scheme(url) if url else None

    def origins(self, name: str, default: str, **options: Any) -> tuple[str, ...] | None:
        origins = self.str(name, default, **options)
        return parse_origins(origins) if origins else None

    def rate(self, name: str, default: float, **options: Any) -> float | None:
        return self._float_or("auto", name, default, **options)

    def workers(self, name: str, default: int, **options: Any) -> int | None:
        if self._variables.get(name, "").lower() == "auto":
            return None
        return self.int(name, default, **options)

    def seconds_or_off(self, name: str, default: float | None, **options: Any) -> float | None:
        return self._float_or("off", name, default, **options)

    def _float_or(
        self, word: str, name: str, default: float | None, **options: Any
    ) -> float | None:
        if self._variables.get(name, "").lower() == word:
            return None
        return self.float(name, default, **options)

    def problems(self) -> list[str]:
        """One line for each variable that is missing or has a bad value."""
        try:
            self.seal()
        except EnvValidationError as error:
            rejected = set(error.error_messages)
            # A missing secret with a file was already reported when the file was read.
            rejected -= {
                name
                for name, file in SECRET_FILES.items()
                if file in self._variables and name not in self._variables
            }
            return [
                self._problem(each) for each in fields(Settings) if variable_of(each) in rejected
            ]
        return []

    def _problem(self, setting: Field[Any]) -> str:
        name, kind = variable_of(setting), kind_of(setting)
        if name not in self._variables:
            return f"{name}: not set; expected {kind.expected}"
        value = self._variables[name]
        reason = f" ({why})" if (why := kind.reason(value)) else ""
        return f"{name}={_shown(kind, value)}: expected {kind.expected}{reason}"


def _shown(kind: Kind, rejected: str) -> str:
    return MASKED if kind.secret else show_rejected(kind.redact(rejected))
