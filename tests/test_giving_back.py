"""What was taken for an exchange of which upstream saw nothing is given back."""

import asyncio

import pytest

from tests.conftest import StartGate
from tests.support.http import chat
from tests.test_upstream import full_backlog


@pytest.mark.parametrize(
    "budget",
    [{"RATE_LIMIT": 0.001, "RATE_LIMIT_BURST": 1}, {"TOKENS_PER_MINUTE": 10}],
    ids=["requests", "tokens"],
)
async def test_client_that_leaves_while_upstream_connects_has_spent_nothing(
    gate: StartGate, budget: dict[str, object]
) -> None:
    """The next one finds the budget full: it is in flight at once, and not refused."""
    async with full_backlog() as url:
        running = await gate(OPENAI_BASE_URL=url, RATE_LIMIT_TIMEOUT=2, **budget)
        first = await running.send(chat())
        await running.shows(in_flight=1)
        first.leave()
        await running.shows(in_flight=0)
        second = await running.send(chat())
        refusal = asyncio.create_task(second.answer())
        await running.shows(in_flight=1, waiters=0)
        assert not refusal.done()
        refusal.cancel()
