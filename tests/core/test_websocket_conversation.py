"""How many tokens of the conversation so far a turn reads."""

import json
from typing import Any

import pytest

from rustygate.core.websocket_conversation import MAX_ID_LENGTH, MAX_RESPONSES, Conversations
from rustygate.core.websocket_events import TurnRequest, item_tokens, read_turn


def turn(**response: Any) -> TurnRequest:
    return read_turn(json.dumps({"type": "response.create", "response": response}).encode())


def following(previous: str) -> TurnRequest:
    event = {"type": "response.create", "model": "m", "previous_response_id": previous}
    return read_turn(json.dumps(event).encode())


PLAIN = turn()


def realtime() -> Conversations:
    return Conversations(realtime=True)


def test_first_turn_reads_the_items_created_before() -> None:
    conversations = realtime()
    assert conversations.tokens_before(PLAIN) == 0
    conversations.items += 30
    assert conversations.tokens_before(PLAIN) == 30


def test_turn_reads_what_the_last_one_took_and_the_items_since() -> None:
    conversations = realtime()
    conversations.items = 30
    conversations.add(PLAIN, "resp_1", 30, 250)
    assert conversations.tokens_before(PLAIN) == 250
    conversations.items += 7
    assert conversations.tokens_before(PLAIN) == 257
    # This item came while the second response was written.
    conversations.items += 100
    conversations.add(PLAIN, "resp_2", 37, 300)
    assert conversations.tokens_before(PLAIN) == 400


@pytest.mark.parametrize("fields", [{"conversation": "none"}, {"input": []}, {"input": [{}]}])
def test_turn_apart_from_the_conversation_does_not_read_it(fields: dict[str, Any]) -> None:
    conversations = realtime()
    conversations.add(PLAIN, "resp_1", 0, 250)
    assert conversations.tokens_before(turn(**fields)) == 0
    conversations.add(turn(**fields), "resp_2", 0, 9)
    assert conversations.tokens_before(PLAIN) == 250


@pytest.mark.parametrize("fields", [{"conversation": "auto"}, {"input": None}])
def test_turn_in_the_conversation_reads_it(fields: dict[str, Any]) -> None:
    assert not turn(**fields).is_apart


def test_deeply_nested_fields_are_ignored() -> None:
    text = b'{"type":"response.create","conversation":%b1%b}' % (b"[" * 5000, b"]" * 5000)
    assert not read_turn(text).is_apart


def test_response_continues_the_one_that_it_names() -> None:
    conversations = Conversations(realtime=False)
    conversations.items = 50
    conversations.add(following("x"), "resp_1", 0, 250)
    conversations.add(following("resp_1"), "resp_2", 0, 400)
    assert conversations.tokens_before(following("resp_1")) == 250
    assert conversations.tokens_before(following("resp_2")) == 400
    assert conversations.tokens_before(following("resp_3")) == 0
    assert conversations.tokens_before(PLAIN) == 0


def test_remembered_responses_are_bounded() -> None:
    conversations = Conversations(realtime=False)
    for number in range(MAX_RESPONSES + 1):
        conversations.add(PLAIN, f"resp_{number}", 0, 5)
    assert conversations.tokens_before(following("resp_0")) == 0
    assert conversations.tokens_before(following("resp_1")) == 5
    conversations.add(PLAIN, None, 0, 5)
    for length, tokens in ((MAX_ID_LENGTH, 5), (MAX_ID_LENGTH + 1, 0)):
        conversations.add(PLAIN, "x" * length, 0, 5)
        assert conversations.tokens_before(following("x" * length)) == tokens


def item(*parts: dict[str, Any]) -> bytes:
    event = {"type": "conversation.item.create", "item": {"type": "message", "content": parts}}
    return json.dumps(event).encode()


ITEMS = {
    "text": (item({"type": "input_text", "text": "x" * 401}), 101),
    "two texts": (item(*[{"type": "input_text", "text": "x" * 20}] * 2), 10),
    "recording": (item({"type": "input_audio", "audio": "A" * 50_000}), 765),
    "image": (item({"type": "input_image", "image_url": "data:image/png;base64,AA"}), 765),
    "tool's output": (
        b'{"type":"conversation.item.create","item":'
        b'{"type":"function_call_output","call_id":"c","output":"12345678"}}',
        2,
    ),
    "no item": (b'{"type":"conversation.item.create"}', 0),
    "not JSON": (b'{"type":"conversation.item.create",', 0),
}


@pytest.mark.parametrize(("event", "tokens"), ITEMS.values(), ids=ITEMS)
def test_item_costs_its_text(event: bytes, tokens: int) -> None:
    assert item_tokens(event, len(event)) == tokens


def test_item_that_was_not_kept_whole_costs_its_size_if_it_is_text() -> None:
    assert item_tokens(item({"type": "input_text", "text": "x"})[:-9], 400_001) == 100_001
    for kind in ("input_audio", "input_image"):
        assert item_tokens(item({"type": kind})[:-3], 9_000_000) == 765
