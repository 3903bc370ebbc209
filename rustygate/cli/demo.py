"""`rustygate demo`: run the gate before a simulator."""

import argparse
import asyncio
import os
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from urllib.parse import urlsplit

from aiohttp import TCPConnector, UnixConnector

from rustygate.cli.demo_traffic import traffic
from rustygate.cli.environment import DIRECT, DOTENV, WITHOUT_KEY
from rustygate.cli.gate import running_gate
from rustygate.cli.signals import stop_signals
from rustygate.cli.simulator import running_simulator
from rustygate.cli.urls import reachable
from rustygate.config import UNIX, forget_secrets, load
from rustygate.simulator import Options
from rustygate.telemetry import log

_DEMO = """\
RustyGate's demonstration. No key is needed and nothing is spent: a simulator of OpenAI's API
stands behind the gate. Try, in another terminal:

  {curl}/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"model": "gpt-4o-mini", "messages": [{{"role": "user", "content": "Hello"}}]}}'

or add "stream": true and curl's -N.{sdk}

What the simulator saw: {upstream}/simulator/stats
Ctrl-C ends it.
"""


_DEMO_SDK = """ Or in Python, after `pip install openai`:

  from openai import OpenAI
  client = OpenAI(base_url="{url}/v1", api_key="any")
  print(client.responses.create(model="gpt-4o-mini", input="Hello").output_text)"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--traffic",
        action="store_true",
        help="let a few clients share it, and tell each second who waited how long",
    )


def run(arguments: argparse.Namespace) -> int:
    unset = {**WITHOUT_KEY, **DIRECT, "OPENAI_BASE_URL": "", "CLIENTS_FILE": ""}
    settings = load({**os.environ, **unset}, dotenv=DOTENV)
    forget_secrets()
    # Lines of a hundred exchanges a second would drown those that tell of the traffic.
    log.configure("warn" if arguments.traffic else settings.rust_log, settings.log_format)

    async def demonstrate() -> None:
        signals = stop_signals()
        async with running_simulator(Options(), "127.0.0.1", 0) as upstream:
            simulated = replace(settings, openai_base_url=f"{upstream}/v1")
            async with running_gate(simulated, signals) as gate:
                port = urlsplit(gate.url).port or settings.port
                url = reachable(settings, port)
                print(_what_to_try(url, upstream), flush=True)
                async with _traffic(url) if arguments.traffic else nullcontext():
                    await signals.get()

    asyncio.run(demonstrate())
    return 0


@asynccontextmanager
async def _traffic(url: str) -> AsyncIterator[None]:
    """The demonstration's clients, at work."""
    unix = url.startswith(UNIX)
    # The gate's certificate is for those who come by its name.
    connector = UnixConnector(url.removeprefix(UNIX)) if unix else TCPConnector(limit=0, ssl=False)
    async with traffic("http://localhost" if unix else url, connector):
        yield


def _what_to_try(url: str, upstream: str) -> str:
    if url.startswith(UNIX):
        path = shlex.quote(url.removeprefix(UNIX))
        return _DEMO.format(
            curl=f"curl --unix-socket {path} http://localhost", sdk="", upstream=upstream
        )
    sdk = _DEMO_SDK.format(url=url)
    return _DEMO.format(curl=f"curl {url}", sdk=sdk, upstream=upstream)
