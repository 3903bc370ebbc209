"""The Responses API over HTTP, plain and streamed."""

import json

from rustygate.simulator.text import tokens_of
from tests.support.simulator import Simulator


async def test_sdk_creates_a_response(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        response = await sdk.responses.create(
            model="gpt-5", instructions="Be kind.", input=[{"role": "user", "content": "Hi"}]
        )
    assert response.status == "completed"
    assert response.usage is not None
    assert response.usage.output_tokens == len(tokens_of(response.output_text)) == 48


async def test_sdk_response_stream_has_openais_events_in_order(simulator: Simulator) -> None:
    async with (
        simulator.sdk() as sdk,
        sdk.responses.stream(model="gpt-5", input="Hi", max_output_tokens=2) as stream,
    ):
        events = [event async for event in stream]
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last = events[-1]
    assert last.type == "response.incomplete"
    final = last.response
    assert final.status == "incomplete"
    assert final.incomplete_details is not None
    assert final.incomplete_details.reason == "max_output_tokens"
    assert len(tokens_of(final.output_text)) == 2
    assert final.usage is not None
    assert final.usage.total_tokens == 3


async def test_json_schema_format_returns_a_json_object(simulator: Simulator) -> None:
    schema = {"type": "json_schema", "name": "a", "schema": {"type": "object"}}
    response = await simulator.post(
        "/responses", {"model": "m", "input": "x", "text": {"format": schema}}
    )
    text = json.loads(response.body)["output"][0]["content"][0]["text"]
    assert isinstance(json.loads(text), dict)


async def test_response_stream_names_its_events(simulator: Simulator) -> None:
    response = await simulator.post("/responses", {"model": "m", "input": "x", "stream": True})
    for event in response.body.removesuffix(b"\n\n").split(b"\n\n"):
        name, data = event.split(b"\n")
        assert name == b"event: " + json.loads(data.removeprefix(b"data: "))["type"].encode()
