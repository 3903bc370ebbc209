"""Stored responses and chat completions."""

import json
from typing import Any

import openai
import pytest

from rustygate.simulator import Options
from rustygate.simulator.endpoints.response_store import ResponseStore
from rustygate.simulator.endpoints.responses import ResponseRequest
from tests.support.simulator import MESSAGES, Simulator, build_request, running_simulator
from tests.support.simulator_websocket import CREATE, connect, receive_until, send_and_receive


async def test_response_is_retrieved_and_deleted(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        created = await sdk.responses.create(model="gpt-5", input="Hi", metadata={"a": "b"})
        assert created.to_dict()["store"] is True
        assert await sdk.responses.retrieve(created.id) == created
        await sdk.responses.delete(created.id)
        for call in (sdk.responses.retrieve, sdk.responses.delete, sdk.responses.cancel):
            with pytest.raises(openai.NotFoundError, match=f"'{created.id}' not found"):
                await call(created.id)


async def test_response_that_is_not_stored_is_not_found(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        created = await sdk.responses.create(model="gpt-5", input="Hi", store=False)
        assert created.to_dict()["store"] is False
        with pytest.raises(openai.NotFoundError):
            await sdk.responses.retrieve(created.id)


async def test_stream_is_replayed_from_any_event(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        stream = await sdk.responses.create(model="gpt-5", input="Hi", stream=True)
        events = [event async for event in stream]
        first = events[0]
        assert first.type == "response.created"
        for after, expected in ((None, events), (0, events[1:]), (20, events[21:])):
            options: Any = {} if after is None else {"starting_after": after}
            replay = await sdk.responses.retrieve(first.response.id, stream=True, **options)
            assert [event async for event in replay] == expected


async def test_retrieval_costs_nothing() -> None:
    async with running_simulator(Options(rpm=1)) as simulator, simulator.sdk() as sdk:
        created = await sdk.responses.create(model="gpt-5", input="Hi")
        before = await simulator.stats()
        for _ in range(3):
            await sdk.responses.retrieve(created.id)
        stats = await simulator.stats()
    assert [stats[name] for name in ("tokens_in", "tokens_out")] == [
        before[name] for name in ("tokens_in", "tokens_out")
    ]


async def test_input_items_are_listed(simulator: Simulator) -> None:
    items: Any = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": [{"type": "input_text", "text": "three"}]},
    ]
    async with simulator.sdk() as sdk:
        created = await sdk.responses.create(model="gpt-5", input=items)
        listed = [item async for item in sdk.responses.input_items.list(created.id, order="asc")]
        newest = await sdk.responses.input_items.list(created.id, limit=1)
    shown = [item.to_dict() for item in listed]
    assert [item["content"] for item in shown] == [
        [{"type": "input_text", "text": "one"}],
        [{"type": "output_text", "text": "two"}],
        items[2]["content"],
    ]
    assert newest.data[0] == listed[-1]
    assert newest.has_more


async def test_response_continues_from_those_before(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        first = await sdk.responses.create(model="gpt-5", input="My name is Bob.")
        second = await sdk.responses.create(
            model="gpt-5", input="I am 25.", previous_response_id=first.id
        )
        third = await sdk.responses.create(
            model="gpt-5", input="Who am I?", previous_response_id=second.id
        )
        with pytest.raises(openai.BadRequestError) as error:
            await sdk.responses.create(model="gpt-5", input="x", previous_response_id="resp_x")
    assert third.previous_response_id == second.id
    assert third.output_text.startswith("Who am I? I am 25. My name is Bob.")
    assert first.usage is not None
    assert third.usage is not None
    assert third.usage.input_tokens > first.usage.input_tokens + 2 * 48
    assert (error.value.code, error.value.param) == (
        "previous_response_not_found",
        "previous_response_id",
    )


async def test_websocket_continues_from_a_stored_response(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        first = await sdk.responses.create(model="gpt-5", input="My name is Bob.")
    create = CREATE | {"input": "Who?", "previous_response_id": first.id, "max_output_tokens": 48}
    async with connect(simulator, "/responses") as websocket:
        await websocket.send_json(create)
        last = (await receive_until(websocket, "response.completed"))[-1]["response"]
        create["previous_response_id"] = "resp_x"
        error = await send_and_receive(websocket, create)
    assert last["output"][0]["content"][0]["text"].startswith("Who? My name is Bob.")
    assert error["error"]["code"] == "previous_response_not_found"
    async with simulator.sdk() as sdk:
        assert (await sdk.responses.retrieve(last["id"])).to_dict()["output"] == last["output"]


async def test_background_response_is_queued_and_then_completed(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        created = await sdk.responses.create(model="gpt-5", input="Hi", background=True)
        assert (created.status, created.output) == ("queued", [])
        assert (await sdk.responses.retrieve(created.id)).status == "completed"
        assert (await sdk.responses.cancel(created.id)).status == "completed"
        plain = await sdk.responses.create(model="gpt-5", input="Hi")
        with pytest.raises(openai.BadRequestError):
            await sdk.responses.cancel(plain.id)


def test_store_is_bounded_and_drops_the_oldest() -> None:
    store = ResponseStore(capacity=100_000)
    made = []
    for number in range(30):
        request = ResponseRequest(model="m", input=f"{number}" * 100)
        made.append(request.make(None))
        store.add(request, made[-1])
        assert 0 < store.used_bytes <= 100_000
    kept = [one for one in made if _is_kept(store, one.started["id"])]
    assert kept == made[-len(kept) :]
    assert 5 < len(kept) < 30
    for one in kept:
        store.pop(one.started["id"])
    assert repr(store) == "<ResponseStore responses=0, 0 of 100000 bytes>"


def _is_kept(store: ResponseStore, identifier: str) -> bool:
    try:
        store.get(identifier)
    except Exception:
        return False
    return True


async def test_stored_chats_are_listed_changed_and_deleted(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        await sdk.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        plain = await sdk.chat.completions.create(
            model="gpt-4o", messages=MESSAGES, store=True, metadata={"a": "b"}
        )
        stream = await sdk.chat.completions.create(
            model="gpt-5", messages=MESSAGES, store=True, stream=True
        )
        chunks = [chunk async for chunk in stream]
        listed = [chat.id async for chat in sdk.chat.completions.list()]
        assert listed == [plain.id, chunks[0].id]
        assert [chat.id async for chat in sdk.chat.completions.list(model="gpt-4o")] == [plain.id]
        stored = await sdk.chat.completions.retrieve(plain.id)
        assert stored.choices == plain.choices
        changed = await sdk.chat.completions.update(plain.id, metadata={"c": "d"})
        assert changed.to_dict()["metadata"] == {"c": "d"}
        messages = [one async for one in sdk.chat.completions.messages.list(plain.id)]
        assert [message.content for message in messages] == ["Hello, who is there?"]
        assert (await sdk.chat.completions.delete(plain.id)).deleted
        with pytest.raises(openai.NotFoundError):
            await sdk.chat.completions.retrieve(plain.id)


async def test_unknown_starting_point_is_a_bad_request(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        created = await sdk.responses.create(model="gpt-5", input="Hi")
    target = f"/v1/responses/{created.id}?stream=true&starting_after=x"
    response = await simulator.send(build_request("GET", target))
    assert (response.status, response.error["param"]) == (400, "starting_after")
    response = await simulator.send(build_request("GET", f"/v1/responses/{created.id}?stream=no"))
    assert json.loads(response.body).get("error", {"param": "stream"})["param"] == "stream"
