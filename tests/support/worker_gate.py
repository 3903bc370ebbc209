"""A gate with several processes in front of an upstream on the test's event loop."""

import asyncio
import json
import os
import re
import signal
import sys
from codecs import getincrementaldecoder
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from tests.support.client import Client
from tests.support.dashboard import page_request
from tests.support.http import CLIENT_KEY, UPSTREAM_KEY, get
from tests.support.process import PROCESS_TIMEOUT_S, ROOT, children_of
from tests.support.streams import stream_over
from tests.support.upstream import Call, Upstream
from tests.support.waiting import until
from tests.support.wire import Wire

WORKERS = 3

HIGH_LIMITS = {"RATE_LIMIT": "100000", "RATE_LIMIT_BURST": "100000"}


class WorkerGate:
    """`rustygate serve` with WORKERS=3.

    Attributes:
        log: all that its processes have written to the pipe that is their stderr.
    """

    def __init__(self, process: asyncio.subprocess.Process, upstream: Upstream) -> None:
        self.process = process
        self.log = ""
        self._upstream = upstream
        self._clients: list[Client] = []
        self._reading = asyncio.get_running_loop().create_task(self._read_log())

    async def _read_log(self) -> None:
        assert self.process.stderr is not None
        decoder = getincrementaldecoder("utf-8")()
        while data := await self.process.stderr.read(65536):
            self.log += decoder.decode(data)

    @property
    def url(self) -> str:
        """The address, once it serves."""
        found = re.search(r'(?:url=|"url":")([^\s"]+)', self.log)
        return found[1] if found else ""

    @property
    def pids(self) -> list[int]:
        """Its workers now."""
        return children_of(self.process.pid)

    async def connect(self, pid: int | None = None, **options: Any) -> Client:
        """A new connection, to a certain worker if its process is given."""
        if pid is None:
            [client] = await self._connect(1, **options)
            return client
        return (await self._connect_to({pid}, **options))[pid]

    async def connect_to_each(self, **options: Any) -> list[Client]:
        """A connection to each worker."""
        pids = self.pids
        found = await self._connect_to(set(pids), **options)
        return [found[pid] for pid in pids]

    async def _connect_to(self, pids: set[int], **options: Any) -> dict[int, Client]:
        found: dict[int, Client] = {}
        while found.keys() != pids:
            # Several at a time: whichever worker is awake takes the next one.
            for client in await self._connect(4 * WORKERS, **options):
                pid = self.worker_of(client)
                if pid in pids and found.setdefault(pid, client) is client:
                    continue
                client.disconnect()
        return found

    async def _connect(self, count: int, **options: Any) -> list[Client]:
        wires = await asyncio.gather(*(Wire.connect(self.url, **options) for _ in range(count)))
        clients = [Client(wire) for wire in wires]
        self._clients += clients
        for client in clients:
            # A worker takes it before it reads the first request.
            client.send(get("/health"))
        for client in clients:
            assert (await client.response()).status == 200
        return clients

    def worker_of(self, client: Client) -> int | None:
        """The process that serves a connection; None if it has closed it, as one that drains."""
        inode = _inode(client)
        return next((pid for pid in self.pids if inode in _sockets_of(pid)), None)

    async def stream(self, pid: int) -> tuple[Client, Call]:
        """A stream through a certain worker; its first event has arrived."""
        client = await self.connect(pid)
        return client, await stream_over(client, self._upstream)

    async def state(self) -> Any:
        client = await self.connect()
        found = (await client.request(page_request("/gate/state"))).json
        client.disconnect()
        return found

    async def until_state(self, limit_s: float = PROCESS_TIMEOUT_S, **expected: object) -> None:
        """Wait until the state has these values, asked over one connection."""
        client = await self.connect()
        async with asyncio.timeout(limit_s):
            while True:
                found = (await client.request(page_request("/gate/state"))).json
                if expected.items() <= found.items():
                    break
                await asyncio.sleep(0.01)
        client.disconnect()

    async def until_logged(self, pattern: str, count: int = 1) -> list[Any]:
        """Wait until this many matches are in the log; returns them."""
        await until(lambda: len(re.findall(pattern, self.log)) >= count, PROCESS_TIMEOUT_S)
        return re.findall(pattern, self.log)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        """The exit code, once all its processes have ended."""
        async with asyncio.timeout(PROCESS_TIMEOUT_S):
            # The pipe ends with the last process.
            await self._reading
            return await self.process.wait()

    async def close(self) -> None:
        for client in self._clients:
            client.disconnect()
        for pid in (*self.pids, self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await self.ended()
        assert UPSTREAM_KEY not in self.log
        assert CLIENT_KEY not in self.log
        assert "Traceback" not in self.log


@asynccontextmanager
async def worker_gate(
    upstream: Upstream, directory: Path, /, starts: bool = True, **settings: Any
) -> AsyncIterator[WorkerGate]:
    """A gate with three workers; `starts`: wait until it serves."""
    environ = {
        "OPENAI_API_KEY": UPSTREAM_KEY,
        "OPENAI_BASE_URL": upstream.url,
        "PATH": os.environ["PATH"],
        "PORT": "0",
        "PYTHONPATH": str(ROOT),
        # A test on a busy machine may take longer than the interval.
        "SSE_KEEPALIVE_INTERVAL": "0",
        "WORKERS": str(WORKERS),
    } | HIGH_LIMITS
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "rustygate"),
        cwd=directory,
        env=environ | {name: str(value) for name, value in settings.items()},
        stderr=asyncio.subprocess.PIPE,
    )
    gate = WorkerGate(process, upstream)
    try:
        if starts:
            await until(lambda: bool(gate.url) or process.returncode is not None, 60)
            assert len(gate.pids) == WORKERS
        yield gate
    finally:
        await gate.close()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _inode(client: Client) -> str | None:
    """That of the gate's end of a TCP connection that is open."""
    transport = client.wire.transport
    theirs, ours = (transport.get_extra_info(name)[1] for name in ("peername", "sockname"))
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        ports = [int(each.rpartition(":")[2], 16) for each in fields[1:3]]
        if ports == [theirs, ours]:
            return fields[9]
    return None


def _sockets_of(pid: int) -> Sequence[str]:
    """The inodes of a process's sockets; none once it has ended."""
    found = []
    with suppress(OSError):
        for name in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                found += re.findall(r"socket:\[(\d+)\]", os.readlink(name))
    return found


def as_json(log: str) -> list[dict[str, Any]]:
    """The lines of a log in JSON; each must be whole."""
    return [json.loads(line) for line in log.splitlines()]
