"""`rustygate key`: make a client's key, and its table for CLIENTS_FILE."""

import argparse
import secrets

from rustygate.core.clients import hash_key, is_valid_name

KEY_BITS = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", type=_client_name, metavar="NAME", help="the client's name")


def run(arguments: argparse.Namespace) -> int:
    key = f"rg-{secrets.token_urlsafe(KEY_BITS // 8)}"
    table = f'[client.{_toml_key(arguments.name)}]\nkey_sha256 = "{hash_key(key)}"'
    print(
        f"Key of {arguments.name}, shown only once; its app sends it as its OpenAI API key:",
        f"\n{key}\n",
        "Add to CLIENTS_FILE, then send the gate SIGHUP:",
        f"\n{table}",
        sep="\n",
        flush=True,
    )
    return 0


def _client_name(text: str) -> str:
    if not is_valid_name(text):
        raise argparse.ArgumentTypeError(
            f"expected at most 64 letters, digits, `_`, `.` and `-`, got {text!a}"
        )
    return text


def _toml_key(name: str) -> str:
    """A name as a TOML key, quoted if a dot would split it."""
    return f'"{name}"' if "." in name else name
