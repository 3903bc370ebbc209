"""A gate as a process of its own, for measurements."""

import asyncio
import re
import sys
from pathlib import Path

from tests.support.client import Client
from tests.support.gate import HIGH_LIMITS
from tests.support.http import UPSTREAM_KEY
from tests.support.metrics import Scrape, scrape_request
from tests.support.upstream import Upstream
from tests.support.waiting import soon
from tests.support.wire import Wire


class GateProcess:
    """A gate in front of an upstream, in a process of its own, whose memory can be read."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self._process = process
        self.url = url
        self._clients: list[Client] = []

    @classmethod
    async def start(cls, upstream: Upstream, directory: Path, **settings: str) -> "GateProcess":
        environment = HIGH_LIMITS | {
            "OPENAI_API_KEY": UPSTREAM_KEY,
            "OPENAI_BASE_URL": upstream.url,
            "PORT": "0",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "rustygate"),
            cwd=directory,
            env=environment | settings,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr
        lines = (
            await process.stderr.readuntil(b"listening url=")
        ) + await process.stderr.readline()
        return cls(process, re.findall(rb"listening url=(\S+)", lines)[0].decode())

    def memory_kb(self, name: str = "VmHWM") -> int:
        """A figure of the kernel's about its memory; by default the peak."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(re.findall(rf"{name}:\s+(\d+)", status)[0])

    async def connect(self) -> Client:
        self._clients.append(Client(await Wire.connect(self.url)))
        return self._clients[-1]

    async def send(self, *data: bytes) -> Client:
        """Send bytes over a new connection."""
        client = await self.connect()
        client.send(*data)
        return client

    async def wait_for_waiters(self, number: int) -> None:
        """Wait until this many requests are queued."""
        client = await self.connect()
        async with soon():
            while await self._waiters(client) < number:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        client.disconnect()

    async def _waiters(self, client: Client) -> float:
        scrape = Scrape((await client.request(scrape_request())).body)
        client.wire.discard_read()
        return scrape.sum("rustygate_waiters")

    async def stop(self) -> None:
        for client in self._clients:
            client.disconnect()
        self._process.kill()
        await self._process.communicate()
