"""How settings are loaded: the environment, `.env`, files of keys."""

import os
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import MISSING, Field, fields
from io import StringIO
from pathlib import Path
from typing import Any

from dotenv.parser import Binding, parse_stream
from environs import Env, EnvValidationError, ValidationError

from rustygate.config.clients_file import CLIENTS, clients_problems
from rustygate.config.kinds import (
    ADMIN_KEY,
    ADMIN_KEY_FILE,
    KEY,
    KEY_FILE,
    KEY_LIMIT,
    UNIX,
    check_header_value,
    with_scheme,
)
from rustygate.config.masking import MASKED, shown
from rustygate.config.settings import Settings, about
from rustygate.core.cors import parse_origins
from rustygate.system import tls

# Where systemd puts what LoadCredential names, and under which name the key is looked for there.
CREDENTIALS = "CREDENTIALS_DIRECTORY"
CREDENTIAL = "openai_api_key"

TLS_CERT, TLS_KEY = "TLS_CERT_FILE", "TLS_KEY_FILE"
TRUST_FILE = "SSL_CERT_FILE"
TRUST = (TRUST_FILE, "SSL_CERT_DIR")

# Secrets, and the variables that name a file which holds one instead.
FILES = {KEY: KEY_FILE, ADMIN_KEY: ADMIN_KEY_FILE}

# Known by both spellings, of which the lower one counts first (as urllib and curl have it).
PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")


class ConfigError(Exception):
    """The configuration will not do; `problems` has a line for each reason."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load(environ: Mapping[str, str] | None = None, *, dotenv: Path | None = None) -> Settings:
    """The settings in `environ`, by default the process's, over those in the file `dotenv`.

    Values in the file are taken as written; nothing in them is expanded. A file that is not there
    is no problem. Raises ConfigError.
    """
    problems: list[str] = []
    given = _with_proxies(_read_dotenv(dotenv, problems) if dotenv else {})
    given |= _with_proxies(os.environ if environ is None else environ)
    given = {name: value.strip() for name, value in given.items() if value.strip()}
    _find_credential(given)
    for name in FILES:
        if FILES[name] in given:
            _take_key_from_file(given, name, problems)
    env = _Env(given)
    values = {setting.name: env.read(setting) for setting in fields(Settings)}
    problems += env.problems()
    problems += _tls_problems(given)
    if TRUST_FILE in given and (fault := tls.bundle_fault(given[TRUST_FILE])):
        problems.append(_wrong(given, TRUST_FILE, f"a PEM file of certificates ({fault})"))
    if CLIENTS in given:
        problems += clients_problems(given)
    if problems:
        raise ConfigError(problems)
    return Settings(**values)


class _Env(Env):
    """environs over a mapping of ours instead of `os.environ`, collecting what is wrong."""

    def __init__(self, given: Mapping[str, str]) -> None:
        super().__init__(eager=False)
        self._given = given

    def _get_value(self, env_key: str, default: Any) -> Any:
        return self._given.get(env_key, default)

    def read(self, setting: Field[Any]) -> Any:
        kind, _ = about(setting)
        default = ... if setting.default is MISSING else setting.default
        return getattr(self, kind.parser)(setting.name.upper(), default, validate=kind.check)

    def base_url(self, name: str, default: str, **options: Any) -> str | None:
        url = self.str(name, default, **options)
        return url.rstrip("/") if url else None

    def proxy(self, name: str, default: str, **options: Any) -> str | None:
        url = self.str(name, default, **options)
        return with_scheme(url) if url else None

    def origins(self, name: str, default: str, **options: Any) -> tuple[str, ...] | None:
        listed = self.str(name, default, **options)
        return parse_origins(listed) if listed else None

    def rate(self, name: str, default: float, **options: Any) -> float | None:
        return self._float_or("auto", name, default, **options)

    def seconds_or_off(self, name: str, default: float | None, **options: Any) -> float | None:
        return self._float_or("off", name, default, **options)

    def _float_or(
        self, word: str, name: str, default: float | None, **options: Any
    ) -> float | None:
        if self._given.get(name, "").lower() == word:
            return None
        return self.float(name, default, **options)

    def problems(self) -> list[str]:
        """A line for each variable that was read in vain."""
        try:
            self.seal()
        except EnvValidationError as error:
            wrong = set(error.error_messages)
            # What is wrong with a key's file was said when it was read.
            wrong -= {name for name, file in FILES.items() if file in self._given}
            return [self._problem(each) for each in fields(Settings) if each.name.upper() in wrong]
        return []

    def _problem(self, setting: Field[Any]) -> str:
        name = setting.name.upper()
        kind, _ = about(setting)
        if name not in self._given:
            return f"{name}: not set; expected {kind.expected}"
        value = MASKED if kind.secret else shown(kind.hide(self._given[name]))
        return f"{name}={value}: expected {kind.expected}"


def forget_secrets(environ: MutableMapping[str, str] = os.environ) -> None:
    """Take the secrets out of the environment once they are read: of what is printed, dumped or
    handed to another process, none holds them. What the kernel shows of a process's start (Linux:
    /proc/PID/environ) stays as it was."""
    for setting in fields(Settings):
        kind, _ = about(setting)
        if kind.secret:
            environ.pop(setting.name.upper(), None)


def _find_credential(given: dict[str, str]) -> None:
    """Where no variable tells of the key, systemd's credential does, if there is one."""
    if CREDENTIALS not in given or given.keys() & {KEY, KEY_FILE}:
        return
    path = os.path.join(given[CREDENTIALS], CREDENTIAL)
    if os.path.exists(path):
        given[KEY_FILE] = path


