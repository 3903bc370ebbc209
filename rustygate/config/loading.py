"""Loading: the environment over `.env`, secrets from files, and all problems at once.

An empty variable counts as unset; surrounding whitespace is removed. Nothing is written to
`os.environ`, and no secret appears in a problem.
"""

import os
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import fields
from io import StringIO
from pathlib import Path

from dotenv.parser import Binding, parse_stream
from environs import ValidationError

from rustygate.config import names
from rustygate.config.clients_file import read_clients_file
from rustygate.config.env_reader import EnvReader
from rustygate.config.kinds import KEY_LIMIT, UNIX_PREFIX, check_header_value
from rustygate.config.masking import show_rejected
from rustygate.config.settings import Settings, kind_of, variable_of
from rustygate.core.clients import ClientsError
from rustygate.system import tls


class ConfigError(Exception):
    """The configuration is invalid; `problems` has one line for each reason."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load(environ: Mapping[str, str] | None = None, *, dotenv: Path | None = None) -> Settings:
    """The settings from `environ`, by default the process's, over those in the file `dotenv`.

    Values in the file are used as written; variables in them are not expanded. The file may be
    missing. Raises ConfigError.
    """
    problems: list[str] = []
    variables = _with_upper_case_proxies(_read_dotenv(dotenv, problems) if dotenv else {})
    variables |= _with_upper_case_proxies(os.environ if environ is None else environ)
    variables = {name: value.strip() for name, value in variables.items() if value.strip()}
    _add_systemd_credential(variables)
    for secret, file in names.SECRET_FILES.items():
        if file in variables:
            _read_secret_file(variables, secret, problems)
    reader = EnvReader(variables)
    values = {setting.name: reader.read(setting) for setting in fields(Settings)}
    problems += reader.problems()
    problems += _server_tls_problems(variables)
    problems += _ca_file_problems(variables)
    problems += _clients_problems(variables)
    if problems:
        raise ConfigError(problems)
    return Settings(**values)


def forget_secrets(environ: MutableMapping[str, str] = os.environ) -> None:
    """Remove the secrets from the environment once they are loaded.

    A dump of the environment or a child process then contains none. The kernel's copy of the
    environment at process start (Linux: /proc/PID/environ) cannot be changed.
    """
    for setting in fields(Settings):
        if kind_of(setting).secret:
            environ.pop(variable_of(setting), None)


def _add_systemd_credential(variables: dict[str, str]) -> None:
    """Without a variable for the upstream key, read it from systemd's credential, if present."""
    directory = variables.get(names.CREDENTIALS_DIRECTORY)
    if directory is None or variables.keys() & {names.API_KEY, names.API_KEY_FILE}:
        return
    path = os.path.join(directory, names.CREDENTIAL)
    if os.path.exists(path):
        variables[names.API_KEY_FILE] = path


def _read_secret_file(variables: dict[str, str], secret: str, problems: list[str]) -> None:
    """Set the variable `secret` to the content of its file."""
    file = names.SECRET_FILES[secret]
    if secret in variables:
        expected = f"only one of {secret} and {file} to be set"
        problems.append(_problem(variables, file, expected))
        return
    try:
        variables[secret] = _read_key(variables[file])
    except (OSError, ValueError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its content is not a key"
        expected = f"the path of a file that contains one key ({reason})"
        problems.append(_problem(variables, file, expected))


def _read_key(path: str) -> str:
    """The key in a file. Raises OSError, or ValueError or ValidationError for other content."""
    with open(path, "rb") as file:
        # Room for a byte order mark and for the line's end.
        key = file.read(KEY_LIMIT + 5).decode("utf-8-sig").strip()
    check_header_value(key)
    return key


def _server_tls_problems(variables: Mapping[str, str]) -> Iterator[str]:
    """What prevents the gate from serving HTTPS with the certificate and key it is given."""
    cert, key = variables.get(names.TLS_CERT_FILE), variables.get(names.TLS_KEY_FILE)
    if cert is None or key is None:
        expected = f"{names.TLS_CERT_FILE} and {names.TLS_KEY_FILE} to be set together"
        for name in variables.keys() & {names.TLS_CERT_FILE, names.TLS_KEY_FILE}:
            yield _problem(variables, name, expected)
        return
    if variables.get(names.BIND_ADDRESS, "").startswith(UNIX_PREFIX):
        expected = f"a {names.BIND_ADDRESS} other than a unix socket"
        yield _problem(variables, names.TLS_CERT_FILE, expected)
    cert_problem = tls.pem_problem(cert, tls.CERTIFICATE)
    key_problem = tls.pem_problem(key, tls.PRIVATE_KEY)
    if cert_problem:
        expected = f"the path of a PEM file with a certificate ({cert_problem})"
        yield _problem(variables, names.TLS_CERT_FILE, expected)
    if key_problem:
        expected = f"the path of a PEM file with a key ({key_problem})"
        yield _problem(variables, names.TLS_KEY_FILE, expected)
    if not cert_problem and not key_problem and (problem := tls.key_pair_problem(cert, key)):
        expected = f"the key of {names.TLS_CERT_FILE}'s certificate, not encrypted ({problem})"
        yield _problem(variables, names.TLS_KEY_FILE, expected)


def _ca_file_problems(variables: Mapping[str, str]) -> Iterator[str]:
    path = variables.get(names.SSL_CERT_FILE)
    if path is not None and (problem := tls.ca_file_problem(path)):
        yield _problem(variables, names.SSL_CERT_FILE, f"a PEM file of certificates ({problem})")


def _clients_problems(variables: Mapping[str, str]) -> Iterator[str]:
    path = variables.get(names.CLIENTS_FILE)
    try:
        if path is not None:
            read_clients_file(path)
    except ClientsError as error:
        for problem in error.problems:
            yield f"{names.CLIENTS_FILE}={show_rejected(path or '')}: {problem}"


def _problem(variables: Mapping[str, str], name: str, expected: str) -> str:
    return f"{name}={show_rejected(variables[name])}: expected {expected}"


def _with_upper_case_proxies(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables with those of proxies in upper case; lower case takes precedence."""
    lower = {
        name: variables[name.lower()]
        for name in names.PROXY_VARIABLES
        if name.lower() in variables
    }
    return {**variables, **lower}


def _read_dotenv(path: Path, problems: list[str]) -> dict[str, str]:
    try:
        text = path.read_text("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        # A directory of this name may be a virtual environment.
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
            problems.append(f"{path} line {_line_number(binding)}: expected NAME=value")
    return values


def _line_number(binding: Binding) -> int:
    """The line of a binding; the parser's own number is that of the blank lines before it."""
    text = binding.original.string
    return binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")
