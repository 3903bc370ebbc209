"""What is observed of a body, however it is cut and compressed."""

import gzip
import json
import sys
import zlib
from collections.abc import Callable
from itertools import pairwise
from typing import TypeVar

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.content_coding import codings_of
from rustygate.core.response_observer import (
    BODY_BYTES,
    EVENT_BYTES,
    LAST_BYTES,
    BodyObserver,
    ResponseObserver,
    StreamObserver,
)
from rustygate.core.stream_end import StreamEnd
from rustygate.core.usage import USAGE_BYTES, Usage
from tests.support.texts import ENGLISH

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Observer = TypeVar("Observer", bound=ResponseObserver)

USAGE = b'"usage":{"prompt_tokens":12,"completion_tokens":34,"total_tokens":46}'
DONE = b"data: [DONE]\n\n"
ERROR = b'{"error":{"code":"rate_limit_exceeded"}}'


def stream_observer(coding: str = "") -> StreamObserver:
    return StreamObserver(codings_of({"content-encoding": coding}), counts=True, has_output=True)


def body_observer(coding: str = "") -> BodyObserver:
    return BodyObserver(codings_of({"content-encoding": coding}), has_output=True)


def observe(observer: Observer, *chunks: bytes) -> Observer:
    """Feed chunks, each scanned by itself, to the end of the body, which scans the last one."""
    for chunk in chunks:
        observer.scan()
        observer.pending.append(chunk)
    observer.finish()
    return observer


def delta(text: str) -> bytes:
    data = {"choices": [{"index": 0, "delta": {"content": text}}], "usage": None}
    return b"data: %b\n\n" % json.dumps(data).encode()


def usage_event(prompt: int, completion: int) -> bytes:
    usage = {"prompt_tokens": prompt, "completion_tokens": completion}
    return b"data: %b\n\n" % json.dumps({"usage": usage, "choices": []}).encode()


STREAM = b"".join(map(delta, ["Hello", " world", "!"])) + usage_event(5, 3) + DONE
LONG_EVENT = b'data: {"type":"response.created","response":{"instructions":"%b"}}\n\n'


def by_byte(body: bytes) -> list[bytes]:
    return [body[at : at + 1] for at in range(len(body))]


# Plain bodies.

PAD = b'"pad":"%b"' % (b"x" * 30_000)


@pytest.mark.parametrize(
    "body",
    [
        b"{%b}" % USAGE,
        b'{%b,"choices":[]}' % USAGE,
        b"{%b,%b}" % (USAGE, PAD),
        b"{%b,%b}" % (PAD, USAGE),
        b"{%b,%b,%b}" % (PAD, USAGE, PAD.replace(b"pad", b"more")),
    ],
    ids=["alone", "first", "before much", "after much", "in the middle"],
)
@pytest.mark.parametrize(
    ("coding", "encode"),
    [
        ("", bytes),
        ("identity", bytes),
        ("none", bytes),
        ("gzip", lambda body: gzip.compress(body)),
        ("deflate", lambda body: zlib.compress(body)),
        ("deflate", lambda body: zlib.compress(body)[2:-4]),
    ],
    ids=["plain", "identity", "none", "gzip", "zlib", "raw deflate"],
)
def test_usage_of_a_body_is_found_wherever_it_stands(
    body: bytes, coding: str, encode: Callable[[bytes], bytes]
) -> None:
    sent = encode(body)
    assert observe(body_observer(coding), sent).usage == Usage(12, 34)
    for size in (1, 1000):
        chunks = [sent[at : at + size] for at in range(0, len(sent), size)]
        assert observe(body_observer(coding), *chunks[:40_000]).usage == Usage(12, 34)


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
def test_undecodable_body_has_no_usage(coding: str) -> None:
    assert observe(body_observer(coding), b"\x00\x01rubbish", b"{%b}" % USAGE).usage is None


def test_output_of_a_body_without_usage_is_estimated() -> None:
    body = json.dumps({"choices": [{"message": {"content": ENGLISH}}]}).encode()
    for chunks in ([body], by_byte(body)):
        observer = observe(body_observer(), *chunks)
        assert observer.usage is None
        assert observer.estimated_output() == pytest.approx(152, rel=0.05)


