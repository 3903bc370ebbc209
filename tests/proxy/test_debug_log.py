"""The steps of an exchange: in one debug line when it settles, or one by one in the trace log."""

import asyncio
import re

import pytest

from tests.conftest import StartGate
from tests.support.gate import Log
from tests.support.http import (
    chat,
    response,
)
from tests.support.upstream import Upstream


@pytest.mark.parametrize(
    ("rust_log", "messages"),
    [
        ("trace", ["cost estimated", "admitted", "upstream responded", "exchange"]),
        ("debug", ["exchange", "steps"]),
        ("info", ["exchange"]),
    ],
)
async def test_lines_of_a_request_depend_on_the_level(
    gate: StartGate, upstream: Upstream, log: Log, rust_log: str, messages: list[str]
) -> None:
    upstream.reply = response()
    running = await gate(RUST_LOG=rust_log)
    await running.request(chat())
    [line] = await running.settled()
    lines = [each for each in log.text.splitlines() if line["id"] in each]
    assert [each.split(" {")[0] for each in lines] == messages


async def test_debug_line_contains_the_steps_of_all_attempts(
    gate: StartGate, upstream: Upstream, log: Log
) -> None:
    running = await gate(RUST_LOG="debug")
    request = asyncio.create_task(running.request(chat()))
    busy = response(b"{}", "retry-after-ms: 5", status="429 Too Many Requests")
    await (await upstream.call()).respond(busy)
    await (await upstream.call()).respond(response())
    await request
    [line] = await running.settled()
    [steps] = [each for each in log.text.splitlines() if each.startswith("steps ")]
    assert line["id"] in steps
    assert re.findall(r"\d+ ms ([a-z ]+) \w+=", steps) == [
        "cost estimated",
        "admitted",
        "upstream responded",
        "retrying",
        "admitted",
        "upstream responded",
    ]
    assert " status=429 attempt=1, " in steps
    assert " status=200 attempt=2" in steps
