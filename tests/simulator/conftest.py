"""A running simulator."""

from collections.abc import AsyncIterator

import pytest

from rustygate.simulator import Options
from tests.support.simulator import Site, running


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with running(Options()) as site:
        yield site
