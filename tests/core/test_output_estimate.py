"""Estimates of the output against true counts, for every way of cutting a text into deltas."""

import json
import re
from typing import Any

import pytest

from rustygate.core import output_estimate
from rustygate.core.output_estimate import (
    BEGINNING,
    COUNTED_AS_A_WHOLE,
    KEPT_BYTES,
    StreamEstimate,
    are_tokens,
    estimate_body,
)
from rustygate.core.output_text import Call
from tests.support.texts import ENGLISH, TEXTS

BATCH = 8192


def chat_events(texts: list[str], envelope: str = "x" * 100) -> bytes:
    return b"".join(
        b"data: %b\n\n"
        % json.dumps(
            {"id": envelope, "choices": [{"index": 0, "delta": {"content": text}}]},
            separators=(",", ":"),
        ).encode()
        for text in texts
    )


def pieces(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def estimate(events: bytes) -> int:
    """The estimate, fed in batches of whole events as an observer does."""
    estimated, start = StreamEstimate(), 0
    while start < len(events):
        end = events.find(b"\n\n", start + BATCH)
        end = len(events) if end < 0 else end + 2
        estimated.feed(events[start:end])
        start = end
    return estimated.tokens()


@pytest.mark.parametrize("size", [1, 4, 9, 40, 10_000])
@pytest.mark.parametrize(("text", "tokens"), TEXTS.values(), ids=TEXTS)
def test_estimate_is_within_15_percent_of_the_true_count(
    text: str, tokens: int, size: int
) -> None:
    assert 0.85 * tokens <= estimate(chat_events(pieces(text, size))) <= 1.15 * tokens


@pytest.mark.parametrize("size", [3, 8, 60])
@pytest.mark.parametrize(("text", "tokens"), TEXTS.values(), ids=TEXTS)
def test_long_streams_are_sampled_as_well_as_read(text: str, tokens: int, size: int) -> None:
    events = chat_events(pieces(text, size) * 40)
    assert len(events) > KEPT_BYTES
    assert 0.85 * 40 * tokens <= estimate(events) <= 1.15 * 40 * tokens


def test_sample_covers_the_whole_stream() -> None:
    """A stream that begins with words and goes on with digits, four times as many tokens."""
    events = chat_events([" word"] * 1000 + ["123456789012"] * 1000)
    assert 0.85 * 5000 <= estimate(events) <= 1.15 * 5000


@pytest.mark.parametrize("tokens", [1, 2, 10, 100, 1000])
def test_number_of_deltas_is_taken_if_it_is_close(tokens: int) -> None:
    """As from an upstream that sends one token per event. One in ten looks like two."""
    words = [*[" hello", " world", " again"] * 3, " internationally"] * (tokens // 10 + 1)
    assert estimate(chat_events(words[:tokens])) == pytest.approx(tokens, abs=tokens / 50)


@pytest.mark.parametrize(
    ("deltas", "expected"), [(100, 100), (85, 85), (84, 84), (83, 100), (80, 100)]
)
def test_number_of_deltas_is_close_within_a_sixth(deltas: int, expected: int) -> None:
    words = [" hello"] * deltas
    for at in range(100 - deltas):
        words[at] += " hello"
    assert estimate(chat_events(words)) == expected


@pytest.mark.parametrize("size", [3, 4, 5])
@pytest.mark.parametrize("name", ["English", "code", "tool arguments", "reasoning", "Markdown"])
def test_pieces_of_a_fixed_size_are_not_taken_for_tokens(name: str, size: int) -> None:
    assert not are_tokens(pieces(TEXTS[name][0], size))


@pytest.mark.parametrize("name", ["English", "reasoning"])
def test_words_are_taken_for_tokens(name: str) -> None:
    assert are_tokens(re.findall(r" ?\S+", TEXTS[name][0]))


def test_events_are_read_at_the_end_unless_too_much_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[int] = []

    def text_of_events(events: bytes) -> tuple[int, str, list[Call]]:
        read.append(len(events))
        return 0, "", []

    monkeypatch.setattr(output_estimate, "text_of_events", text_of_events)
    estimated = StreamEstimate()
    batch = chat_events([" hello"] * 50)
    for _ in range(BEGINNING // len(batch) + 1):
        estimated.feed(batch)
    assert read == []
    for _ in range(300):
        estimated.feed(batch)
    estimated.tokens()
    assert max(read) <= KEPT_BYTES
    assert 301 * len(batch) / 6 < sum(read) < 301 * len(batch) / 3


def test_one_long_event_is_not_kept_with_others() -> None:
    words, word = [" hello"] * 2000, chat_events([" hello"])
    events = chat_events(words) + chat_events(["".join(words * 5)])
    assert len(events) > 2 * KEPT_BYTES
    assert estimate(events + word) == pytest.approx(12_000, rel=0.15)


def test_empty_deltas_and_other_events_do_not_count() -> None:
    events = chat_events([" a", "", " b", ""]) + b'data: {"choices":[]}\n\ndata: [DONE]\n\n'
    assert estimate(events) == 2
    assert estimate(b"data: [DONE]\n\n") == 0
    assert StreamEstimate().tokens() == 0


def test_events_before_the_first_delta_do_not_dilute_the_sample() -> None:
    created = b'data: {"type":"response.created","response":{"instructions":"%b"}}\n\n' % (
        b"x" * 3 * KEPT_BYTES
    )
    events = b"".join(
        b'data: {"type":"response.output_text.delta","item_id":"msg_1","delta":" hello"}\n\n'
        for _ in range(3000)
    )
    assert estimate(created + events) == pytest.approx(3000, rel=0.05)


def response_events(texts: list[str], name: str = "response.output_text") -> bytes:
    """Text as the Responses API streams it: in deltas, then all of it again, twice."""
    text = "".join(texts)
    events: list[dict[str, Any]] = [{"type": f"{name}.delta", "delta": each} for each in texts]
    events.append({"type": f"{name}.done", "text": text})
    output = [{"content": [{"type": "output_text", "text": text}]}]
    events.append({"type": "response.completed", "response": {"output": output, "usage": None}})
    return b"".join(
        b"event: %b\ndata: %b\n\n" % (event["type"].encode(), json.dumps(event).encode())
        for event in events
    )


@pytest.mark.parametrize("size", [4, 60])
@pytest.mark.parametrize("times", [5, 40, 120])
def test_text_that_is_repeated_at_the_end_counts_once(size: int, times: int) -> None:
    events = response_events(pieces(ENGLISH * times, size))
    assert 0.85 * times * 152 <= estimate(events) <= 1.15 * times * 152


def test_text_about_repetitions_is_no_repetition() -> None:
    events = response_events(['a ".done" and "response.completed" here '] * 50)
    once = estimate(response_events(['a ".done" and "response.completed" here ']))
    assert estimate(events) == pytest.approx(50 * once, rel=0.1)


def test_bytes_that_were_skipped_count_like_those_read() -> None:
    estimated = StreamEstimate()
    estimated.feed(chat_events([" hello"] * 10, envelope=""))
    size = len(chat_events([" hello"], envelope=""))
    estimated.skip(30 * size)
    assert estimated.tokens() == pytest.approx(40, abs=3)


def test_long_texts_are_counted_from_their_beginning() -> None:
    text = ENGLISH * 20
    assert len(text) > COUNTED_AS_A_WHOLE
    assert estimate(chat_events([text])) == pytest.approx(152 * 20, rel=0.1)


@pytest.mark.parametrize("size", [60, 600, 10**6])
@pytest.mark.parametrize("swap", [False, True])
def test_long_texts_are_counted_to_their_end(size: int, swap: bool) -> None:
    """Chinese has three times the tokens of English for its characters."""
    (english, english_tokens), (chinese, chinese_tokens) = TEXTS["English"], TEXTS["Chinese"]
    parts = [english * 15, chinese * 25]
    events = chat_events(pieces("".join(parts[::-1] if swap else parts), size))
    estimated = StreamEstimate()
    estimated.feed(events)
    tokens = 15 * english_tokens + 25 * chinese_tokens
    assert estimated.tokens() == pytest.approx(tokens, rel=0.15)


# The deltas of the arguments are tokens of OpenAI's `o200k_base`. A call counts these, its name,
# and seven more, as OpenAI's usage does.
CALLS = [
    ("get_time", ["{}"], 10),
    ("sum", ['{"', "a", '":', "12", ',"', "b", '":', "7", ".", "5", "}"], 19),
    ("get_weather", ['{"', "city", '":"', "Paris", '","', "unit", '":"', "c", "elsius", '"}'], 19),
]


def call_delta(name: str, arguments: str, index: int) -> bytes:
    call = {"index": index, "function": {"name": name, "arguments": arguments}}
    data = {"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}
    return b"data: %b\n\n" % json.dumps(data).encode()


def call_events(name: str, arguments: list[str], index: int = 0, repeated: str = "") -> bytes:
    """The events of a call; each but the first has the name `repeated`."""
    parts = [call_delta(repeated, part, index) for part in arguments]
    return b"".join([call_delta(name, "", index), *parts])


@pytest.mark.parametrize(("name", "arguments", "tokens"), CALLS)
def test_call_counts_its_name_and_an_overhead(
    name: str, arguments: list[str], tokens: int
) -> None:
    assert 0.85 * tokens <= estimate(call_events(name, arguments)) <= 1.15 * tokens
    whole = "".join(arguments)
    assert 0.85 * tokens <= estimate(call_events(name, [whole])) <= 1.15 * tokens
    message = {"tool_calls": [{"function": {"name": name, "arguments": whole}}]}
    body = json.dumps({"choices": [{"message": message}]}).encode()
    assert 0.85 * tokens <= estimate_body(body, len(body)) <= 1.15 * tokens


def test_each_call_of_a_stream_counts_once() -> None:
    one = estimate(call_events("get_time", ["{}"]))
    assert one == 10
    assert estimate(call_events("get_time", ["{}"], repeated="get_time")) == one
    events = b"".join(call_events("get_time", ["{}"], index) for index in range(3))
    assert estimate(events) == 3 * one


def test_calls_in_a_long_stream_are_sampled_like_text() -> None:
    events = b"".join(call_events("get_time", ["{}"], index) for index in range(900))
    assert len(events) > 4 * KEPT_BYTES
    assert estimate(events) == pytest.approx(9000, rel=0.05)


def test_plain_body_counts_in_proportion_to_what_was_kept_of_it() -> None:
    body = json.dumps({"choices": [{"message": {"content": ENGLISH * 10}}]}).encode()
    assert estimate_body(body, len(body)) == pytest.approx(1520, rel=0.05)
    assert estimate_body(body[: len(body) // 2], len(body)) == pytest.approx(1520, rel=0.05)
    assert estimate_body(b"", 0) == 0
