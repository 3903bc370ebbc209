"""The Responses API over a WebSocket."""

from typing import Any

import pytest
from aiohttp import ClientWebSocketResponse

from rustygate.simulator import Options
from tests.support.simulator import Simulator, running_simulator
from tests.support.simulator_websocket import CREATE, connect, receive_until, send_and_receive


async def test_sdk_gets_the_same_events_as_over_http(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        streamed = [
            event.type
            async for event in await sdk.responses.create(
                model="gpt-5", input="Hi", max_output_tokens=2, stream=True
            )
        ]
        async with sdk.responses.connect() as connection:
            for _ in range(2):
                await connection.response.create(model="gpt-5", input="Hi", max_output_tokens=2)
                received = []
                async for event in connection:
                    received.append(event.type)
                    if event.type == "response.incomplete":
                        break
                assert received == streamed


async def test_response_beyond_the_quota_returns_an_error_with_headers() -> None:
    async with (
        running_simulator(Options(rpm=1)) as simulator,
        connect(simulator, "/responses") as websocket,
    ):
        await websocket.send_json(CREATE)
        await receive_until(websocket, "response.completed")
        error = await send_and_receive(websocket, CREATE)
    assert (error["type"], error["status"]) == ("error", 429)
    assert error["error"]["code"] == "rate_limit_exceeded"
    assert int(error["error"]["headers"]["retry-after-ms"]) > 0


@pytest.mark.parametrize("message", ["{", "{}", '{"type": "x"}', '{"type": "response.create"}'])
async def test_bad_response_create_returns_an_error(simulator: Simulator, message: str) -> None:
    async with connect(simulator, "/responses") as websocket:
        error = await send_and_receive(websocket, message)
        assert (error["type"], error["status"]) == ("error", 400)
        assert (await send_and_receive(websocket, CREATE))["type"] == "response.created"


async def create(websocket: ClientWebSocketResponse, **fields: object) -> dict[str, Any]:
    """Have a response made that is not stored."""
    await websocket.send_json(CREATE | {"store": False} | fields)
    response: dict[str, Any] = (await receive_until(websocket, "response.completed"))[-1][
        "response"
    ]
    return response


async def test_last_response_can_be_continued_without_being_stored(simulator: Simulator) -> None:
    async with connect(simulator, "/responses") as websocket:
        first = await create(websocket, input="Say tangerine")
        second = await create(websocket, input="Go on", previous_response_id=first["id"])
        assert "tangerine" in second["output"][0]["content"][0]["text"]
        message = CREATE | {"previous_response_id": first["id"]}
        error = await send_and_receive(websocket, message)
        assert error["error"]["code"] == "previous_response_not_found"


async def test_response_that_is_not_generated_is_an_empty_one(simulator: Simulator) -> None:
    async with connect(simulator, "/responses") as websocket:
        warm = await create(websocket, input="Say tangerine", generate=False)
        assert (warm["output"], warm["usage"]["output_tokens"]) == ([], 0)
        answer = await create(websocket, input="Go on", previous_response_id=warm["id"])
        assert "tangerine" in answer["output"][0]["content"][0]["text"]
