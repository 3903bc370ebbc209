"""The files that settings name: whether they can be used, alone and together."""

from collections.abc import Iterator, Mapping

from rustygate.config import names
from rustygate.config.clients_file import read_clients_file
from rustygate.config.kinds import DATA_DIRECTORY, UNIX_PREFIX
from rustygate.config.masking import show_rejected
from rustygate.config.prices_file import read_prices_file
from rustygate.core.clients import ClientsError
from rustygate.core.price_list import PricesError
from rustygate.system import tls
from rustygate.system.data_dir import is_no_directory


def file_problems(variables: Mapping[str, str]) -> Iterator[str]:
    """One line for each file that cannot be used."""
    yield from _server_tls_problems(variables)
    yield from _ca_file_problems(variables)
    yield from _clients_problems(variables)
    yield from _data_dir_problems(variables)
    yield from _prices_problems(variables)


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


def _data_dir_problems(variables: Mapping[str, str]) -> Iterator[str]:
    path = variables.get(names.DATA_DIR)
    if path is not None and is_no_directory(path):
        yield _problem(variables, names.DATA_DIR, f"{DATA_DIRECTORY.expected} (Not a directory)")


def _prices_problems(variables: Mapping[str, str]) -> Iterator[str]:
    path = variables.get(names.PRICES_FILE)
    try:
        if path is not None:
            read_prices_file(path)
    except PricesError as error:
        for problem in error.problems:
            yield f"{names.PRICES_FILE}={show_rejected(path or '')}: {problem}"


def _problem(variables: Mapping[str, str], name: str, expected: str) -> str:
    return f"{name}={show_rejected(variables[name])}: expected {expected}"
