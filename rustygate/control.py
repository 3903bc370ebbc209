"""What the processes that serve clients need of the gate as a whole: its control plane, in the
same process or in the supervisor."""

from collections.abc import Mapping
from typing import Protocol

from rustygate.admission.interface import AnyGate, AnySpending
from rustygate.core.usage_rows import UsageQuery
from rustygate.telemetry.tally import AnyTally


class Control(Protocol):
    """See `ControlPlane`."""

    @property
    def gate(self) -> AnyGate: ...

    @property
    def spending(self) -> AnySpending: ...

    @property
    def tally(self) -> AnyTally: ...

    async def readiness(self) -> Mapping[str, str]: ...

    async def metrics_text(self) -> bytes: ...

    async def state_text(self) -> str: ...

    async def usage_text(self, query: UsageQuery) -> str: ...

    async def budgets_text(self) -> str: ...