def _take_key_from_file(given: dict[str, str], name: str, problems: list[str]) -> None:
    path = given[FILES[name]]
    given_as = f"{FILES[name]}={shown(path)}"
    if name in given:
        problems.append(f"{given_as}: expected only one of {name} and {FILES[name]} to be set")
        return
    try:
        with open(path, "rb") as file:
            key = file.read(KEY_LIMIT + 5).decode("utf-8-sig").strip()
        check_header_value(key)
    except (OSError, ValueError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it holds something else"
        problems.append(f"{given_as}: expected the path of a file that holds one key ({reason})")
    else:
        given[name] = key


def _tls_problems(given: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with what HTTPS is to be served with."""
    cert, key = given.get(TLS_CERT), given.get(TLS_KEY)
    if cert is None or key is None:
        for name in given.keys() & {TLS_CERT, TLS_KEY}:
            yield _wrong(given, name, f"{TLS_CERT} and {TLS_KEY} to be set together")
        return
    if given.get("BIND_ADDRESS", "").startswith(UNIX):
        yield _wrong(given, TLS_CERT, "a BIND_ADDRESS that is no unix socket")
    cert_fault = tls.pem_fault(cert, tls.CERTIFICATE)
    key_fault = tls.pem_fault(key, tls.PRIVATE_KEY)
    if cert_fault:
        yield _wrong(given, TLS_CERT, f"the path of a PEM file with a certificate ({cert_fault})")
    if key_fault:
        yield _wrong(given, TLS_KEY, f"the path of a PEM file with a key ({key_fault})")
    if not cert_fault and not key_fault and (fault := tls.pair_fault(cert, key)):
        yield _wrong(
            given, TLS_KEY, f"the key of {TLS_CERT}'s certificate, not encrypted ({fault})"
        )


def _wrong(given: Mapping[str, str], name: str, expected: str) -> str:
    return f"{name}={shown(given[name])}: expected {expected}"


def _with_proxies(given: Mapping[str, str]) -> dict[str, str]:
    """With the proxies' variables under one spelling."""
    lower = {name: given[name.lower()] for name in PROXIES if name.lower() in given}
    return {**given, **lower}


def _read_dotenv(path: Path, problems: list[str]) -> dict[str, str]:
    try:
        text = path.read_text("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        # Some keep a virtual environment there.
        return {}
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        problems.append(f"{path}: expected a readable file of NAME=value lines ({reason})")
        return {}
    values = {}
    for binding in parse_stream(StringIO(text)):
        if binding.key is not None and binding.value is not None:
            values[binding.key] = binding.value
        elif binding.error or binding.key is not None:
            problems.append(f"{path} line {_line(binding)}: expected NAME=value")
    return values


def _line(binding: Binding) -> int:
    """A binding's line; what the parser tells is where the blank lines before it begin."""
    text = binding.original.string
    return binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")
