"""The Realtime API over a WebSocket."""

import asyncio

import openai
import pytest
from openai.types.realtime import RealtimeServerEvent

from rustygate.simulator import Options
from rustygate.simulator.endpoints.conversation import MAX_ITEMS, Conversation
from rustygate.simulator.limits import Limits
from tests.support.simulator import KEY, Simulator, running_simulator
from tests.support.simulator_websocket import connect, receive_until, send_and_receive


async def test_sdk_has_a_conversation(simulator: Simulator) -> None:
    events: list[RealtimeServerEvent] = []
    async with simulator.sdk() as sdk, sdk.realtime.connect(model="gpt-realtime") as connection:
        await connection.session.update(
            session={"type": "realtime", "instructions": "Be kind.", "output_modalities": ["text"]}
        )
        await connection.conversation.item.create(
            item={
                "type": "message",
                "role": "user",
                "content": [{"type": "input_text", "text": "Hello"}],
            }
        )
        await connection.response.create(response={"max_output_tokens": 3})
        async for event in connection:
            events.append(event)
            if event.type == "response.done":
                break
    assert [event.type for event in events] == [
        "session.created",
        "session.updated",
        "conversation.item.created",
        "conversation.item.added",
        "conversation.item.done",
        "response.created",
        "rate_limits.updated",
        "response.output_item.added",
        "conversation.item.created",
        "conversation.item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 3,
        "response.output_text.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
    ]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    done = events[-1]
    assert done.type == "response.done"
    assert done.response.usage is not None
    assert (done.response.usage.input_tokens, done.response.usage.output_tokens) == (4, 3)
    assert done.response.output is not None
    [item] = done.response.output
    assert item.type == "message"
    assert item.role == "assistant"
    assert item.content[0].text == "".join(deltas)


async def test_response_depends_on_the_conversation(simulator: Simulator) -> None:
    async def response_text(*texts: str) -> str:
        async with connect(simulator) as websocket:
            await receive_until(websocket, "session.created")
            for text in texts:
                content = [{"type": "input_text", "text": text}]
                item = {"type": "message", "role": "user", "content": content}
                await websocket.send_json({"type": "conversation.item.create", "item": item})
            await websocket.send_json({"type": "response.create"})
            done = (await receive_until(websocket, "response.output_text.done"))[-1]
            return str(done["text"])

    assert await response_text("a") == await response_text("a") != await response_text("a", "b")


async def test_items_are_inserted_retrieved_and_deleted(simulator: Simulator) -> None:
    async with connect(simulator) as websocket:
        await receive_until(websocket, "session.created")
        for identifier, after in (("one", None), ("three", "one"), ("two", "one"), ("0", "root")):
            item = {"id": identifier, "type": "message", "role": "user", "content": []}
            await websocket.send_json(
                {"type": "conversation.item.create", "item": item, "previous_item_id": after}
            )
            done = (await receive_until(websocket, "conversation.item.done"))[-1]
            assert done["previous_item_id"] == (None if after == "root" else after)
        retrieve = {"type": "conversation.item.retrieve", "item_id": "two"}
        assert (await send_and_receive(websocket, retrieve))["item"]["id"] == "two"
        delete = {"type": "conversation.item.delete", "item_id": "two"}
        assert (await send_and_receive(websocket, delete))["type"] == "conversation.item.deleted"
        assert (await send_and_receive(websocket, retrieve))["error"]["param"] == "item_id"


async def test_input_audio_counts_by_its_length(simulator: Simulator) -> None:
    async with connect(simulator) as websocket:
        await receive_until(websocket, "session.created")
        await websocket.send_json({"type": "input_audio_buffer.append", "audio": "A" * 64_000})
        committed = await send_and_receive(websocket, {"type": "input_audio_buffer.commit"})
        assert committed["type"] == "input_audio_buffer.committed"
        await receive_until(websocket, "conversation.item.done")
        await websocket.send_json({"type": "response.create"})
        done = (await receive_until(websocket, "response.done"))[-1]
        assert done["response"]["usage"]["input_tokens"] == 10
        cleared = await send_and_receive(websocket, {"type": "input_audio_buffer.clear"})
        assert cleared["type"] == "input_audio_buffer.cleared"
        empty = await send_and_receive(websocket, {"type": "input_audio_buffer.commit"})
        assert "empty" in empty["error"]["message"]


