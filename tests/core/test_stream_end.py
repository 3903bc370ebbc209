"""The end of a stream: its final event, or an error that it reports."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.stream_end import StreamEnd, find_end

DELTA = b'data: {"choices":[{"delta":{"content":"an error, response.completed"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":1}}\n\n'
ERROR = b'{"error":{"message":"Rate limit","type":"requests","code":"rate_limit_exceeded"}}'
ERROR_CHUNK = (
    b'{"choices":[{"delta":{"content":""},"finish_reason":"error"}],"error":{"code":429}}'
)
FAILED = (
    b'{"type":"response.failed","response":{"status":"failed","error":{"code":"server_error"}}}'
)
TOP_LEVEL = b'{"type":"error","code":"server_error","message":"broke","sequence_number":3}'


def named(name: str, data: bytes) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)


@pytest.mark.parametrize(
    "events",
    [
        DONE,
        DELTA + DONE,
        DELTA + USAGE + DONE,
        b"data:[DONE]\n\n",
        DONE + b": ping\n\n",
        b"event: done\n" + DONE,
        named("response.completed", b'{"type":"response.completed","response":{"error":null}}'),
        b'data: {"type":"response.incomplete","response":{"output":[]}}\n\n',
        named("response.failed", b'{"type":"response.failed","response":{"error":null}}'),
        b'data: {"type":"transcript.text.done","text":"hi"}\n\n',
        b'data: {"type":"speech.audio.done","usage":{}}\n\n',
        named("image_edit.completed", b'{"type":"image_edit.completed","b64_json":"aQ=="}'),
        b'data: {"type":"image_generation.completed","b64_json":"aQ=="}\n\n',
        named("message_stop", b'{"type":"message_stop"}'),
        named(
            "response.completed", b'{"type":"response.completed","response":{"instructions":"cut'
        ),
    ],
)
def test_final_event_is_the_end(events: bytes) -> None:
    assert find_end(events) == StreamEnd()


@pytest.mark.parametrize(
    ("events", "error"),
    [
        (b"data: " + ERROR + b"\n\n", ERROR),
        (b"data: " + ERROR + b"\n\n" + DONE, ERROR),
        (b"data: " + ERROR + b"\n\n" + USAGE + DONE, ERROR),
        (DELTA + b"data: " + ERROR_CHUNK + b"\n\n" + DONE, ERROR_CHUNK),
        (named("error", ERROR), ERROR),
        (named("error", TOP_LEVEL), TOP_LEVEL),
        (b"data: " + TOP_LEVEL + b"\n\n", TOP_LEVEL),
        (named("error", b'{"message":"broke"}'), b'{"message":"broke"}'),
        (named("error", b"broke"), b"broke"),
        (named("response.failed", FAILED), FAILED),
        (b"data: " + FAILED + b"\n\n", FAILED),
        (b'data: {"error":"overloaded"}\n\n', b'{"error":"overloaded"}'),
        (b'data: {"error":\ndata: {"code":1}}\n\n', b'{"error":\n{"code":1}}'),
    ],
)
def test_error_is_the_end_with_its_data(events: bytes, error: bytes) -> None:
    assert find_end(events) == StreamEnd(error)


@pytest.mark.parametrize(
    "events",
    [
        b"",
        DELTA,
        DELTA + USAGE,
        b'data: {"error":null,"choices":[]}\n\n',
        b'data: {"error":{},"choices":[]}\n\n',
        b'data: {"choices":[{"delta":{"content":"[DONE]"}}]}\n\n',
        named("response.created", b'{"type":"response.created","response":{"error":null}}'),
        named("response.output_text.done", b'{"type":"response.output_text.done","text":"error"}'),
        b'data: {"choices":[{"delta":{"content":"\\"error\\": {\\"code\\": 1}"}}]}\n\n',
        b": error\n\n",
        b": data: [DONE]\n\n",
        b"data: not JSON, error\n\n",
    ],
)
def test_other_events_are_no_end(events: bytes) -> None:
    assert find_end(events) is None


@given(
    st.lists(
        st.sampled_from([b"data: ", b"event: error", b"[DONE]", b"\n", b"\n\n", b"\xff", ERROR])
    )
)
def test_any_bytes_are_accepted(parts: list[bytes]) -> None:
    find_end(b"".join(parts))
