"""The states that the page's tests show are like those of a gate."""

from typing import Any

import pytest

from tests.conftest import StartGate
from tests.support.dashboard import get_state
from tests.support.gate import Gate
from tests.support.http import chat
from tests.support.page_states import page_state


async def filled_state(gate: Gate) -> dict[str, Any]:
    """The state of a gate that has served a request."""
    await gate.request(chat("X-RustyGate-Client: search"))
    await gate.settled()
    state = await get_state(gate)
    assert all(state[part] for part in ("lanes", "clients", "recent"))
    return state


@pytest.fixture
async def state(gate: StartGate, simulator: str) -> dict[str, Any]:
    return await filled_state(await gate(OPENAI_BASE_URL=simulator))


def test_state_of_the_tests_has_the_keys_of_a_gate(state: dict[str, Any]) -> None:
    assert page_state().keys() == state.keys()
    for part in ("group", "history"):
        assert page_state()[part].keys() == state[part].keys()


@pytest.mark.parametrize("part", ["lanes", "clients", "recent", "budgets"])
def test_rows_of_the_tests_have_keys_of_a_gate(state: dict[str, Any], part: str) -> None:
    assert page_state()[part][0].keys() <= state[part][0].keys()
