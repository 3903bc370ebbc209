"""The command line: serve (default), demo, simulate, plan, key, check, health.

Exit codes: 0 a clean stop, 1 a failure while running, 2 bad configuration or usage. What goes
wrong is one line each on stderr, never a traceback with values in it.

The server's modules are imported by the commands that serve: `health` runs every few seconds in a
container, and they take longer to import than it takes to answer.
"""

import argparse
import asyncio
import gc
import os
import resource
import secrets
import shlex
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import replace
from errno import EADDRNOTAVAIL
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from loguru import logger

from rustygate import __version__
from rustygate.config import (
    ADMIN_KEY_FILE,
    KEY,
    KEY_FILE,
    PROXIES,
    TRUST,
    UNIX,
    ConfigError,
    Settings,
    describe,
    forget_secrets,
    limits,
    load,
    without_password,
)
from rustygate.core.clients import ClientsError, hash_of, is_name
from rustygate.system import tls
from rustygate.system.systemd import ServiceManager
from rustygate.telemetry import log

if TYPE_CHECKING:
    from rustygate.daemon import Daemon
    from rustygate.simulator import Options

DOTENV = Path(".env")

# The gate answers /health at once or not at all.
HEALTH_TIMEOUT_S = 3.0

KEY_BITS = 256

SIMULATOR_PORT = 9010

# For commands that need no key, in place of one, whatever the environment or `.env` holds.
_NO_KEY = {KEY: "sk-made-up-no-key-is-needed", KEY_FILE: "", ADMIN_KEY_FILE: ""}

# The demonstration's upstream is on loopback: no proxy is on the way, and nobody to be trusted.
_NO_WAY = {
    **{spelt: "" for name in PROXIES for spelt in (name, name.lower())},
    **dict.fromkeys(TRUST, ""),
}

_EXPOSED = (
    "BIND_ADDRESS={} lets other machines connect: whoever can is served, without a key of their "
    "own, and spends the upstream key; CLIENTS_FILE lets only those in who have one"
)


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


class Failure(Exception):
    """A failure that has been understood; its text is for the person at the terminal."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` names and return the exit code."""
    arguments = _parse(sys.argv[1:] if argv is None else argv)
    try:
        code: int = arguments.command(arguments)
        return code
    except ConfigError as error:
        return _complain(2, *error.problems)
    except Failure as error:
        return _complain(1, str(error))
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:
        # What is left in the buffer would raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return _complain(1, f"failed\n{log.places(error)}")


def _complain(code: int, *lines: str) -> int:
    for line in lines:
        print(f"rustygate: {line}", file=sys.stderr)
    return code


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="rustygate",
        description="A small daemon between apps and the OpenAI API: it holds the key, keeps the "
        "rate, and streams the answers unchanged.",
        epilog="Settings come from the environment and from .env in the working directory; "
        "`rustygate check` lists them.",
    )
    parser.add_argument("--version", action="version", version=f"rustygate {__version__}")
    parser.set_defaults(command=_serve)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str) -> Any:
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        command.set_defaults(command=run)
        return command

    add("serve", _serve, "run the gate (the default)")
    demo = add("demo", _demo, "run the gate before a simulator; needs no key")
    demo.add_argument(
        "--traffic",
        action="store_true",
        help="let a few clients share it, and tell each second who waited how long",
    )
    simulate = add("simulate", _simulate, "run the simulator of OpenAI's API alone")
    plan = add("plan", _plan, "predict who would wait how long under which quota")
    add("check", _check, "validate the configuration and print it, secrets masked")
    key = add("key", _key, "make a key for a client, and show the table for CLIENTS_FILE")
    key.add_argument("name", type=_client_name, metavar="NAME", help="the client's name")
    health = add("health", _health, "succeed if the running gate answers")
    health.add_argument(
        "base_url", nargs="?", metavar="BASE-URL", help="default: as BIND_ADDRESS and PORT say"
    )
    if "simulate" in argv:
        _add_simulator_arguments(simulate)
    if "plan" in argv:
        _add_plan_arguments(plan)
    return parser.parse_args(argv)


def _add_simulator_arguments(parser: argparse.ArgumentParser) -> None:
    from rustygate.simulator import Options

    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument(
        "--port",
        type=_port,
        default=SIMULATOR_PORT,
        help="0: the system chooses one (default: %(default)s)",
    )
    Options.add_arguments(parser)


def _add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    from rustygate.plan import forecast as plan

    plan.add_arguments(parser)


def _client_name(text: str) -> str:
    if not is_name(text):
        raise argparse.ArgumentTypeError(
            f"expected a name of letters, digits, `_`, `.` and `-`, at most 64, got {text!a}"
        )
    return text


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 65535, got {text!r}")
    return int(text)


