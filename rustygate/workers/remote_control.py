"""The control plane as a worker sees it: questions and messages to the supervisor."""

from collections.abc import Mapping
from typing import Any

from rustygate.core.clients import SpendingLimits
from rustygate.core.usage_rows import UsageQuery
from rustygate.core.verdict import Action
from rustygate.errors import Draining, Refusal
from rustygate.exchange import Exchange
from rustygate.workers.channel import Answerer, Channel, ChannelLost
from rustygate.workers.packing import pack_exchange
from rustygate.workers.refusals import unpack_refusal
from rustygate.workers.remote_gate import RemoteGate, Tell


class RemoteControl:
    """The control plane of a worker; see `ControlPlane`. Handles what the supervisor sends about
    attempts."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.gate = RemoteGate(channel.tell)
        channel.add_handlers(self.gate.handlers())
        self.spending = RemoteSpending(self._ask)
        self.tally = RemoteTally(channel.tell)

    def __repr__(self) -> str:
        return f"<RemoteControl {self._channel}>"

    async def readiness(self) -> Mapping[str, str]:
        if self.gate.closed:
            return {"status": "draining"}
        found: Mapping[str, str] = await self._ask("readiness")
        return found

    async def metrics_text(self) -> bytes:
        text: bytes = await self._ask("metrics")
        return text

    async def state_text(self) -> str:
        text: str = await self._ask("state")
        return text

    async def usage_text(self, query: UsageQuery) -> str:
        text: str = await self._ask("usage", query)
        return text

    async def budgets_text(self) -> str:
        text: str = await self._ask("budgets")
        return text

    async def make_room(self) -> bool:
        """Let another worker close an idle connection; returns whether one had any."""
        try:
            found: bool = await self._ask("make_room")
        except Draining:
            return False
        return found

    async def _ask(self, *question: Any) -> Any:
        try:
            return await self._channel.ask(*question)
        except ChannelLost:
            # This process ends soon, too.
            raise Draining from None


class RemoteSpending:
    """The budgets of clients; see `Spending`."""

    def __init__(self, ask: Answerer) -> None:
        self._ask = ask
        self._limited: set[str] = set()

    def set_limits(self, limits: Mapping[str, SpendingLimits]) -> None:
        """Which clients have budgets."""
        self._limited = {name for name, spending in limits.items() if spending}

    def has_budgets(self, client: str) -> bool:
        return client in self._limited

    async def show_left(self, exchange: Exchange) -> None:
        exchange.budget_left = await self._ask("budget_left", exchange.client)

    async def reserve(self, exchange: Exchange) -> None:
        left, refusal = await self._ask("reserve", pack_exchange(exchange))
        exchange.budget_left = left or exchange.budget_left
        if refusal is not None:
            raise _unpacked(refusal)


def _unpacked(packed: tuple[str, dict[str, Any]]) -> Refusal:
    return unpack_refusal(*packed)


class RemoteTally:
    """Counts exchanges; see `Tally`."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    def settle(self, exchange: Exchange) -> None:
        self._tell("settled", pack_exchange(exchange))

    def count_retry(self, reason: str) -> None:
        self._tell("count_retry", reason)

    def count_upstream_429(self, lane: str | None, verdict: Action) -> None:
        self._tell("count_upstream_429", lane, verdict)

    def count_refusal(self, reason: str) -> None:
        self._tell("count_refusal", reason)
