"""A running simulator."""

from collections.abc import AsyncIterator

import pytest

from rustygate.simulator import Options
from tests.support.simulator import Simulator, running_simulator


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with running_simulator(Options()) as simulator:
        yield simulator
