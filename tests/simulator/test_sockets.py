"""WebSockets: the Realtime and the Responses API over them, with the SDK and with aiohttp."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import openai
import pytest
from aiohttp import ClientWebSocketResponse, WSMsgType
from openai.types.realtime import RealtimeServerEvent

from rustygate.simulator import Options
from rustygate.simulator.endpoints.conversation import ITEMS, Conversation
from rustygate.simulator.limits import Limits
from rustygate.simulator.transport.websocket import LONGEST_MESSAGE
from tests.support.simulator import KEY, SOON_S, Site, request, running

REALTIME = "/realtime?model=gpt-realtime"
CREATE = {"type": "response.create", "model": "gpt-5", "input": "Hi", "max_output_tokens": 2}
BEARER = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with running(Options()) as site:
        yield site


@asynccontextmanager
async def connected(
    site: Site, path: str = REALTIME, simulate: str = "", **options: Any
) -> AsyncIterator[ClientWebSocketResponse]:
    """A connection whose messages are seen as they come."""
    headers = options.pop("headers", BEARER) | ({"X-Simulate": simulate} if simulate else {})
    defaults: dict[str, Any] = {"autoping": False, "max_msg_size": 0, "timeout": _CLOSE}
    options = defaults | options
    async with (
        asyncio.timeout(SOON_S),
        aiohttp.ClientSession(headers=headers) as session,
        session.ws_connect(f"{site.url}{path}", **options) as socket,
    ):
        yield socket


_CLOSE = aiohttp.ClientWSTimeout(ws_close=SOON_S)


async def through(socket: ClientWebSocketResponse, last: str) -> list[dict[str, Any]]:
    """The events up to and with one of that type."""
    events: list[dict[str, Any]] = [json.loads(await socket.receive_str())]
    while events[-1]["type"] != last:
        events.append(json.loads(await socket.receive_str()))
    return events


async def answer(socket: ClientWebSocketResponse, message: object) -> dict[str, Any]:
    """The next event after a message."""
    await socket.send_str(message if isinstance(message, str) else json.dumps(message))
    event: dict[str, Any] = json.loads(await socket.receive_str())
    return event


# The Realtime API


async def test_sdk_has_a_conversation(site: Site) -> None:
    events: list[RealtimeServerEvent] = []
    async with site.sdk() as sdk, sdk.realtime.connect(model="gpt-realtime") as connection:
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


async def test_conversation_is_what_an_answer_depends_on(site: Site) -> None:
    async def said(*texts: str) -> str:
        async with connected(site) as socket:
            await through(socket, "session.created")
            for text in texts:
                content = [{"type": "input_text", "text": text}]
                item = {"type": "message", "role": "user", "content": content}
                await socket.send_json({"type": "conversation.item.create", "item": item})
            await socket.send_json({"type": "response.create"})
            done = (await through(socket, "response.output_text.done"))[-1]
            return str(done["text"])

    assert await said("a") == await said("a") != await said("a", "b")


async def test_item_is_placed_retrieved_and_deleted(site: Site) -> None:
    async with connected(site) as socket:
        await through(socket, "session.created")
        for identifier, after in (("one", None), ("three", "one"), ("two", "one"), ("0", "root")):
            item = {"id": identifier, "type": "message", "role": "user", "content": []}
            await socket.send_json(
                {"type": "conversation.item.create", "item": item, "previous_item_id": after}
            )
            done = (await through(socket, "conversation.item.done"))[-1]
            assert done["previous_item_id"] == (None if after == "root" else after)
        retrieve = {"type": "conversation.item.retrieve", "item_id": "two"}
        assert (await answer(socket, retrieve))["item"]["id"] == "two"
        delete = {"type": "conversation.item.delete", "item_id": "two"}
        assert (await answer(socket, delete))["type"] == "conversation.item.deleted"
        assert (await answer(socket, retrieve))["error"]["param"] == "item_id"


async def test_audio_that_is_put_in_counts_by_its_length(site: Site) -> None:
    async with connected(site) as socket:
        await through(socket, "session.created")
        await socket.send_json({"type": "input_audio_buffer.append", "audio": "A" * 64_000})
        committed = await answer(socket, {"type": "input_audio_buffer.commit"})
        assert committed["type"] == "input_audio_buffer.committed"
        await through(socket, "conversation.item.done")
        await socket.send_json({"type": "response.create"})
        done = (await through(socket, "response.done"))[-1]
        assert done["response"]["usage"]["input_tokens"] == 10
        cleared = await answer(socket, {"type": "input_audio_buffer.clear"})
        assert cleared["type"] == "input_audio_buffer.cleared"
        empty = await answer(socket, {"type": "input_audio_buffer.commit"})
        assert "empty" in empty["error"]["message"]


async def test_response_beyond_the_quota_is_one_that_failed() -> None:
    options = Options(model_limits=(("gpt-realtime", Limits(1, 0)),))
    async with running(options) as site, connected(site) as socket:
        for _ in range(2):
            await socket.send_json({"type": "response.create"})
        first = await through(socket, "response.done")
        second = await through(socket, "response.done")
    [levels] = [event for event in first if event["type"] == "rate_limits.updated"]
    assert [(level["name"], level["remaining"]) for level in levels["rate_limits"]] == [
        ("requests", 0)
    ]
    assert [event["type"] for event in second] == ["response.created", "response.done"]
    assert second[-1]["response"]["status"] == "failed"
    error = second[-1]["response"]["status_details"]["error"]
    assert error["code"] == "rate_limit_exceeded"
    assert error["message"].startswith("Rate limit reached for gpt-realtime in organization")


async def test_response_is_cancelled_where_it_stands(site: Site) -> None:
    async with connected(site, simulate="tokens_per_second=200,tokens=100000") as socket:
        await socket.send_json({"type": "response.create"})
        await through(socket, "response.output_text.delta")
        await socket.send_json({"type": "response.cancel"})
        done = (await through(socket, "response.done"))[-1]["response"]
        late = await answer(socket, {"type": "response.cancel", "event_id": "mine"})
    assert done["status"] == "cancelled"
    assert 0 < done["usage"]["output_tokens"] < 100_000
    assert done["output"][0]["status"] == "incomplete"
    assert (late["error"]["code"], late["error"]["event_id"]) == (
        "response_cancel_not_active",
        "mine",
    )


async def test_response_outside_the_conversation_leaves_it_alone(site: Site) -> None:
    async with connected(site) as socket:
        await socket.send_json(
            {"type": "response.create", "response": {"conversation": "none", "input": []}}
        )
        names = {event["type"] for event in await through(socket, "response.done")}
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
    "long-answer": '{"type": "response.create", "response": {"max_output_tokens": 5000}}',
    "bad-input": '{"type": "response.create", "response": {"input": [{"content": 1}]}}',
}


@pytest.mark.parametrize("message", BAD_MESSAGES.values(), ids=BAD_MESSAGES)
async def test_bad_message_is_an_error_and_not_the_end(site: Site, message: str) -> None:
    async with connected(site) as socket:
        await through(socket, "session.created")
        error = await answer(socket, message)
        if error["type"] != "error":
            pytest.fail(f"got {error}")
        assert error["error"]["type"] == "invalid_request_error"
        assert (await answer(socket, {"type": "input_audio_buffer.clear"}))["type"] != "error"


def test_conversation_forgets_its_oldest_items() -> None:
    conversation = Conversation()
    for number in range(ITEMS + 1):
        conversation.add({"id": str(number), "type": "message"})
    with pytest.raises(Exception, match="no item '0'"):
        conversation.find("0")
    assert len(conversation.texts) == ITEMS


# The Responses API


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


# The connection


async def test_bytes_come_back_as_they_are_in_their_turn(site: Site) -> None:
    data = bytes(range(256)) * 300
    async with connected(site, "/responses") as socket:
        await socket.send_json(CREATE)
        await socket.send_bytes(data)
        await through(socket, "response.completed")
        assert await socket.receive_bytes() == data


async def test_pings_are_answered_while_a_response_takes_its_time(site: Site) -> None:
    async with connected(site, "/responses", "tokens_per_second=0.001") as socket:
        await socket.send_json(CREATE)
        await through(socket, "response.output_text.delta")
        await socket.ping(b"there?")
        pong = await socket.receive()
    assert (pong.type, pong.data) == (WSMsgType.PONG, b"there?")


async def test_messages_are_compressed_where_that_was_asked(site: Site) -> None:
    async with connected(site, compress=15) as socket:
        assert socket.compress == 15
        await through(socket, "session.created")
        await socket.send_bytes(bytes(2_000_000))
        assert await socket.receive_bytes() == bytes(2_000_000)


@pytest.mark.parametrize("compress", [0, 15], ids=["plain", "compressed"])
@pytest.mark.parametrize("text", [False, True], ids=["bytes", "text"])
async def test_longest_message_passes_and_a_longer_one_ends_with_1009(
    site: Site, compress: int, text: bool
) -> None:
    async with connected(site, "/responses", compress=compress) as socket:
        send = socket.send_str if text else socket.send_bytes
        whole: Any = "x" * LONGEST_MESSAGE if text else bytes(LONGEST_MESSAGE)
        await send(whole)
        assert len((await socket.receive()).data) > 100
        await send(whole + ("x" if text else b"x"))
        closed = await socket.receive()
    assert (closed.type, closed.data) == (WSMsgType.CLOSE, 1009)


async def test_text_that_is_not_utf8_ends_with_1007(site: Site) -> None:
    async with connected(site, "/responses") as socket:
        await socket.send_frame(b"\xff", WSMsgType.TEXT)
        closed = await socket.receive()
    assert (closed.type, closed.data) == (WSMsgType.CLOSE, 1007)


async def test_key_may_be_offered_as_a_protocol_and_is_never_chosen(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    offered = f"openai-insecure-api-key.{KEY}"
    for protocols, chosen in (((offered,), None), ((offered, "realtime"), "realtime")):
        async with connected(site, headers={}, protocols=protocols) as socket:
            assert socket.protocol == chosen
            await through(socket, "session.created")
    assert list((await site.stats())["keys"]) == ["...1234"]
    assert KEY not in caplog.text


async def test_protocol_nobody_knows_is_not_chosen(site: Site) -> None:
    async with connected(site, protocols=("dance",)) as socket:
        assert socket.protocol is None


@pytest.mark.parametrize("path", ["/v1/realtime?model=m", "/v1/responses"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_without_an_upgrade_there_is_nothing(site: Site, method: str, path: str) -> None:
    assert (await site.ask(request(method, path))).status == 400


@pytest.mark.parametrize(
    ("path", "simulate", "headers", "status"),
    [
        (REALTIME, "429", BEARER, 429),
        (REALTIME, "slow_down", BEARER, 429),
        ("/responses", "503", BEARER, 503),
        (REALTIME, "", {}, 401),
        ("/realtime?model=no-such", "", BEARER, 404),
        ("/realtime", "", BEARER, 400),
    ],
)
async def test_upgrade_is_refused_with_a_status(
    site: Site, path: str, simulate: str, headers: dict[str, str], status: int
) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as error:
        async with connected(site, path, simulate, headers=headers):
            pass
    assert error.value.status == status


async def test_sdk_raises_on_a_refused_upgrade(site: Site) -> None:
    websockets = pytest.importorskip("websockets")
    async with site.sdk() as sdk:
        with pytest.raises(websockets.InvalidStatus, match="429"):
            async with sdk.realtime.connect(
                model="m", extra_headers={"X-Simulate": "insufficient_quota"}
            ):
                pass


async def test_upgrade_carries_the_models_limits(site: Site) -> None:
    async with connected(site) as socket:
        headers = socket._response.headers
        assert headers["x-ratelimit-limit-requests"] == "500"
        assert "x-request-id" in headers


@pytest.mark.parametrize(
    ("path", "simulate", "seen", "code"),
    [
        (REALTIME, "close=4001", 0, 4001),
        (REALTIME, "close=1011,cut=1", 1, 1011),
        ("/responses", "close=4001", 0, 4001),
        ("/responses", "close=4999,cut=3", 3, 4999),
    ],
)
async def test_connection_is_closed_with_a_code_after_so_many_events(
    site: Site, path: str, simulate: str, seen: int, code: int
) -> None:
    async with connected(site, path, simulate) as socket:
        if path == "/responses" and seen:
            await socket.send_json(CREATE)
        events = [await socket.receive() for _ in range(seen)]
        closed = await socket.receive()
    assert all(event.type is WSMsgType.TEXT for event in events)
    assert (closed.type, closed.data) == (WSMsgType.CLOSE, code)


@pytest.mark.parametrize(("simulate", "seen"), [("cut", 1), ("cut=4", 4), ("cut_inside=4", 4)])
async def test_connection_is_cut_without_a_word(site: Site, simulate: str, seen: int) -> None:
    async with connected(site, "/responses", simulate) as socket:
        await socket.send_json(CREATE)
        events = [await socket.receive() for _ in range(seen)]
        end = await socket.receive()
    assert all(event.type is WSMsgType.TEXT for event in events)
    assert end.type in (WSMsgType.CLOSED, WSMsgType.ERROR)
    assert socket.close_code == 1006
    assert (await site.stats())["severed"] == 1


@pytest.mark.parametrize(("simulate", "seen"), [("stall=0", 0), ("stall=2", 2)])
async def test_stalled_connection_says_no_more_and_ends_with_its_client(
    site: Site, simulate: str, seen: int
) -> None:
    async with connected(site, "/responses", simulate) as socket:
        await socket.send_json(CREATE)
        for _ in range(seen):
            assert (await socket.receive()).type is WSMsgType.TEXT
        await socket.ping()
        assert (await socket.receive()).type is WSMsgType.PONG
        assert (await site.stats())["sockets_open"] == 1
    stats = await site.stats_until(lambda stats: stats["sockets_open"] == 0)
    assert (stats["requests_open"], stats["left"], stats["severed"]) == (0, 0, 0)


@pytest.mark.parametrize(("code", "echo"), [(1000, 1000), (4321, 4321), (1001, 1000)])
async def test_clients_closing_is_answered_and_no_leaving(
    site: Site, code: int, echo: int
) -> None:
    async with connected(site) as socket:
        await through(socket, "session.created")
        await socket.close(code=code)
        assert socket.close_code == echo
    stats = await site.stats_until(lambda stats: stats["requests_open"] == 0)
    assert (stats["by_status"], stats["left"]) == ({"101": 1}, 0)


async def test_client_that_is_gone_without_a_word_has_left(site: Site) -> None:
    async with connected(site, simulate="tokens_per_second=0.001") as socket:
        await socket.send_json({"type": "response.create"})
        await through(socket, "response.output_text.delta")
        assert socket._response.connection is not None
        assert socket._response.connection.transport is not None
        socket._response.connection.transport.abort()
        stats = await site.stats_until(lambda stats: stats["requests_open"] == 0)
    assert (stats["left"], stats["sockets_open"]) == (1, 0)


async def test_simulator_that_ends_waits_for_no_connection() -> None:
    async with AsyncExitStack() as client:
        async with running(Options()) as site:
            socket = await client.enter_async_context(connected(site))
            await through(socket, "session.created")
        assert (await socket.receive()).type in (WSMsgType.CLOSED, WSMsgType.ERROR)


async def test_tokens_said_are_counted_for_their_client(site: Site) -> None:
    async with connected(site, "/responses") as socket:
        for _ in range(2):
            await socket.send_json(CREATE | {"user": "ann"})
            await through(socket, "response.completed")
    stats = await site.stats()
    assert (stats["tokens_out"], stats["requests"]) == (4, 1)
    assert stats["clients"]["ann"]["tokens_out"] == 4
    assert stats["clients"]["ann"]["requests"] == 1


async def test_sync_sdk_converses_too(site: Site) -> None:
    def converse() -> str:
        sdk = openai.OpenAI(api_key=KEY, base_url=site.url, max_retries=0)
        with sdk, sdk.realtime.connect(model="gpt-realtime") as connection:
            connection.response.create()
            for event in connection:
                if event.type == "response.output_text.done":
                    return event.text
        return ""

    assert await asyncio.to_thread(converse)
