"""The sides of the comparison: direct, the floor, the gate, the peers. Each starts on demand."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from scripts.benchmarks.peers import CACHE, Launch, Peer, install_once
from scripts.benchmarks.processes import TEST_CORE, free_port, process
from scripts.benchmarks.wire import KEY

DIRECT, FLOOR, GATE = "direct", "floor", "RustyGate"

# How long a peer may take to start. LiteLLM imports modules for ten seconds, on a shared core.
PEER_START_TIMEOUT_S = 90

CLIENTS = """[client.bench]
key_sha256 = "{digest}"
weight = 2
models = ["gpt-*"]

[client.other]
key_sha256 = "{other}"
requests_per_second = 5
"""


@dataclass(frozen=True, slots=True)
class Side:
    """A target of the load.

    Args:
        pid: the leader of the processes under test; 0 for direct, which has none.
        headers: header lines that it needs in each request.
        any_path: whether it forwards more than chat completions, WebSockets included.
    """

    name: str
    port: int
    pid: int = 0
    headers: str = ""
    any_path: bool = True


@dataclass(frozen=True, slots=True)
class Contender:
    """A side that can be started, more than once if need be."""

    name: str
    start: Callable[[], AbstractContextManager[Side]]


def write_clients(scratch: Path) -> Path:
    """Write a CLIENTS_FILE with a client that has the benchmark's key."""
    path = scratch / "clients.toml"
    digests = (sha256(key.encode()).hexdigest() for key in (KEY, "other"))
    path.write_text(CLIENTS.format(**dict(zip(("digest", "other"), digests, strict=True))))
    return path


def gate_environ(upstream: str, scratch: Path) -> dict[str, str]:
    """The gate's environment: all features on, and limits that are never reached.

    The features are client keys, metrics, a log line per exchange, and, with the DATA_DIR that
    `ours` adds, the usage record in SQLite.
    """
    return {
        "OPENAI_API_KEY": "sk-upstream",
        "OPENAI_BASE_URL": f"{upstream}/v1",
        "CLIENTS_FILE": str(write_clients(scratch)),
        "RATE_LIMIT": "1000000",
        "RATE_LIMIT_BURST": "1000000",
        "RUST_LOG": "info",
    }


def ours(name: str, module: str, environ: Mapping[str, str]) -> Contender:
    """A contender that runs a module of this repository, each time with a new DATA_DIR."""

    @contextmanager
    def start() -> Iterator[Side]:
        port = free_port()
        with TemporaryDirectory() as data:
            variables = {**environ, "DATA_DIR": data}
            with process(TEST_CORE, (sys.executable, "-m", module), variables, port) as pid:
                yield Side(name, port, pid)

    return Contender(name, start)


FLOOR_MODULE, GATE_MODULE = "scripts.benchmarks.floor", "rustygate"


def floor_and_gate(upstream: str, gate: Mapping[str, str]) -> list[Contender]:
    return [
        ours(FLOOR, FLOOR_MODULE, {"UPSTREAM": upstream}),
        ours(GATE, GATE_MODULE, gate),
    ]


def direct(port: int) -> Contender:
    @contextmanager
    def start() -> Iterator[Side]:
        yield Side(DIRECT, port)

    return Contender(DIRECT, start)


def peer(each: Peer, upstream: str, quota: int | None = None) -> Contender:
    """A contender that is installed when it first starts; a quota is in requests a second."""

    @contextmanager
    def start() -> Iterator[Side]:
        home = CACHE / each.name
        install_once(home, each.version, each.install)
        port = free_port()
        launch: Launch = each.start(home, port, upstream, quota)
        with process(TEST_CORE, launch.command, launch.environ, port, PEER_START_TIMEOUT_S) as pid:
            yield Side(each.name, port, pid, launch.headers, each.any_path)

    return Contender(each.name, start)