def test_output_of_a_long_body_is_estimated_from_its_beginning() -> None:
    body = json.dumps({"choices": [{"message": {"content": ENGLISH * 300}}]}).encode()
    assert len(body) > 3 * BODY_BYTES
    assert observe(body_observer(), body).estimated_output() == pytest.approx(45_600, rel=0.05)


@pytest.mark.parametrize("body", [b'{"status":"queued","output":[]}', b"<html>", b""])
def test_output_of_a_body_without_text_is_unknown(body: bytes) -> None:
    assert observe(body_observer(), body).estimated_output() is None


def test_output_of_other_endpoints_is_nothing() -> None:
    observer = observe(BodyObserver(has_output=False), b'{"text":"transcribed"}')
    assert observer.estimated_output() == 0


def test_body_keeps_little_in_memory() -> None:
    observer = body_observer()
    for _ in range(100):
        observer.pending.append(b"x" * 10_000)
        observer.scan()
    assert observer.pending == []
    assert len(observer._tail) == USAGE_BYTES
    assert len(observer._start) == BODY_BYTES


# Streams.


@given(st.data())
def test_how_a_stream_is_cut_makes_no_difference(data: st.DataObject) -> None:
    newline = data.draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
    stream = STREAM.replace(b"\n", newline)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8).map(sorted))
    chunks = [stream[a:b] for a, b in pairwise([0, *cuts, len(stream)])]
    observer = observe(stream_observer(), *chunks)
    assert observer.usage == Usage(5, 3)
    assert observer.end == StreamEnd()


@given(st.data())
def test_how_a_stream_is_cut_makes_no_difference_to_its_estimate(data: st.DataObject) -> None:
    stream = b"".join(delta(ENGLISH[at : at + 5]) for at in range(0, 200, 5))[:-50]
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8).map(sorted))
    chunks = [stream[a:b] for a, b in pairwise([0, *cuts, len(stream)])]
    whole = observe(stream_observer(), stream).estimated_output()
    assert whole is not None
    assert abs((observe(stream_observer(), *chunks).estimated_output() or 0) - whole) <= 3


@pytest.mark.parametrize(
    "stream",
    [
        usage_event(5, 3) + delta("a") * 1000 + DONE,
        delta("a") * 1000 + usage_event(5, 3) + LONG_EVENT % (b"x" * 100_000) + DONE,
        usage_event(1, 1) + delta("a") * 100 + usage_event(5, 3),
        LONG_EVENT.replace(b'"}}', b'"},%b}' % USAGE.replace(b"12", b"5").replace(b"34", b"3"))
        % (b"x" * 3 * EVENT_BYTES),
        usage_event(5, 3).removesuffix(b"\n\n"),
    ],
    ids=["first event", "before a long event", "last counts", "in an endless event", "no newline"],
)
def test_usage_of_a_stream_is_found_in_any_event(stream: bytes) -> None:
    for size in (333, 10_000, 10**7):
        chunks = [stream[at : at + size] for at in range(0, len(stream), size)]
        assert observe(stream_observer(), *chunks).usage == Usage(5, 3)
        compressed = gzip.compress(stream)
        chunks = [compressed[at : at + size] for at in range(0, len(compressed), size)]
        assert observe(stream_observer("gzip"), *chunks).usage == Usage(5, 3)


