"""`rustygate simulate`: run the simulator of the OpenAI API on its own, a line per request."""

import argparse
from contextlib import suppress

from rustygate.cli.output import OutputError, print_lines
from rustygate.cli.signals import Signals, run_with_signals
from rustygate.cli.simulator_server import running_simulator
from rustygate.simulator import Options, RequestSummary
from rustygate.telemetry import log

DEFAULT_PORT = 9010


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s)"
    )
    parser.add_argument(
        "--port",
        type=_port,
        default=DEFAULT_PORT,
        help="port to listen on; 0: the system chooses a free one (default: %(default)s)",
    )
    Options.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    log.configure("warn", "text")

    async def simulate(signals: Signals) -> None:
        options = Options.from_arguments(arguments)
        host, port = arguments.host, arguments.port
        async with running_simulator(options, host, port, _print_request) as url:
            _print(f"Simulator listening on {url}/v1, statistics at {url}/simulator/stats")
            await signals.get()

    run_with_signals(simulate)
    return 0


def _print_request(summary: RequestSummary) -> None:
    """Print how a request ended; tokens are those of the input and of the output."""
    tokens = f"{summary.tokens_in}+{summary.tokens_out}"
    end = "" if summary.end == "complete" else f"  {summary.end}"
    _print(
        f"{summary.method:<6} {summary.path:<24} {summary.model or '-':<22} "
        f"{summary.status or '-':>3} {tokens:>11} tokens {summary.milliseconds:>7} ms{end}"
    )


def _print(line: str) -> None:
    """Print a line if possible; the simulator keeps serving even if nobody reads its output."""
    with suppress(OutputError):
        print_lines(line)


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 65535, got {text!r}")
    return int(text)
