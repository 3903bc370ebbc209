"""The sides of a comparison: direct, the floor, the gate, the peers; each started on demand."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from scripts.benchmarks.peers import CACHE, Peer, Start, once
from scripts.benchmarks.processes import free_port, process
from scripts.benchmarks.wire import KEY

DIRECT, FLOOR, GATE = "direct", "floor", "RustyGate"

# How long a peer may take to start: LiteLLM imports for ten seconds, on a core it shares.
PEER_PATIENCE_S = 90

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
    """What a load is sent to. `pid` leads the processes under test; direct has none, 0.

    `any_path`: whether it passes on what is no chat, WebSockets too.
    """

    name: str
    port: int
    pid: int = 0
    headers: str = ""
    any_path: bool = True


@dataclass(frozen=True, slots=True)
class Contender:
    """A side that can be started, also more than once."""

    name: str
    start: Callable[[], AbstractContextManager[Side]]


def write_clients(scratch: Path) -> Path:
    """A CLIENTS_FILE in which the bench's key is a client's."""
    path = scratch / "clients.toml"
    digests = (sha256(key.encode()).hexdigest() for key in (KEY, "other"))
    path.write_text(CLIENTS.format(**dict(zip(("digest", "other"), digests, strict=True))))
    return path


def gate_environ(upstream: str, scratch: Path) -> dict[str, str]:
    """Everything on, and limits that nothing runs into."""
    return {
        "OPENAI_API_KEY": "sk-upstream",
        "OPENAI_BASE_URL": f"{upstream}/v1",
        "CLIENTS_FILE": str(write_clients(scratch)),
        "RATE_LIMIT": "1000000",
        "RATE_LIMIT_BURST": "1000000",
        "RUST_LOG": "info",
    }


def ours(name: str, core: int, module: str, environ: Mapping[str, str]) -> Contender:
    """A contender that runs one of our modules."""

    @contextmanager
    def start() -> Iterator[Side]:
        port = free_port()
        with process(core, (sys.executable, "-m", module), environ, port) as pid:
            yield Side(name, port, pid)

    return Contender(name, start)


def direct(port: int) -> Contender:
    @contextmanager
    def start() -> Iterator[Side]:
        yield Side(DIRECT, port)

    return Contender(DIRECT, start)


def peer(each: Peer, core: int, upstream: str) -> Contender:
    """A contender that is installed when it is started for the first time."""

    @contextmanager
    def start() -> Iterator[Side]:
        home = CACHE / each.name
        once(home, each.version, each.install)
        port = free_port()
        how: Start = each.start(home, port, upstream)
        with process(core, how.command, how.environ, port, PEER_PATIENCE_S) as pid:
            yield Side(each.name, port, pid, how.headers, each.any_path)

    return Contender(each.name, start)
