"""The command line: the table of commands, and what is common to all of them.

To add a command, add its name and help text to `COMMANDS`, and write a module
`rustygate/cli/NAME.py` with `add_arguments(parser)` and `run(arguments)`, which returns the exit
code. A command's module is imported only when that command runs: `health` runs every few seconds
in a container, and importing the server takes longer than the health check.

Exit codes: 0 clean stop, 1 failure at run time, 2 bad configuration or usage. An error is one line
on stderr, never a traceback with values in it.
"""

import argparse
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import NoReturn

from rustygate import __version__
from rustygate.cli.errors import CommandError, print_errors, print_warnings
from rustygate.cli.output import drop_unwritten, flush_help
from rustygate.config import ConfigError
from rustygate.telemetry import log

COMMANDS = {
    "serve": "run the gate (default)",
    "demo": "run the gate in front of a simulator; needs no key",
    "simulate": "run the simulator of the OpenAI API on its own",
    "plan": "predict how long each client would wait under a quota",
    "check": "validate the configuration and print it, with secrets masked",
    "key": "make a key for a client and print its table for CLIENTS_FILE",
    "usage": "report the tokens and cost of clients and models by day",
    "top": "show the state of the running gate, once a second",
    "health": "succeed if the running gate responds",
    "help": "show the help of a command",
}
DEFAULT_COMMAND = "serve"

# Options before a command; others belong to the default command.
GENERAL_OPTIONS = ("-h", "--help", "--version")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` names and return the exit code."""
    try:
        arguments = _parse(sys.argv[1:] if argv is None else argv)
        code: int = import_module(f"{__name__}.{arguments.command}").run(arguments)
        return code
    except ConfigError as error:
        print_errors(*error.problems)
        print_warnings(*error.warnings)
        return 2
    except CommandError as error:
        print_errors(*error.lines)
        return error.exit_code
    except KeyboardInterrupt:
        return 0
    except Exception as error:
        print_errors(f"internal error\n{log.format_exception(error)}")
        return 1
    finally:
        drop_unwritten()


def check_command(name: str) -> str:
    """The name of a command. Raises argparse.ArgumentTypeError with the nearest one."""
    if name in COMMANDS:
        return name
    nearest = get_close_matches(name.lower(), COMMANDS, n=1)
    advice = f"did you mean {nearest[0]}?" if nearest else f"expected {', '.join(COMMANDS)}"
    raise argparse.ArgumentTypeError(f"unknown command {name!r}; {advice}")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """End with exit code 2. The argparse of early Python 3.11 fails if it cannot print."""
        try:
            super().error(message)
        except (OSError, AttributeError):
            sys.exit(2)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="rustygate",
        description="A small daemon between apps and the OpenAI API. It holds the API key, "
        "enforces the rate limit, and streams responses unchanged.",
        epilog="Settings come from the environment and from .env in the working directory; "
        "`rustygate check` lists them.",
    )
    parser.add_argument("--version", action="version", version=f"rustygate {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    if not argv or (argv[0].startswith("-") and argv[0] not in GENERAL_OPTIONS):
        argv = [DEFAULT_COMMAND, *argv]
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        if name == argv[0]:
            import_module(f"{__name__}.{name}").add_arguments(command)
    if argv[0] not in GENERAL_OPTIONS:
        _require_command(parser, argv[0])
    try:
        return parser.parse_args(argv)
    except SystemExit:
        flush_help()
        raise


def _require_command(parser: argparse.ArgumentParser, name: str) -> None:
    try:
        check_command(name)
    except argparse.ArgumentTypeError as error:
        parser.error(str(error))