def test_output_is_counted_as_far_as_it_passed() -> None:
    stream = delta(" hello") * 50
    observer = observe(stream_observer(), stream[: len(stream) // 2 + 30])
    assert observer.usage is None
    assert observer.end is None
    assert observer.estimated_output() == 25


def test_output_of_an_endless_event_is_estimated_by_its_size() -> None:
    event = delta(ENGLISH * 2000)
    assert len(event) > 5 * EVENT_BYTES
    chunks = [event[at : at + 50_000] for at in range(0, len(event), 50_000)]
    estimated = observe(stream_observer(), *chunks).estimated_output()
    assert estimated == pytest.approx(304_000, rel=0.1)


def test_nothing_is_counted_if_nothing_counts() -> None:
    observer = observe(StreamObserver(counts=False, has_output=True), STREAM)
    assert observer.usage is None
    assert observer.estimated_output() == 0
    assert observer.end == StreamEnd()


@pytest.mark.parametrize("size", [1, 50, 5000])
@pytest.mark.parametrize(
    "tail",
    [
        b"data: %b\n\n" % ERROR,
        b"data: %b\n\n%b" % (ERROR, DONE),
        b"data: %b\n\n%b%b" % (ERROR, usage_event(1, 2), DONE),
        b"event: error\ndata: %b\n\n" % ERROR,
    ],
)
def test_error_at_the_end_is_seen(tail: bytes, size: int) -> None:
    stream = delta("word") * 100 + tail
    chunks = [stream[at : at + size] for at in range(0, len(stream), size)]
    assert observe(stream_observer(), *chunks).end == StreamEnd(ERROR)


@pytest.mark.parametrize("name", [b"event: response.completed\n", b""])
def test_long_final_event_is_seen(name: bytes) -> None:
    data = b'{"type":"response.completed","response":{"instructions":"%b"}}'
    for length in (10_000, 2 * EVENT_BYTES):
        event = b"%bdata: %b\n\n" % (name, data % (b"x" * length))
        chunks = [event[at : at + 8000] for at in range(0, len(event), 8000)]
        assert observe(stream_observer(), delta("a") * 100, *chunks).end == StreamEnd()


@pytest.mark.parametrize(
    ("stream", "expected"),
    [(b"", (True, None)), (DONE[:-1], (False, None)), (DONE, (True, StreamEnd()))],
)
def test_end_and_boundary_are_known_before_a_scan(
    stream: bytes, expected: tuple[bool, StreamEnd | None]
) -> None:
    observer = stream_observer()
    observer.pending += by_byte(stream)
    assert (observer.at_boundary, observer.end) == expected


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data),
    "deflate": lambda data: zlib.compress(data),
    "br": lambda data: brotli.compress(data),
    "zstd": lambda data: zstd.compress(data),
}


@pytest.mark.parametrize("coding", COMPRESS)
@pytest.mark.parametrize("size", [1, 100])
def test_compressed_streams_are_read(coding: str, size: int) -> None:
    for stream in (STREAM, delta(" word") * 40):
        body = COMPRESS[coding](stream)
        chunks = [body[at : at + size] for at in range(0, len(body), size)]
        observer = observe(stream_observer(coding), *chunks)
        assert observer.usage == (Usage(5, 3) if stream is STREAM else None)
        assert stream is STREAM or observer.estimated_output() == 40


def test_output_of_a_stream_that_cannot_be_read_is_unknown() -> None:
    stream = zstd.compress(delta(" word") * 40)
    assert observe(stream_observer("br"), stream).estimated_output() is None
    assert observe(stream_observer(), b": ping\n\n").estimated_output() == 0


def test_last_usage_counts_in_parts_too() -> None:
    """Anthropic's streams begin with the input and end with the output."""
    first = b'data: {"message":{"usage":{"input_tokens":5,"output_tokens":1}}}\n\n'
    last = b'data: {"delta":{},"usage":{"output_tokens":3}}\n\n'
    for stream in ([first, delta("a") * 9, last], [first + last], [first, last, delta("a")]):
        assert observe(stream_observer(), *stream).usage == Usage(5, 3)
        assert observe(body_observer(), *stream).usage == Usage(5, 3)


def test_compressed_bytes_are_never_at_a_boundary_of_their_content() -> None:
    observer = stream_observer("gzip")
    observer.pending.append(gzip.compress(DONE))
    assert not observer.at_boundary


def test_stream_keeps_little_in_memory() -> None:
    observer = stream_observer()
    for chunk in (LONG_EVENT % (b"x" * 100_000), *[delta("word")] * 2000):
        observer.pending.append(chunk)
        if len(observer.pending) == 40:
            observer.scan()
    assert len(observer._last) < LAST_BYTES + 200
    assert observer._rest == b""
    observer.pending.append(b"data: " + b"x" * 5 * EVENT_BYTES)
    observer.scan()
    assert len(observer._rest) <= USAGE_BYTES
    assert len(observer._last) <= LAST_BYTES


@given(
    st.lists(
        st.sampled_from([b"data: ", b'{"usage":', b"\r", b"\n\n", b"\xff", DONE, USAGE, ERROR])
    ),
    st.sampled_from(["", "gzip"]),
)
def test_any_bytes_are_accepted(chunks: list[bytes], coding: str) -> None:
    for observer in (stream_observer(coding), body_observer(coding)):
        observe(observer, *chunks).estimated_output()
