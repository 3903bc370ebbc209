"""Which turn an event from upstream is about."""

from typing import Any

from rustygate.core.websocket_events import UpstreamError, UpstreamEvent
from rustygate.core.websocket_turns import OpenTurn, OpenTurns


def open_turns(*turns: OpenTurn) -> OpenTurns[OpenTurn]:
    turns_open: OpenTurns[OpenTurn] = OpenTurns()
    for turn in turns:
        turns_open.add(turn)
    return turns_open


def of(response_id: str | None = None, stream_id: str | None = None) -> UpstreamEvent:
    return UpstreamEvent(response_id, stream_id)


def failing(
    turns: OpenTurns[OpenTurn], event: UpstreamEvent, *, realtime: bool = True, **fields: Any
) -> OpenTurn | None:
    error = UpstreamError(fields, event_id=fields.get("event_id"))
    return turns.failing(event, error, realtime=realtime)


def test_responses_begin_in_the_order_of_the_turns() -> None:
    first, second = OpenTurn(), OpenTurn()
    turns = open_turns(first, second)
    assert turns.begin(of("resp_1")) is first
    assert turns.begin(of("resp_2")) is second
    assert turns.begin(of("resp_3")) is None
    assert turns.latest is second


def test_responses_end_by_their_names() -> None:
    first, second = OpenTurn(), OpenTurn()
    turns = open_turns(first, second)
    turns.begin(of("resp_1"))
    turns.begin(of("resp_2"))
    assert turns.ending(of("resp_2")) is second
    assert turns.ending(of("resp_1")) is first
    assert turns.ending(of("resp_3")) is None
    turns.remove(second)
    assert turns.ending(of("resp_2")) is None
    assert (len(turns), list(turns), turns.latest) == (1, [first], first)


def test_response_whose_beginning_was_not_seen_ends_the_first_that_waits() -> None:
    first, second = OpenTurn(), OpenTurn()
    turns = open_turns(first, second)
    turns.begin(of("resp_1"))
    assert turns.ending(of("resp_2")) is second


def test_responses_without_names_end_in_order() -> None:
    first, second = OpenTurn(), OpenTurn()
    turns = open_turns(first, second)
    turns.begin(of())
    turns.begin(of())
    assert turns.ending(of()) is first
    assert turns.ending(of("resp_1")) is first
    turns.remove(first)
    assert turns.ending(of()) is second


def test_streams_are_told_apart() -> None:
    first, second = OpenTurn(stream_id="a"), OpenTurn(stream_id="b")
    turns = open_turns(first, second)
    assert turns.begin(of("resp_b", "b")) is second
    assert turns.begin(of("resp_a", "a")) is first
    turns = open_turns(OpenTurn(stream_id="a"), OpenTurn(stream_id="b"))
    assert turns.begin(of("resp_c", "c")) is None
    assert turns.latest is None


def test_upstream_without_streams_is_taken_in_order() -> None:
    first, second = OpenTurn(stream_id="a"), OpenTurn(stream_id="b")
    turns = open_turns(first, second)
    assert turns.begin(of("resp_1")) is first
    assert turns.begin(of("resp_2")) is second


def test_error_names_the_event_of_its_turn() -> None:
    first, second = OpenTurn("e1"), OpenTurn("e2")
    turns = open_turns(first, second)
    assert failing(turns, of(), event_id="e2") is second
    assert failing(turns, of(), event_id="e3") is None


def test_error_without_a_name_is_that_of_the_first_turn_that_waits() -> None:
    first, second = OpenTurn(), OpenTurn()
    turns = open_turns(first, second)
    turns.begin(of("resp_1"))
    assert failing(turns, of(), code="invalid_value") is second
    assert failing(turns, of(), code="response_cancel_not_active") is None
    assert failing(turns, of(), code="input_audio_buffer_commit_empty") is None
    assert failing(turns, of("resp_1")) is first
    assert failing(turns, of("resp_9")) is None


def test_realtime_error_ends_no_response_that_has_begun() -> None:
    turns = open_turns(OpenTurn())
    turns.begin(of("resp_1"))
    assert failing(turns, of(), code="x") is None


def test_error_of_the_responses_api_ends_the_response_that_runs() -> None:
    first, second = OpenTurn(stream_id="a"), OpenTurn(stream_id="b")
    turns = open_turns(first, second)
    turns.begin(of("resp_a", "a"))
    turns.begin(of("resp_b", "b"))
    assert failing(turns, of(stream_id="b"), realtime=False) is second
    assert failing(turns, of(stream_id="c"), realtime=False) is None
    one = OpenTurn()
    turns = open_turns(one)
    turns.begin(of("resp_1"))
    assert failing(turns, of(), realtime=False, code="response_cancel_x") is one


def test_repr_shows_the_live_state() -> None:
    turns = open_turns(OpenTurn(), OpenTurn())
    turns.begin(of())
    assert repr(turns) == "<OpenTurns 2, 1 begun>"
