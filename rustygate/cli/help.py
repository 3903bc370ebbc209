"""`rustygate help`: the help of a command, or of all of them."""

import argparse

from rustygate.cli import check_command, main


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "topic",
        nargs="?",
        type=check_command,
        metavar="COMMAND",
        help="the command (default: an overview of all commands)",
    )


def run(arguments: argparse.Namespace) -> int:
    return main(["--help"] if arguments.topic is None else [arguments.topic, "--help"])
