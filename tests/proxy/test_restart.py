"""A gate that restarts with DATA_DIR: it grants no second burst, and remembers its limits."""

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartGate
from tests.support.dashboard import page_request
from tests.support.http import post

LIMITS = {"RATE_LIMIT": 6 / 3600, "RATE_LIMIT_BURST": 4, "RATE_LIMIT_TIMEOUT": 1}
BODY = b'{"model": "gpt-4o", "input": "hi"}'


async def test_restart_grants_no_second_burst(
    gate: StartGate, simulator: str, tmp_path: Path
) -> None:
    statuses = []
    for _ in range(2):
        started = await gate(DATA_DIR=tmp_path, OPENAI_BASE_URL=simulator, **LIMITS)
        for _ in range(3):
            response = await started.request(post(BODY, target="/v1/responses"))
            statuses.append(response.status)
        await started.daemon.stop()
    assert statuses == [200, 200, 200, 200, 429, 429]


async def test_restart_remembers_learned_limits(
    gate: StartGate, simulator: str, tmp_path: Path
) -> None:
    first = await gate(DATA_DIR=tmp_path, OPENAI_BASE_URL=simulator)
    await first.request(post(BODY, target="/v1/responses"))
    await first.daemon.stop()
    second = await gate(DATA_DIR=tmp_path, OPENAI_BASE_URL=simulator)
    metrics = await second.request(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    line = b'rustygate_budget_units_limit{budget="requests",lane="gpt-4o"} 100000'
    assert line in metrics.body


async def test_defect_at_the_end_loses_no_usage_and_no_levels(
    gate: StartGate, simulator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"DATA_DIR": tmp_path, "OPENAI_BASE_URL": simulator, **LIMITS}
    first = await gate(**options)
    for _ in range(4):
        await first.request(post(BODY, target="/v1/responses"))

    async def fail() -> None:
        raise RuntimeError

    monkeypatch.setattr(first.daemon._control.gate, "leave_group", fail)
    with pytest.raises(RuntimeError):
        await first.daemon.stop()
    monkeypatch.undo()
    second = await gate(**options)
    assert (await second.request(post(BODY, target="/v1/responses"))).status == 429
    usage = await second.request(page_request("/gate/usage?by=client"))
    assert [row["exchanges"] for row in usage.json] == [5]
