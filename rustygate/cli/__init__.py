"""The command line: one module per command, and the table of commands.

To add a command, write a module `rustygate/cli/NAME.py` with `add_arguments(parser)` and
`run(arguments)`, which returns the exit code, and add its name and help text to `COMMANDS`.

A command's module is imported only when that command runs: `health` runs every few seconds in a
container, and importing the server takes longer than checking its health.

Exit codes: 0 a clean stop, 1 a failure at run time, 2 bad configuration or usage. Each error is
one line on stderr, never a traceback that shows values.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from rustygate import __version__
from rustygate.cli.errors import CommandError, print_errors
from rustygate.config import ConfigError
from rustygate.telemetry import log

COMMANDS = {
    "serve": "run the gate (the default)",
    "demo": "run the gate before a simulator; needs no key",
    "simulate": "run the simulator of OpenAI's API alone",
    "plan": "predict who would wait how long under which quota",
    "check": "validate the configuration and print it, secrets masked",
    "key": "make a key for a client, and show the table for CLIENTS_FILE",
    "health": "succeed if the running gate answers",
}
DEFAULT_COMMAND = "serve"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` names and return the exit code."""
    arguments = _parse(sys.argv[1:] if argv is None else argv)
    try:
        code: int = import_module(f"{__name__}.{arguments.command}").run(arguments)
        return code
    except ConfigError as error:
        print_errors(*error.problems)
        return 2
    except CommandError as error:
        print_errors(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:
        # What is left in the buffer would raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        print_errors(f"failed\n{log.places(error)}")
        return 1


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="rustygate",
        description="A small daemon between apps and the OpenAI API: it holds the key, keeps the "
        "rate, and streams the answers unchanged.",
        epilog="Settings come from the environment and from .env in the working directory; "
        "`rustygate check` lists them.",
    )
    parser.add_argument("--version", action="version", version=f"rustygate {__version__}")
    parser.set_defaults(command=DEFAULT_COMMAND)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        if name in argv:
            import_module(f"{__name__}.{name}").add_arguments(command)
    return parser.parse_args(argv)
