"""The Responses API over a WebSocket."""

import pytest

from rustygate.simulator import Options
from tests.support.simulator import Site, running
from tests.support.simulator_websocket import CREATE, answer, connected, through


async def test_sdk_gets_the_events_of_the_stream(site: Site) -> None:
    async with site.sdk() as sdk:
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
                    if event.type == "response.completed":
                        break
                assert received == streamed


async def test_response_beyond_the_quota_is_an_error_with_its_headers() -> None:
    async with running(Options(rpm=1)) as site, connected(site, "/responses") as socket:
        await socket.send_json(CREATE)
        await through(socket, "response.completed")
        error = await answer(socket, CREATE)
    assert (error["type"], error["status"]) == ("error", 429)
    assert error["error"]["code"] == "rate_limit_exceeded"
    assert int(error["error"]["headers"]["retry-after-ms"]) > 0


@pytest.mark.parametrize("message", ["{", "{}", '{"type": "x"}', '{"type": "response.create"}'])
async def test_bad_request_for_a_response_is_an_error(site: Site, message: str) -> None:
    async with connected(site, "/responses") as socket:
        error = await answer(socket, message)
        assert (error["type"], error["status"]) == ("error", 400)
        assert (await answer(socket, CREATE))["type"] == "response.created"