def _serve(_: argparse.Namespace) -> int:
    from rustygate.downstream.listener import handed_over, stated

    # Until it serves, there is nothing to reload; by default this would end it.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    manager, sockets = ServiceManager(os.environ), handed_over(os.environ)
    settings = stated(load(dotenv=DOTENV), sockets)
    forget_secrets()
    log.configure(settings.rust_log, settings.log_format)

    async def serve() -> None:
        signals, loop = _signals(), asyncio.get_running_loop()
        async with _gate(settings, signals, sockets) as daemon:
            _open_many_files(settings.connection_limit)
            loop.add_signal_handler(signal.SIGHUP, _reload, daemon, manager)
            manager.ready()
            await signals.get()
            loop.add_signal_handler(signal.SIGHUP, lambda: None)
            manager.stopping()

    asyncio.run(serve())
    return 0


def _reload(daemon: "Daemon", manager: ServiceManager) -> None:
    """What SIGHUP asks for. Whatever becomes of it, the gate goes on."""
    manager.reloading()
    try:
        if daemon.reload():
            logger.info("the clients' file was read again")
        else:
            logger.info("asked to reload, but nothing is there to be: settings take a restart")
    except ClientsError as error:
        for problem in error.problems:
            logger.error("the clients in force stay: CLIENTS_FILE: {}", problem)
    finally:
        manager.ready()


def _open_many_files(connection_limit: int) -> None:
    """Let the gate open as many files as the system allows, and tell if these are too few: each
    connection may need another one, upstream."""
    with suppress(OSError, ValueError):
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY != files < 2 * connection_limit:
        logger.warning(
            "at most {} files may be open; CONNECTION_LIMIT={} may need twice that many",
            files,
            connection_limit,
        )


def _demo(arguments: argparse.Namespace) -> int:
    unset = {**_NO_KEY, **_NO_WAY, "OPENAI_BASE_URL": "", "CLIENTS_FILE": ""}
    settings = load({**os.environ, **unset}, dotenv=DOTENV)
    forget_secrets()
    # Lines of a hundred exchanges a second would drown those that tell of the traffic.
    log.configure("warn" if arguments.traffic else settings.rust_log, settings.log_format)

    async def demonstrate() -> None:
        from rustygate.simulator import Options

        signals = _signals()
        async with _simulator(Options(), "127.0.0.1", 0) as upstream:
            simulated = replace(settings, openai_base_url=f"{upstream}/v1")
            async with _gate(simulated, signals) as gate:
                port = urlsplit(gate.url).port or settings.port
                url = _reachable(settings, port)
                print(_what_to_try(url, upstream), flush=True)
                async with _traffic(url) if arguments.traffic else nullcontext():
                    await signals.get()

    asyncio.run(demonstrate())
    return 0


@asynccontextmanager
async def _traffic(url: str) -> AsyncIterator[None]:
    """The demonstration's clients, at work."""
    from aiohttp import TCPConnector, UnixConnector

    from rustygate.cli.traffic import traffic

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


def _simulate(arguments: argparse.Namespace) -> int:
    log.configure("warn", "text")

    async def simulate() -> None:
        from rustygate.simulator import Options

        signals = _signals()
        options = Options.from_arguments(arguments)
        async with _simulator(options, arguments.host, arguments.port) as url:
            print(f"The simulator is at {url}/v1, its counts at {url}/simulator/stats", flush=True)
            await signals.get()

    asyncio.run(simulate())
    return 0


def _plan(arguments: argparse.Namespace) -> int:
    from rustygate.plan import forecast as plan

    asked = plan.from_arguments(arguments)
    print(*plan.lines(asked, plan.forecast(asked)), sep="\n", flush=True)
    return 0


def _key(arguments: argparse.Namespace) -> int:
    key = f"rg-{secrets.token_urlsafe(KEY_BITS // 8)}"
    table = f'[client.{_toml_key(arguments.name)}]\nkey_sha256 = "{hash_of(key)}"'
    print(
        f"The key of {arguments.name}, shown this once; its app sends it as its OpenAI key:",
        f"\n{key}\n",
        "For CLIENTS_FILE; then send the gate SIGHUP:",
        f"\n{table}",
        sep="\n",
        flush=True,
    )
    return 0


def _toml_key(name: str) -> str:
    """A name as a TOML key: a dot would part it."""
    return f'"{name}"' if "." in name else name


def _check(_: argparse.Namespace) -> int:
    settings = load(dotenv=DOTENV)
    lines = [f"{name}={value}" for name, value in describe(settings)]
    lines += ["", "Limits in force:", *(f"- {line}" for line in limits(settings))]
    print(*lines, sep="\n", flush=True)
    if settings.open_to_others:
        _complain(0, f"warning: {_EXPOSED.format(settings.bind_address)}")
    return 0


def _health(arguments: argparse.Namespace) -> int:
    base_url = arguments.base_url or _own_url()
    try:
        connection, path = _connection_to(base_url, own=arguments.base_url is None)
    except ValueError:
        expected = "expected a base URL such as http://localhost:8080, or unix:/path"
        return _complain(2, f"{base_url!r}: {expected}")
    try:
        connection.request("GET", f"{path.rstrip('/').removesuffix('/v1')}/health")
        status = connection.getresponse().status
    except (OSError, HTTPException, ValueError) as error:
        raise Failure(f"{base_url} does not answer: {_reason(error)}") from error
    finally:
        connection.close()
    if status != 200:
        raise Failure(f"{base_url} answers /health with {status}")
    print("OK", flush=True)
    return 0


