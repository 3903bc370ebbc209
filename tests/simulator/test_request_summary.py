"""What is reported about each request when it ends."""

from contextlib import suppress
from time import monotonic

import pytest
from aiohttp import web

from rustygate.simulator import Options, RequestSummary, make_app
from tests.support.simulator import CHAT_BODY, KEY, Simulator, build_request, post
from tests.support.simulator_websocket import CREATE, connect, receive_until

CHAT = "/v1/chat/completions"


async def summaries_of(*requests: bytes) -> list[RequestSummary]:
    """The summaries of requests that are sent one after the other."""
    summaries: list[RequestSummary] = []
    runner = web.AppRunner(make_app(Options(), summaries.append), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        simulator = Simulator(runner.addresses[0][1])
        for raw in requests:
            with suppress(ConnectionResetError):
                await simulator.send(raw)
    finally:
        await runner.cleanup()
    return summaries


async def test_each_request_is_reported_once() -> None:
    began = monotonic()
    summaries = await summaries_of(
        post("/chat/completions", CHAT_BODY),
        post("/chat/completions", CHAT_BODY | {"stream": True}),
        build_request("GET", f"/v1/models?key={KEY}"),
        post("/chat/completions", CHAT_BODY | {"model": "no-such"}),
        build_request("GET", "/v1/nothing"),
        build_request("GET", "/simulator/stats"),
    )
    shown = [
        (one.method, one.path, one.model, one.status, one.tokens_in, one.tokens_out)
        for one in summaries
    ]
    assert shown == [
        ("POST", CHAT, "gpt-4o", 200, 5, 4),
        ("POST", CHAT, "gpt-4o", 200, 5, 4),
        ("GET", "/v1/models", None, 200, 0, 0),
        ("POST", CHAT, None, 404, 0, 0),
        ("GET", "/v1/nothing", None, 404, 0, 0),
    ]
    assert {one.end for one in summaries} == {"complete"}
    assert all(0 <= one.milliseconds <= 1000 * (monotonic() - began) for one in summaries)
    assert KEY not in repr(summaries)


@pytest.mark.parametrize(
    ("simulate", "status", "end"),
    [("reset", None, "cut"), ("cut=2", 200, "cut"), ("500", 500, "complete")],
)
async def test_fault_is_reported(simulate: str, status: int | None, end: str) -> None:
    body = CHAT_BODY | {"stream": True}
    (summary,) = await summaries_of(post("/chat/completions", body, simulate=simulate))
    assert (summary.status, summary.end) == (status, end)


async def test_strange_names_are_made_printable() -> None:
    summaries = await summaries_of(
        post("/chat/completions", CHAT_BODY | {"model": "a b\x1b[2J" + "x" * 200}),
        build_request("GET", "/v1/a%0Ab%1b"),
    )
    assert summaries[0].model == "a?b?[2J" + "x" * 90 + "..."
    assert summaries[1].path == "/v1/a?b?"


async def test_websocket_is_reported_with_the_sum_of_its_tokens() -> None:
    summaries: list[RequestSummary] = []
    runner = web.AppRunner(make_app(Options(), summaries.append), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        simulator = Simulator(runner.addresses[0][1])
        async with connect(simulator, "/responses") as websocket:
            for _ in range(2):
                await websocket.send_json(CREATE)
                await receive_until(websocket, "response.completed")
        await simulator.wait_for_stats(lambda stats: stats["requests_open"] == 0)
    finally:
        await runner.cleanup()
    (summary,) = summaries
    assert (summary.status, summary.model) == (101, "gpt-5")
    assert (summary.tokens_in, summary.tokens_out) == (2, 2 * 48)
