"""The debug log contains the steps of each exchange."""

import pytest

from tests.conftest import StartGate
from tests.support.gate import Log
from tests.support.http import (
    chat,
    response,
)
from tests.support.upstream import Upstream


@pytest.mark.parametrize(
    ("rust_log", "steps"),
    [
        ("debug", ["cost estimated", "admitted", "upstream responded", "exchange"]),
        ("info", ["exchange"]),
    ],
)
async def test_debug_logs_each_step(
    gate: StartGate, upstream: Upstream, log: Log, rust_log: str, steps: list[str]
) -> None:
    upstream.reply = response()
    running = await gate(RUST_LOG=rust_log)
    await running.request(chat())
    [line] = await running.settled()
    lines = [each for each in log.text.splitlines() if line["id"] in each]
    assert [each.split(" {")[0] for each in lines] == steps