class _UnixConnection(HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=HEALTH_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(HEALTH_TIMEOUT_S)
        self.sock.connect(self._path)


def _connection_to(base_url: str, *, own: bool) -> tuple[HTTPConnection, str]:
    """A connection, not made yet, and the path below it. Raises ValueError if it is no URL.

    Args:
        own: it is this machine, whose certificate has other names than it is asked by here.
    """
    if base_url.startswith(UNIX):
        return _UnixConnection(base_url.removeprefix(UNIX)), ""
    parts = urlsplit(base_url)
    if parts.hostname is None or parts.scheme not in ("http", "https"):
        raise ValueError("no base URL")
    if parts.scheme == "http":
        return HTTPConnection(parts.hostname, parts.port, timeout=HEALTH_TIMEOUT_S), parts.path
    context = tls.unverified_context() if own else None
    connection = HTTPSConnection(
        parts.hostname, parts.port, timeout=HEALTH_TIMEOUT_S, context=context
    )
    return connection, parts.path


def _own_url() -> str:
    """Where a gate with these settings is reached from this machine."""
    settings = load({**os.environ, **_NO_KEY, "CLIENTS_FILE": ""}, dotenv=DOTENV)
    return _reachable(settings, settings.port)


def _reachable(settings: Settings, port: int) -> str:
    """A URL to connect to, for a gate that listens as the settings say, on that port."""
    address = settings.bind_address
    if settings.socket_path is not None:
        return address
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
    return _url(host, port, "https" if settings.tls_cert_file else "http")


def _url(host: str, port: int, scheme: str = "http") -> str:
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _reason(error: Exception) -> str:
    """What an error means, in words that hold no value of anybody's."""
    if isinstance(error, ssl.SSLError):
        return tls.words(error)
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno) if error.errno > 0 else str(error.strerror)
    return type(error).__name__


def _signals() -> asyncio.Queue[int]:
    """SIGTERM and SIGINT, from now on, as they come."""
    signals: asyncio.Queue[int] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, signals.put_nowait, number)
    return signals


@asynccontextmanager
async def _gate(
    settings: Settings, signals: asyncio.Queue[int], sockets: Sequence[socket.socket] = ()
) -> "AsyncIterator[Daemon]":
    """A serving gate. At the end it drains; another signal stops it at once."""
    from rustygate.daemon import Daemon
    from rustygate.downstream.listener import Occupied
    from rustygate.telemetry.tracing import configured

    daemon = Daemon(settings, sockets, configured(settings))
    try:
        await daemon.start()
    except Occupied as error:
        raise Failure(f"cannot listen on {settings.bind_address}: {error}") from error
    except OSError as error:
        port = None if settings.socket_path else settings.port
        raise _cannot_listen(settings.bind_address, port, error) from error
    _collect_seldom()
    try:
        _announce(settings, daemon.url)
        yield daemon
        logger.info("draining")
        await _unless_signalled(daemon.drain(), signals)
    finally:
        await daemon.stop()
    logger.info("stopped")


def _collect_seldom() -> None:
    """Let the garbage collector look for cycles less often, and not at what is there by now.

    An exchange leaves none behind: at the default threshold the looking costs a request 6%.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


async def _unless_signalled(work: Coroutine[Any, Any, None], signals: asyncio.Queue[int]) -> None:
    """Do `work`, or give it up at the next signal."""
    working = asyncio.create_task(work)
    signalled = asyncio.create_task(signals.get())
    await asyncio.wait((working, signalled), return_when=asyncio.FIRST_COMPLETED)
    signalled.cancel()
    if working.done():
        working.result()
    working.cancel()


def _announce(settings: Settings, url: str) -> None:
    logger.bind(
        url=url,
        upstream=settings.openai_base_url,
        proxy=settings.proxy and without_password(settings.proxy),
        rate_limit=settings.rate_limit,
        rate_limit_burst=settings.rate_limit_burst,
        concurrency_limit=settings.concurrency_limit,
    ).info("listening")
    if settings.open_to_others:
        logger.warning(_EXPOSED, settings.bind_address)


@asynccontextmanager
async def _simulator(options: "Options", host: str, port: int) -> AsyncIterator[str]:
    """A serving simulator's URL, without a path."""
    from aiohttp import web

    from rustygate.simulator import make_app

    runner = web.AppRunner(make_app(options), access_log=None, shutdown_timeout=0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise _cannot_listen(host, port, error) from error
        yield _url(host, site.port)
    finally:
        await runner.cleanup()


def _cannot_listen(host: str, port: int | None, error: OSError) -> Failure:
    where = host if port is None else f"{host}, port {port}"
    # Python 3.13 passes over addresses that are another machine's, and then has no number for it.
    reason = os.strerror(EADDRNOTAVAIL) if error.errno is None else _reason(error)
    return Failure(f"cannot listen on {where}: {reason}")
