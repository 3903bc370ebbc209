"""Secrets from files instead of variables, and from systemd's credentials."""

import os
import re

from environs import ValidationError

from rustygate.config import names
from rustygate.config.kinds import KEY_LIMIT, QUOTES, check_header_value
from rustygate.config.masking import show_rejected


def read_secret_files(variables: dict[str, str], problems: list[str]) -> None:
    """Set the variable of each secret whose file is named; what is wrong goes to `problems`."""
    _add_systemd_credential(variables)
    for secret, file in names.SECRET_FILES.items():
        if file in variables:
            _read_from_file(variables, secret, problems)


def _add_systemd_credential(variables: dict[str, str]) -> None:
    """Without a variable for the upstream key, read it from systemd's credential, if present."""
    directory = variables.get(names.CREDENTIALS_DIRECTORY)
    if directory is None or variables.keys() & {names.API_KEY, names.API_KEY_FILE}:
        return
    path = os.path.join(directory, names.CREDENTIAL)
    if os.path.exists(path):
        variables[names.API_KEY_FILE] = path


def _read_from_file(variables: dict[str, str], secret: str, problems: list[str]) -> None:
    """Set the variable `secret` to the content of its file."""
    file = names.SECRET_FILES[secret]
    if secret in variables:
        expected = f"only one of {secret} and {file} to be set"
        problems.append(f"{file}={show_rejected(variables[file])}: expected {expected}")
        return
    try:
        variables[secret] = _read_key(variables[file])
    except (OSError, ValueError, ValidationError) as error:
        what = "URL" if secret == names.REDIS_URL else "key"
        reason = error.strerror if isinstance(error, OSError) else f"its content is not a {what}"
        expected = f"the path of a file that contains one {what} ({reason})"
        problems.append(f"{file}={show_rejected(variables[file])}: expected {expected}")


def _read_key(path: str) -> str:
    """The key in a file. Raises OSError, or ValueError or ValidationError for other content."""
    with open(path, "rb") as file:
        # Space for a byte order mark and a line ending.
        key = file.read(KEY_LIMIT + 5).decode("utf-8-sig").strip()
    check_header_value(key)
    if key.strip(QUOTES) != key or re.match(r"[A-Z_]+=.", key):
        raise ValueError("a key in quotes, or a line of a .env file")
    return key
