"""`rustygate demo`: run the gate in front of a simulator, on loopback, without a key."""

import argparse
import os
import shlex
from dataclasses import replace
from urllib.parse import urlsplit

from aiohttp import TCPConnector, UnixConnector

from rustygate.cli.demo_traffic import SIMULATED, introduction, run_clients
from rustygate.cli.environment import DOTENV, WITHOUT_KEYS, WITHOUT_PROXY_OR_CA
from rustygate.cli.gate_server import running_gate
from rustygate.cli.output import print_lines
from rustygate.cli.signals import Signals, run_until_signal, run_with_signals
from rustygate.cli.simulator_server import running_simulator
from rustygate.cli.urls import local_url
from rustygate.config import (
    UNIX_PREFIX,
    Settings,
    describe_limits,
    forget_secrets,
    load_configuration,
)
from rustygate.simulator import Options
from rustygate.telemetry import log

_INSTRUCTIONS = """\
RustyGate demo. No key is needed and nothing is spent: the gate forwards
requests to a simulator of the OpenAI API. Try in another terminal:

  {curl}/v1/chat/completions \\
    -H 'Content-Type: application/json' \\
    -d '{{"model": "gpt-5", "messages": [{{"role": "user", "content": "Hello"}}]}}'

To stream the response, add "stream": true to the body and -N to curl.
{sdk}
{page}
Requests that reached the simulator: {upstream}/simulator/stats
Press Ctrl-C to stop.
"""

_SDK_INSTRUCTIONS = """
Or in Python, after `pip install openai`:

  from openai import OpenAI
  client = OpenAI(base_url="{url}/v1", api_key="any")
  print(client.responses.create(model="gpt-5", input="Hello").output_text)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--traffic",
        action="store_true",
        help="run three kinds of clients and show in a table how long their requests wait",
    )


def run(arguments: argparse.Namespace) -> int:
    replaced = {**WITHOUT_KEYS, **WITHOUT_PROXY_OR_CA, "OPENAI_BASE_URL": "", "CLIENTS_FILE": ""}
    loaded = load_configuration({**os.environ, **replaced}, dotenv=DOTENV)
    settings = loaded.settings
    if arguments.traffic:
        # A log line for each of a hundred exchanges per second would bury the traffic's own lines.
        settings = replace(settings, rust_log="warn")
    forget_secrets()
    log.configure(settings.rust_log, settings.log_format)

    async def serve(signals: Signals) -> None:
        options = SIMULATED if arguments.traffic else Options()
        async with running_simulator(options, "127.0.0.1", 0) as upstream:
            simulated = replace(settings, openai_base_url=f"{upstream}/v1")

            def announce(gate_url: str) -> None:
                print_lines(_instructions(_reachable(settings, gate_url), upstream))

            async with running_gate(
                simulated, signals, hints=loaded.hints, announce=announce
            ) as gate:
                url = _reachable(settings, gate.url)
                if arguments.traffic:
                    print_lines(introduction(describe_limits(settings)))
                    await run_until_signal(_traffic(url), signals)
                else:
                    await signals.get()

    run_with_signals(serve)
    return 0


def _reachable(settings: Settings, gate_url: str) -> str:
    """The gate's URL for a client on this machine."""
    return local_url(settings, urlsplit(gate_url).port or settings.port)


async def _traffic(url: str) -> None:
    """Run the demo's clients."""
    if url.startswith(UNIX_PREFIX):
        await run_clients("http://localhost", UnixConnector(url.removeprefix(UNIX_PREFIX)))
    else:
        # The gate's certificate need not name the loopback address.
        await run_clients(url, TCPConnector(limit=0, ssl=False))


def _instructions(url: str, upstream: str) -> str:
    if url.startswith(UNIX_PREFIX):
        path = shlex.quote(url.removeprefix(UNIX_PREFIX))
        curl, sdk = f"curl --unix-socket {path} http://localhost", ""
        page = f"The state of the gate, as JSON: {curl}/gate/state"
    else:
        curl, sdk = f"curl {url}", _SDK_INSTRUCTIONS.format(url=url)
        page = f"The live page, in a browser: {url}/gate"
    return _INSTRUCTIONS.format(curl=curl, sdk=sdk, page=page, upstream=upstream)
