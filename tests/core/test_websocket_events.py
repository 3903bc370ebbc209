"""Reading the events of the Realtime and Responses APIs."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.rate_limit_headers import Quota, RateLimitUpdate
from rustygate.core.usage import Usage
from rustygate.core.websocket_events import (
    BEGINNING_BYTES,
    SessionSettings,
    UpstreamEvent,
    event_type,
    read_turn,
    read_upstream_event,
    realtime_error,
    responses_error,
)

TYPES = {
    "first": (b'{"type":"a.b"', b"a.b"),
    "spaces": (b' \r\n{\t"type" : "a.b" ,', b"a.b"),
    "after a string": (b'{"event_id": "x", "type": "a.b"', b"a.b"),
    "after a string with escapes": (b'{"x": "a\\"type\\":\\n", "type": "a.b"', b"a.b"),
    "after scalars": (b'{"a": -1.5e3, "b": null, "c": true, "type": "a.b"', b"a.b"),
    "empty": (b'{"type":""', b""),
    "not ASCII": ('{"type":"\N{GRINNING FACE}"'.encode(), "\N{GRINNING FACE}".encode()),
    "not an object": (b'["type":"a.b"', b""),
    "text": (b"hello", b""),
    "number": (b"1", b""),
}


@pytest.mark.parametrize(("beginning", "expected"), TYPES.values(), ids=TYPES)
def test_type_is_known_from_the_beginning(beginning: bytes, expected: bytes) -> None:
    assert event_type(beginning, whole=False) == expected
    assert event_type(bytearray(beginning), whole=False) == expected


UNDECIDED = {
    "nothing": b"",
    "spaces": b"  \n",
    "brace": b"{",
    "half a key": b'{"ty',
    "half a type": b'{"type":"a.b',
    "after an object": b'{"x": {"type": "y"}, "type": "a.b"',
    "after an array": b'{"x": ["type"], "type": "a.b"',
    "escaped key": b'{"\\u0074ype": "a.b"',
    "escaped type": b'{"type": "a\\u002eb"',
    "far behind": b'{"x": "%b", "type": "a.b"' % (b"x" * BEGINNING_BYTES),
}


@pytest.mark.parametrize("beginning", UNDECIDED.values(), ids=UNDECIDED)
def test_type_is_not_guessed(beginning: bytes) -> None:
    assert event_type(beginning, whole=False) is None


WHOLE = {
    "after an object": (b'{"x": {"type": "y"}, "type": "a.b"}', b"a.b"),
    "escaped key": (b'{"\\u0074ype": "a.b"}', b"a.b"),
    "escaped type": (b'{"type": "a\\u002eb"}', b"a.b"),
    "far behind": (b'{"x": "%b", "type": "a.b"}' % (b"x" * BEGINNING_BYTES), b"a.b"),
    "no type": (b'{"x": {"type": "y"}}', b""),
    "type that is no text": (b'{"x": [], "type": 1}', b""),
    "cut": (b'{"x": [', b""),
    "nothing": (b"", b""),
    "too deep": (b'{"x":' * 100_000, b""),
    "lone surrogate": (b'{"x": [], "type": "\\ud800"}', b""),
}


@pytest.mark.parametrize(("message", "expected"), WHOLE.values(), ids=WHOLE)
def test_type_of_a_whole_message_is_known(message: bytes, expected: bytes) -> None:
    assert event_type(message, whole=True) == expected


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
objects = st.dictionaries(
    st.sampled_from(["type", "event_id", "a", "response", "\N{GRINNING FACE}"]) | st.text(),
    json_values,
    max_size=5,
)


@given(objects, st.booleans(), st.booleans())
def test_type_is_the_one_that_a_parser_finds(
    event: dict[str, Any], ascii_only: bool, compact: bool
) -> None:
    separators = (",", ":") if compact else None
    message = json.dumps(event, ensure_ascii=ascii_only, separators=separators)
    message_bytes = message.encode(errors="replace")
    kind = event.get("type")
    expected = kind.encode(errors="replace") if isinstance(kind, str) else b""
    assert event_type(message_bytes, whole=True) == expected
    for cut in range(len(message_bytes)):
        assert event_type(message_bytes[:cut], whole=False) in (None, expected)


@given(st.binary(max_size=100) | json_values.map(lambda value: json.dumps(value).encode()))
def test_nothing_raises(message: bytes) -> None:
    event_type(message, whole=True)
    read_turn(message)
    read_upstream_event(message)


# What a client asks for.


def turn(**fields: Any) -> Any:
    return read_turn(json.dumps({"type": "response.create", **fields}).encode())


def test_realtime_turn_has_its_request_in_response() -> None:
    request = turn(event_id="e1", response={"instructions": "x" * 40, "max_output_tokens": 7})
    assert (request.event_id, request.stream_id) == ("e1", None)
    assert (request.facts.model, request.facts.cost(0), request.facts.output_cap) == (None, 17, 7)


def test_responses_turn_has_its_request_at_the_top() -> None:
    request = turn(model="gpt-5", input="x" * 40, max_output_tokens=7, stream_id="lane")
    assert (request.event_id, request.stream_id) == (None, "lane")
    assert (request.facts.model, request.facts.cost(0)) == ("gpt-5", 17)


def test_model_may_stand_beside_the_request() -> None:
    assert turn(model="a", response={"input": "x"}).facts.model == "a"
    for response, readable in (({"model": "b"}, False), ({"model": "a"}, True), ({}, True)):
        assert turn(model="a", response=response).facts.readable is readable
    assert turn(model="a", response={"model": "b"}).facts.model == "b"


def test_turn_without_a_cap_has_none() -> None:
    for request in (turn(), turn(response={}), turn(response={"max_output_tokens": "inf"})):
        assert request.facts.output_cap is None


def test_turn_that_generates_nothing_costs_its_input() -> None:
    assert turn(model="gpt-5", input="x" * 40, generate=False).facts.cost(1000) == 10
    assert turn(model="gpt-5", input="x" * 40, generate=True).facts.cost(1000) == 1010


def test_turn_that_cannot_be_read_costs_its_length() -> None:
    request = read_turn(b'{"type": "response.create", ' + b"x" * 72)
    assert (request.facts.readable, request.facts.cost(0)) == (False, 25)


@pytest.mark.parametrize("name", ["event_id", "stream_id", "model"])
def test_names_that_are_no_text_are_none(name: str) -> None:
    request = turn(**{name: 5})
    assert (request.event_id, request.stream_id, request.facts.model) == (None, None, None)


# What upstream reports.


def event(**fields: Any) -> UpstreamEvent:
    return read_upstream_event(json.dumps(fields).encode())


def test_usage_of_both_apis_is_read() -> None:
    usage = {"input_tokens": 30, "output_tokens": 12}
    for details in ("input_token_details", "input_tokens_details"):
        response = {"id": "resp_1", "usage": usage | {details: {"cached_tokens": 20}}}
        read = event(type="response.done", response=response)
        assert (read.response_id, read.usage) == ("resp_1", Usage(30, 12, 20))
        assert read.error is None


def test_details_of_a_usage_are_read() -> None:
    usage = {
        "input_tokens": 30,
        "input_token_details": {"cached_tokens": 20, "cache_write_tokens": 5, "audio_tokens": 9},
        "output_tokens": 12,
        "output_token_details": {"reasoning_tokens": 7, "audio_tokens": 3},
    }
    assert event(response={"usage": usage}).usage == Usage(30, 12, 20, 7, 5, 12)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, None),
        ({}, None),
        ({"input_tokens": "1"}, None),
        ({"input_tokens": -1, "output_tokens": True}, None),
        ({"output_tokens": 5}, Usage(0, 5)),
        ({"input_tokens": 5, "input_token_details": {"cached_tokens": 9}}, Usage(5, 0, 5)),
        ({"input_tokens": 0, "output_tokens": 0}, Usage(0, 0)),
    ],
)
def test_odd_usage(usage: Any, expected: Usage | None) -> None:
    assert event(response={"usage": usage}).usage == expected


def test_usage_of_a_transcription_is_at_the_top() -> None:
    assert event(usage={"input_tokens": 4, "output_tokens": 2}).usage == Usage(4, 2)


def test_errors_are_read_in_every_form() -> None:
    fields = {"code": "rate_limit_exceeded", "message": "Slow"}
    nested = event(type="error", status=429, error=fields | {"event_id": "e1"}, headers={"A": 1})
    assert nested.error is not None
    assert (nested.error.status, nested.error.event_id) == (429, "e1")
    assert nested.error.headers == {"a": "1"}
    flat = event(type="error", event_id="of the server", **fields)
    assert flat.error is not None
    assert (flat.error.fields["code"], flat.error.event_id) == ("rate_limit_exceeded", None)
    done = event(response={"status": "failed", "status_details": {"error": fields}})
    failed = event(response={"error": fields})
    inside = event(type="error", error=fields | {"headers": {"Retry-After": "1"}})
    for read in (done, failed, inside):
        assert read.error is not None
        assert read.error.fields["code"] == "rate_limit_exceeded"
        assert read.error.is_rate_limit
    assert inside.error is not None
    assert inside.error.headers == {"retry-after": "1"}


def test_response_that_was_cancelled_or_incomplete_is_no_error() -> None:
    for status in ("cancelled", "incomplete", "completed"):
        details = {"type": status, "reason": "max_output_tokens"}
        assert event(response={"status": status, "status_details": details}).error is None


@pytest.mark.parametrize(
    ("fields", "status", "expected"),
    [
        ({"code": "rate_limit_exceeded"}, None, True),
        ({"code": "inference_rate_limit_exceeded"}, None, True),
        ({"type": "rate_limit_error"}, None, True),
        ({"code": "slow_down"}, None, True),
        ({"code": "server_is_overloaded"}, None, True),
        ({}, 429, True),
        ({}, 503, True),
        ({}, 500, False),
        ({"code": "server_error"}, None, False),
        ({"code": 5}, None, False),
    ],
)
def test_which_errors_are_rate_limits(
    fields: dict[str, Any], status: int | None, expected: bool
) -> None:
    error = event(type="error", status=status, error=fields).error
    assert error is not None
    assert error.is_rate_limit is expected


def test_session_settings_are_read() -> None:
    session = {"model": "gpt-realtime", "max_output_tokens": 50}
    assert event(session=session).session == SessionSettings("gpt-realtime", 50)
    assert event(session={"max_output_tokens": "inf"}).session == SessionSettings()


def test_rate_limits_of_a_session_are_read() -> None:
    limits = [
        {"name": "requests", "limit": 60, "remaining": 59, "reset_seconds": 1},
        {"name": "tokens", "limit": 1000, "remaining": 2000},
        {"name": "other", "limit": 1},
        "odd",
    ]
    assert event(rate_limits=limits).rate_limits == RateLimitUpdate(
        Quota(60, 59), Quota(1000, 1000)
    )
    assert event(rate_limits=[{"name": "requests", "limit": 0}]).rate_limits == RateLimitUpdate()
    assert event(rate_limits={}).rate_limits is None


# What the gate reports.


def test_error_events_have_the_form_of_their_api() -> None:
    error = {"type": "t", "code": "c", "message": "m", "param": None}
    assert realtime_error(error, "event_1", None) == {
        "type": "error",
        "event_id": "event_1",
        "error": error | {"event_id": None},
    }
    headers = {"Retry-After": "1"}
    expected = {
        "type": "error",
        "status": 429,
        "error": error | {"headers": headers},
        "headers": headers,
    }
    assert responses_error(error, 429, headers, None) == expected
    assert responses_error(error, 429, headers, "lane") == expected | {"stream_id": "lane"}
