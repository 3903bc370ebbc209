"""Event boundaries, however a stream is cut."""

import json
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.sse import KEEPALIVE, EventBoundary, error_event, is_event_stream

ERROR = {"message": "broke", "type": "upstream_error", "param": None, "code": "upstream_timeout"}


def at_boundary(*chunks: bytes) -> bool:
    boundary = EventBoundary()
    for chunk in chunks:
        boundary.feed(chunk)
    return bool(boundary)


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"", True),
        (b"data: a\n\n", True),
        (b"data: a\r\n\r\n", True),
        (b"data: a\r\r", True),
        (b"data: a\n", False),
        (b"data: a\r\n", False),
        (b"data: a", False),
        (b"data: a\n\ndata", False),
        (b"\n", True),
        (b"\n\n", True),
        (b"data: a\n\r\n", True),
        (b"data: a\r\n\n", True),
        (b": ping\n", True),
        (b": ping\r\n", True),
        (b"data: a\n\n: ping\n", True),
        (b"data: a\n\n:\n: keep-alive\n", True),
        (b"data: a\r\n\r\n: ping\r\n", True),
        (b"data: a\r\r: ping\r", True),
        (b"data: a\n\n: ping", False),
        (b"data: a\n: ping\n", False),
        (b": ping\ndata: a\n", False),
        (b"data: a\n\nid\n: ping\n", False),
        # A CR that may be half of a CRLF.
        (b"data: a\r\n\r", False),
        (b"data: a\n\n: ping\r", False),
    ],
)
def test_boundaries_whole_byte_by_byte_and_with_trailing_data(
    stream: bytes, expected: bool
) -> None:
    assert at_boundary(stream) is expected
    assert at_boundary(*(stream[i : i + 1] for i in range(len(stream)))) is expected
    assert at_boundary(stream + b"x") is False


def is_between_events(stream: bytes) -> bool:
    """The rule, read from the whole stream line by line."""
    lines = re.findall(rb"([^\r\n]*)(\r\n|\n|\r|$)", stream)[:-1]
    in_event, ending, ending_before = False, b"\n", b"\n"
    for content, terminator in lines:
        ending, ending_before = terminator, ending
        if not content.startswith(b":"):
            in_event = bool(content)
    complete = ending == b"\n" or ending == b"\r\n" or (ending, ending_before) == (b"\r", b"\r")
    return complete and not in_event


PARTS = [b"data: x", b"\n", b"\r\n", b"\r", b":", b": ping\n", b"\n\n", b"id: 7\n\n", b"\r\r"]


@given(st.lists(st.sampled_from(PARTS)), st.data())
def test_boundary_follows_the_rule_however_the_stream_is_cut(
    parts: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(parts)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=6).map(sorted))
    chunks = [stream[a:b] for a, b in pairwise([0, *cuts, len(stream)])]
    assert at_boundary(*chunks) is is_between_events(stream)


@pytest.mark.parametrize("line", [b"x" * 100_000, b": " + b"x" * 100_000, b"data: x\n" * 10_000])
def test_boundary_remembers_a_few_bytes(line: bytes) -> None:
    boundary = EventBoundary()
    boundary.feed(line)
    assert len(boundary._rest) < 4


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("text/event-stream", True),
        ("Text/Event-Stream; charset=utf-8", True),
        ("text/event-streams", False),
        ("application/json", False),
        ("", False),
        (None, False),
    ],
)
def test_event_stream_is_recognized_by_its_media_type(
    content_type: str | None, expected: bool
) -> None:
    assert is_event_stream(content_type) is expected


def test_keepalive_is_a_single_comment_line() -> None:
    assert KEEPALIVE == b": keep-alive\n"


def test_error_event_of_chat() -> None:
    event = error_event("/v1/chat/completions", ERROR)
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    assert json.loads(event.removeprefix(b"data: ")) == {"error": ERROR}


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/responses/resp_1"])
def test_error_event_of_the_responses_api(path: str) -> None:
    name, data, *_ = error_event(path, ERROR).split(b"\n")
    event = json.loads(data.removeprefix(b"data: "))
    assert name == b"event: error"
    assert event["type"] == "error"
    assert event["message"] == "broke"
    assert event["code"] == "upstream_timeout"
    assert event["error"] == ERROR
