"""Turns of the official SDK, over compressed WebSockets, against the simulator."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
import websockets

from rustygate.simulator import Options
from tests.conftest import StartGate
from tests.support.gate import Gate
from tests.support.http import CLIENT_KEY
from tests.support.metrics import Scrape
from tests.support.simulator import running_simulator
from tests.support.waiting import soon, until

Clients = Callable[..., openai.AsyncOpenAI]

# Enough for two turns.
TWO_TURNS = {"RATE_LIMIT": "0.001", "RATE_LIMIT_BURST": 2}

AUDIO = {"type": "input_audio_buffer.append", "audio": "A" * 6400}


async def receive_until(connection: Any, *kinds: str) -> Any:
    """Receive events up to one of these kinds."""
    while (event := await connection.recv()).type not in kinds:
        pass
    return event


async def add_text(connection: Any, text: str) -> None:
    content = [{"type": "input_text", "text": text}]
    item = {"type": "message", "role": "user", "content": content}
    await connection.conversation.item.create(item=item)


async def test_realtime_turns_are_admitted_and_settled(
    gate: StartGate, simulator: str, async_client: Clients
) -> None:
    running = await gate(OPENAI_BASE_URL=simulator, **TWO_TURNS)
    async with soon(), async_client(running).realtime.connect(model="gpt-realtime") as connection:
        for _ in range(2):
            await add_text(connection, "Hello")
            await connection.response.create(response={"max_output_tokens": 5})
            event = await receive_until(connection, "response.done", "error")
            assert event.type == "response.done"
        await connection.response.create(event_id="third")
        error = await receive_until(connection, "error")
        assert (error.error.code, error.error.event_id) == ("rate_limit_exceeded", "third")
        # The connection goes on, although upstream never saw a message of the compressed stream.
        for text in ("Still", "there?") * 3:
            await add_text(connection, text)
            await receive_until(connection, "conversation.item.done")
    first, second, third, socket = await running.settled(4)
    assert socket["status"] == 101
    assert [first["outcome"], second["outcome"], third["outcome"]] == ["ok", "ok", "refused"]
    assert first["tokens_out"] == 5
    assert second["tokens_in"] > first["tokens_in"] > 0
    assert (first["model"], third["model"]) == ("gpt-realtime", "gpt-realtime")


async def test_responses_turns_are_admitted_and_settled(
    gate: StartGate, simulator: str, async_client: Clients
) -> None:
    running = await gate(OPENAI_BASE_URL=simulator, **TWO_TURNS)
    async with soon(), async_client(running).responses.connect() as connection:
        for _ in range(2):
            await connection.response.create(model="gpt-5", input="Hi", max_output_tokens=3)
            await receive_until(connection, "response.completed", "response.incomplete")
        await connection.response.create(model="gpt-5", input="Hi", max_output_tokens=3)
        error = await receive_until(connection, "error")
        assert error.status == 429
    lines = (await running.settled(4))[:3]
    assert [line["outcome"] for line in lines] == ["ok", "ok", "refused"]
    assert [line["tokens_out"] for line in lines] == [3, 3, None]
    assert {line["model"] for line in lines} == {"gpt-5"}
    scrape = await Scrape.of(running)
    assert scrape.sum("rustygate_tokens_total", model="gpt-5", kind="output") == 6


async def test_refused_turn_keeps_a_responses_websocket_usable(
    gate: StartGate, simulator: str, async_client: Clients
) -> None:
    running = await gate(OPENAI_BASE_URL=simulator, TOKENS_PER_MINUTE=1000)
    async with soon(), async_client(running).responses.connect() as connection:
        for number in range(4):
            text = f"Message {number} has a text that repeats the others'."
            await connection.response.create(model="gpt-5", input=text, max_output_tokens=3)
            await receive_until(connection, "response.completed", "response.incomplete")
            await connection.response.create(model="gpt-5", input=text, max_output_tokens=3000)
            error = await receive_until(connection, "error")
            assert error.error.code == "rate_limit_exceeded"


async def test_rate_limit_of_the_simulator_pauses_the_lane(
    gate: StartGate, async_client: Clients
) -> None:
    async with running_simulator(Options(rpm=30)) as simulator:
        await simulator.change_limits(rpm=30)
        running = await gate(OPENAI_BASE_URL=simulator.url)
        async with soon(), async_client(running).responses.connect() as connection:
            failed = 0
            while not failed:
                await connection.response.create(model="gpt-5", input="Hi", max_output_tokens=1)
                event = await receive_until(
                    connection, "response.completed", "response.incomplete", "error"
                )
                failed += event.type == "error"
            await connection.response.create(model="gpt-5", input="Hi", max_output_tokens=1)
            await receive_until(connection, "response.completed", "response.incomplete")
    await until(lambda: any(line["status"] == 101 for line in running.log.exchanges))
    *_, refused, waited, _ = running.log.exchanges
    assert (refused["outcome"], refused["status"]) == ("upstream_error", 429)
    assert waited["outcome"] == "ok"
    assert waited["queued_ms"] > 0


# Compression.


@asynccontextmanager
async def connect(
    gate: Gate, target: str = "/v1/realtime?model=gpt-realtime", **options: Any
) -> AsyncIterator[websockets.ClientConnection]:
    """A WebSocket of the `websockets` package, which compresses what it sends."""
    headers = {"Authorization": f"Bearer {CLIENT_KEY}"}
    url = f"{gate.url}{target}".replace("http", "ws", 1)
    async with (
        soon(),
        websockets.connect(url, additional_headers=headers, max_size=None, **options) as socket,
    ):
        yield socket


async def next_of(socket: websockets.ClientConnection, kind: str) -> dict[str, Any]:
    while True:
        event: dict[str, Any] = json.loads(await socket.recv())
        if event["type"] == kind:
            return event


@pytest.mark.parametrize("compression", ["deflate", None])
async def test_audio_overtakes_a_held_turn(
    gate: StartGate, simulator: str, compression: str | None
) -> None:
    """Compressed messages refer to earlier ones, so that their order cannot change unseen."""
    running = await gate(OPENAI_BASE_URL=simulator, RATE_LIMIT=2, RATE_LIMIT_BURST=1)
    async with connect(running, compression=compression) as socket:
        assert len(socket.protocol.extensions) == (compression is not None)
        create = json.dumps({"type": "response.create", "response": {"max_output_tokens": 2}})
        await socket.send(create)
        await next_of(socket, "response.done")
        await socket.send(create)
        for _ in range(3):
            await socket.send(json.dumps(AUDIO))
        await socket.send(json.dumps({"type": "input_audio_buffer.commit"}))
        kinds: list[str] = []
        while kinds[-1:] != ["response.done"]:
            kinds.append(json.loads(await socket.recv())["type"])
        assert kinds[0] == "input_audio_buffer.committed"
        await socket.send(json.dumps(AUDIO))
        await socket.send(json.dumps({"type": "input_audio_buffer.commit"}))
        await next_of(socket, "input_audio_buffer.committed")
    lines = (await running.settled(3))[:2]
    assert [line["outcome"] for line in lines] == ["ok", "ok"]
    assert lines[1]["queued_ms"] > 200


async def test_message_that_inflates_too_far_is_a_violation(
    gate: StartGate, simulator: str
) -> None:
    running = await gate(OPENAI_BASE_URL=simulator)
    async with connect(running) as socket:
        await socket.send("x" * (17 << 20))
        with pytest.raises(websockets.ConnectionClosedError) as closed:
            await next_of(socket, "no such event")
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
    assert (await running.settled())[0]["reason"] == "body_too_large"


@pytest.mark.parametrize("size", [100, 1 << 20, (16 << 20) - 100])
async def test_compressed_turns_of_any_size_pass(
    gate: StartGate, simulator: str, size: int
) -> None:
    running = await gate(OPENAI_BASE_URL=simulator)
    async with connect(running) as socket:
        response = {"instructions": "x" * (size - 80), "max_output_tokens": 1}
        await socket.send(json.dumps({"type": "response.create", "response": response}))
        await next_of(socket, "response.done")
    turn = (await running.settled(2))[0]
    assert (turn["outcome"], turn["tokens_out"]) == ("ok", 1)
