"""`rustygate key`: make a client's key, and its table for CLIENTS_FILE."""

import argparse
import secrets

from rustygate.cli.errors import CommandError
from rustygate.cli.output import OutputError, print_lines
from rustygate.config import append_to_clients_file
from rustygate.core.clients import ClientsError, hash_key, is_valid_name

KEY_BITS = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", type=_client_name, metavar="NAME", help="the client's name")
    output = parser.add_mutually_exclusive_group()
    output.add_argument(
        "--toml", action="store_true", help="print only the table, and the key to stderr"
    )
    output.add_argument(
        "--hash-only", action="store_true", help="print only the key's hash, and the key to stderr"
    )
    output.add_argument(
        "--append", metavar="FILE", help="add the table to a clients file, and print the key"
    )


def run(arguments: argparse.Namespace) -> int:
    name: str = arguments.name
    key = f"rg-{secrets.token_urlsafe(KEY_BITS // 8)}"
    table = f'[client.{_toml_key(name)}]\nkey_sha256 = "{hash_key(key)}"'
    shown = f"Key of {name}, shown only once; its app sends it as its OpenAI API key:\n\n{key}\n"
    if arguments.toml or arguments.hash_only:
        # The key first: without it, its hash is useless.
        print_lines(key, stream="stderr")
        print_lines(table if arguments.toml else hash_key(key))
    elif arguments.append is not None:
        _append(arguments.append, name, table, shown)
        print_lines(f"Added to {arguments.append}; send the gate SIGHUP.")
    else:
        add = f"Add to CLIENTS_FILE, then send the gate SIGHUP:\n\n{table}"
        print_lines(shown, add)
    return 0


def _append(file: str, name: str, table: str, shown: str) -> None:
    """Add a table to a clients file, once the key is shown."""
    try:
        append_to_clients_file(file, name, table, before=lambda: print_lines(shown))
    except OutputError as error:
        raise CommandError(f"cannot show the key: {error.reason}; {file} is unchanged") from error
    except ClientsError as error:
        problems = [f"{file}: {problem}" for problem in error.problems]
        raise CommandError(*problems, exit_code=2) from error
    except OSError as error:
        raise CommandError(f"cannot write {file}: {error.strerror}") from error


def _client_name(text: str) -> str:
    if not is_valid_name(text):
        raise argparse.ArgumentTypeError(
            f"expected at most 64 letters, digits, `_`, `.` and `-`, got {text!a}"
        )
    return text


def _toml_key(name: str) -> str:
    """A name as a TOML key, quoted if a dot would split it."""
    return f'"{name}"' if "." in name else name