async def test_response_beyond_the_quota_fails() -> None:
    options = Options(model_limits=(("gpt-realtime", Limits(1, 0)),))
    async with running_simulator(options) as simulator, connect(simulator) as websocket:
        for _ in range(2):
            await websocket.send_json({"type": "response.create"})
        first = await receive_until(websocket, "response.done")
        second = await receive_until(websocket, "response.done")
    [limits_event] = [event for event in first if event["type"] == "rate_limits.updated"]
    assert [(limit["name"], limit["remaining"]) for limit in limits_event["rate_limits"]] == [
        ("requests", 0)
    ]
    assert [event["type"] for event in second] == ["response.created", "response.done"]
    assert second[-1]["response"]["status"] == "failed"
    error = second[-1]["response"]["status_details"]["error"]
    assert error["code"] == "rate_limit_exceeded"
    assert error["message"].startswith("Rate limit reached for gpt-realtime in organization")


async def test_response_cancel_stops_the_response(simulator: Simulator) -> None:
    async with connect(simulator, simulate="tokens_per_second=200,tokens=100000") as websocket:
        await websocket.send_json({"type": "response.create"})
        await receive_until(websocket, "response.output_text.delta")
        await websocket.send_json({"type": "response.cancel"})
        done = (await receive_until(websocket, "response.done"))[-1]["response"]
        late = await send_and_receive(websocket, {"type": "response.cancel", "event_id": "mine"})
    assert done["status"] == "cancelled"
    assert 0 < done["usage"]["output_tokens"] < 100_000
    assert done["output"][0]["status"] == "incomplete"
    assert (late["error"]["code"], late["error"]["event_id"]) == (
        "response_cancel_not_active",
        "mine",
    )


async def test_response_outside_the_conversation_adds_no_item(simulator: Simulator) -> None:
    async with connect(simulator) as websocket:
        await websocket.send_json(
            {"type": "response.create", "response": {"conversation": "none", "input": []}}
        )
        names = {event["type"] for event in await receive_until(websocket, "response.done")}
    assert not any(name.startswith("conversation.") for name in names)


BAD_MESSAGES = {
    "empty": "",
    "not-json": "{",
    "no-object": "[]",
    "no-type": "{}",
    "unknown-type": '{"type": "dance"}',
    "deep": '{"type": "session.update", "session": ' + "[" * 100_000,
    "huge": '{"type": "session.update", "session": {"x": ' + "9" * 5000 + "}}",
    "no-session": '{"type": "session.update"}',
    "audio": '{"type": "session.update", "session": {"output_modalities": ["audio"]}}',
    "no-item": '{"type": "conversation.item.create", "item": {}}',
    "bad-item": '{"type": "conversation.item.create", "item": {"type": "m", "content": [1]}}',
    "long-response": '{"type": "response.create", "response": {"max_output_tokens": 5000}}',
    "bad-input": '{"type": "response.create", "response": {"input": [{"content": 1}]}}',
}


@pytest.mark.parametrize("message", BAD_MESSAGES.values(), ids=BAD_MESSAGES)
async def test_bad_message_returns_an_error_and_keeps_the_session(
    simulator: Simulator, message: str
) -> None:
    async with connect(simulator) as websocket:
        await receive_until(websocket, "session.created")
        error = await send_and_receive(websocket, message)
        if error["type"] != "error":
            pytest.fail(f"got {error}")
        assert error["error"]["type"] == "invalid_request_error"
        assert (await send_and_receive(websocket, {"type": "input_audio_buffer.clear"}))[
            "type"
        ] != "error"


def test_conversation_drops_its_oldest_items() -> None:
    conversation = Conversation()
    for number in range(MAX_ITEMS + 1):
        conversation.add({"id": str(number), "type": "message"})
    with pytest.raises(Exception, match="no item '0'"):
        conversation.find("0")
    assert len([turn.text for turn in conversation.turns]) == MAX_ITEMS


async def test_sync_sdk_uses_the_realtime_api(simulator: Simulator) -> None:
    def converse() -> str:
        sdk = openai.OpenAI(api_key=KEY, base_url=simulator.url, max_retries=0)
        with sdk, sdk.realtime.connect(model="gpt-realtime") as connection:
            connection.response.create()
            for event in connection:
                if event.type == "response.output_text.done":
                    return event.text
        return ""

    assert await asyncio.to_thread(converse)
