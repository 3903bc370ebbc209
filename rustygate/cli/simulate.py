"""`rustygate simulate`: run the simulator alone."""

import argparse
import asyncio

from rustygate.cli.signals import stop_signals
from rustygate.cli.simulator import running_simulator
from rustygate.simulator import Options
from rustygate.telemetry import log

SIMULATOR_PORT = 9010


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument(
        "--port",
        type=_port,
        default=SIMULATOR_PORT,
        help="0: the system chooses one (default: %(default)s)",
    )
    Options.add_arguments(parser)


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 65535, got {text!r}")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    log.configure("warn", "text")

    async def simulate() -> None:
        signals = stop_signals()
        options = Options.from_arguments(arguments)
        async with running_simulator(options, arguments.host, arguments.port) as url:
            print(f"The simulator is at {url}/v1, its counts at {url}/simulator/stats", flush=True)
            await signals.get()

    asyncio.run(simulate())
    return 0
