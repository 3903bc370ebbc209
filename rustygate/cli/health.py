"""`rustygate health`: check that the running gate responds.

A container runs it every few seconds, so it imports little.
"""

import argparse
import os
from contextlib import suppress
from http.client import HTTPException

from rustygate.cli.environment import DOTENV, WITHOUT_KEYS
from rustygate.cli.errors import CommandError, describe_error
from rustygate.cli.gate_http import connect
from rustygate.cli.output import OutputError, print_lines
from rustygate.cli.urls import local_url
from rustygate.config import load

# A gate that works responds to /health at once.
TIMEOUT_S = 3.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "base_url",
        nargs="?",
        metavar="BASE-URL",
        help="the gate's URL, or unix:/path (default: from BIND_ADDRESS and PORT)",
    )


def run(arguments: argparse.Namespace) -> int:
    base_url = arguments.base_url or _configured_url()
    connection, path = connect(base_url, TIMEOUT_S, verify=arguments.base_url is not None)
    try:
        connection.request("GET", f"{path}/health")
        status = connection.getresponse().status
    except (OSError, HTTPException, ValueError) as error:
        raise CommandError(f"{base_url} does not respond: {describe_error(error)}") from error
    finally:
        connection.close()
    if status != 200:
        raise CommandError(f"{base_url} responds to /health with status {status}")
    # What matters about a health check is its exit code.
    with suppress(OutputError):
        print_lines("OK")
    return 0


def _configured_url() -> str:
    """The URL at which this machine reaches a gate with the current settings."""
    settings = load({**os.environ, **WITHOUT_KEYS, "CLIENTS_FILE": ""}, dotenv=DOTENV)
    return local_url(settings, settings.port)
