"""The Responses API over HTTP."""

import json

from tests.support.simulator import Site


async def test_sdk_response_plain(site: Site) -> None:
    async with site.sdk() as sdk:
        response = await sdk.responses.create(
            model="gpt-5", instructions="Be kind.", input=[{"role": "user", "content": "Hi"}]
        )
    assert response.status == "completed"
    assert response.usage is not None
    assert response.usage.output_tokens == len(response.output_text.split())


async def test_sdk_response_stream_has_the_true_events_in_order(site: Site) -> None:
    async with (
        site.sdk() as sdk,
        sdk.responses.stream(model="gpt-5", input="Hi", max_output_tokens=2) as stream,
    ):
        events = [event async for event in stream]
        final = await stream.get_final_response()
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
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert len(final.output_text.split()) == 2
    assert final.usage is not None
    assert final.usage.total_tokens == 3


async def test_json_schema_is_json_in_responses_too(site: Site) -> None:
    schema = {"type": "json_schema", "name": "a", "schema": {"type": "object"}}
    answer = await site.post(
        "/responses", {"model": "m", "input": "x", "text": {"format": schema}}
    )
    text = json.loads(answer.body)["output"][0]["content"][0]["text"]
    assert isinstance(json.loads(text), dict)


async def test_response_stream_names_its_events(site: Site) -> None:
    answer = await site.post("/responses", {"model": "m", "input": "x", "stream": True})
    for event in answer.body.removesuffix(b"\n\n").split(b"\n\n"):
        name, data = event.split(b"\n")
        assert name == b"event: " + json.loads(data.removeprefix(b"data: "))["type"].encode()
