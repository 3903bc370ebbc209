"""A group of gates as processes, with its Redis; see `tests.support.gates`."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support.gates import Gates, RunningGate, pass_time
from tests.support.process import PROCESS_TIMEOUT_S
from tests.support.redis import RedisServer
from tests.support.slow_proxy import SlowProxy
from tests.support.waiting import SOON_S

__all__ = ["GateGroup", "pass_time", "running_group"]

REDIS_PASSWORD = "redis-password-of-the-group"


class GateGroup(Gates):
    """Gates that share one quota."""

    def __init__(
        self,
        directory: Path,
        upstream_url: str | None = None,
        latency_s: float = 0.0,
        **settings: object,
    ) -> None:
        """`latency_s`: by how much each call to Redis takes longer."""
        super().__init__(directory, upstream_url)
        self.redis = RedisServer(directory / "redis", f"requirepass {REDIS_PASSWORD}")
        self._proxy = SlowProxy(self.redis.port, latency_s) if latency_s else None
        self._settings = settings

    async def start(self, gates: int = 3) -> None:
        """Start gates, and wait until they are together."""
        await self.start_upstream()
        began = [self.launch() for _ in range(gates)]
        for gate in began:
            await gate.start()
        await self.until_members(gates, PROCESS_TIMEOUT_S)
        self.watch_machine()

    def launch(self, redis_port: int | None = None) -> RunningGate:
        """Start the process of another gate. `redis_port`: of a proxy in front of Redis."""
        if redis_port is None:
            redis_port = self.redis.port if self._proxy is None else self._proxy.port
        url = f"redis://:{REDIS_PASSWORD}@127.0.0.1:{redis_port}"
        return self.run_gate(REDIS_URL=url, **self._settings)

    async def close(self) -> None:
        """End everything, and check that no gate has shown the password of Redis."""
        await super().close()
        if self._proxy is not None:
            self._proxy.close()
        self.redis.close()
        for text in self.texts():
            assert REDIS_PASSWORD not in text

    def command(self, *arguments: Any) -> Any:
        """What Redis answers."""
        return self.redis.command(*arguments, password=REDIS_PASSWORD)

    # Gates.

    async def state(self, gate: RunningGate) -> str:
        """What /ready and /metrics say, which must be the same."""
        ready = json.loads(await self.page(gate, "/ready"))
        assert ready["status"] == "ready"
        metrics = await self.page(gate, "/metrics")
        state = str(json.loads(await self.page(gate, "/ready"))["group"])
        if state == ready["group"]:
            assert f'rustygate_group_state{{state="{state}"}} 1.0' in metrics
        return state

    async def metric(self, gate: RunningGate, name: str) -> float:
        for line in (await self.page(gate, "/metrics")).splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
        raise AssertionError(f"no metric {name}")

    async def members(self, gate: RunningGate) -> float:
        return await self.metric(gate, "rustygate_group_members")

    async def until_members(self, count: int, limit_s: float = SOON_S) -> None:
        """Wait until all gates that are not gone say that their group has this many members."""
        await self._until_all(self.members, count, limit_s)

    async def until_state(self, state: str, limit_s: float = SOON_S) -> None:
        """Wait until all gates that are not gone are in a state."""
        await self._until_all(self.state, state, limit_s)

    async def _until_all(self, ask: Any, expected: object, limit_s: float) -> None:
        """The limit is longer by what a busy machine may delay each of three gates."""
        loop, found = asyncio.get_running_loop(), [None]
        began, stalled_s = loop.time(), self.lateness.stalled_s
        while any(each != expected for each in found):
            limit = limit_s + 3 * (self.lateness.stalled_s - stalled_s)
            assert loop.time() - began < limit, f"{found}, not {expected}"
            await asyncio.sleep(0.02)
            found = [await ask(gate) for gate in self]


@asynccontextmanager
async def running_group(
    directory: Path,
    gates: int = 3,
    upstream_url: str | None = None,
    latency_s: float = 0.0,
    **settings: Any,
) -> AsyncIterator[GateGroup]:
    """A group whose gates are together."""
    group = GateGroup(directory, upstream_url, latency_s, **settings)
    try:
        await group.start(gates)
        yield group
    finally:
        await group.close()
