"""Facts of requests and usage of answers, from whatever bodies strangers send."""

import gzip
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.usage import (
    NO_FACTS,
    TAIL_BYTES,
    RequestFacts,
    RunningUsage,
    Usage,
    UsageReader,
    may_hold_usage,
    model_in,
    request_facts,
)

CHAT = b'{"id":"c","usage":{"prompt_tokens":12,"completion_tokens":34,"total_tokens":46}}'
RESPONSE = (
    b'event: response.completed\ndata: {"type":"response.completed","response":{"usage":'
    b'{"input_tokens":5,"input_tokens_details":{"cached_tokens":0},"output_tokens":6},'
    b'"user":null,"metadata":{}}}\n\n'
)
STREAM = (
    b'data: {"choices":[],"usage":null}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":8}}\n\n'
    b"data: [DONE]\n\n"
)
EMBEDDING = b'{"data":[],"usage":{"prompt_tokens":9,"total_tokens":9}}'


def read(*chunks: bytes, encoding: str = "") -> Usage | None:
    reader = UsageReader(encoding)
    for chunk in chunks:
        reader.feed(chunk)
    return reader.usage()


CHAT_PATH = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("body", "facts"),
    [
        (b'{"model":"gpt-4","stream":true}', RequestFacts("gpt-4", True, 0, None)),
        (b'{"model":"gpt-4","messages":[{"model":"x"}]}', RequestFacts("gpt-4", False, 0, None)),
        (b'{"model":"m","prompt":"12345","max_tokens":9,"n":2}', RequestFacts("m", False, 5, 18)),
        (b'{"stream":1}', RequestFacts(output_cap=None)),
        (b'{"model":["a"]}', RequestFacts(output_cap=None)),
        (b'{"model":""}', RequestFacts(output_cap=None)),
        (b'{"model":"' + b"x" * 129 + b'"}', RequestFacts(output_cap=None)),
        (b'{"model":"\xff"}', RequestFacts(output_cap=None)),
        (b'{"seed":' + b"9" * 5000 + b"}", RequestFacts(output_cap=None)),
        (b"[]", RequestFacts(None, False, 2, None, readable=False)),
        (b"not json", RequestFacts(None, False, 8, None, readable=False)),
        (b'{"model":"gpt-4"', RequestFacts(None, False, 16, None, readable=False)),
        (b"", NO_FACTS),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_facts_of_a_request(body: bytes, facts: RequestFacts) -> None:
    assert request_facts(body, CHAT_PATH) == facts
    assert request_facts(body) == facts


@pytest.mark.parametrize(
    ("path", "output_cap"),
    [
        ("/v1/chat/completions", None),
        ("/v1/completions", None),
        ("/v1/responses", None),
        ("/v1/embeddings", 0),
        ("/v1/moderations", 0),
        ("/v1/audio/speech", 0),
        ("/v1/responses/resp_1/cancel", 0),
        (None, None),
    ],
)
def test_only_a_model_that_writes_has_an_output(path: str | None, output_cap: int | None) -> None:
    assert request_facts(b'{"input":"four"}', path) == RequestFacts(None, False, 4, output_cap)
    assert request_facts(b"four", path) == RequestFacts(None, False, 4, output_cap, readable=False)


def test_a_cap_counts_wherever_it_is_said() -> None:
    assert request_facts(b'{"max_tokens":5}', "/v1/odd").output_cap == 5


@pytest.mark.parametrize(
    ("facts", "cost"),
    [
        (NO_FACTS, 0),
        (RequestFacts(input_characters=1), 1),
        (RequestFacts(input_characters=8), 2),
        (RequestFacts(input_characters=9, output_cap=100), 103),
        (RequestFacts(input_characters=9, output_cap=None), 503),
    ],
)
def test_cost_is_input_by_four_rounded_up_and_the_output(facts: RequestFacts, cost: int) -> None:
    assert facts.cost(typical_output=500) == cost


@given(st.binary(max_size=300))
def test_any_body_has_facts(body: bytes) -> None:
    assert request_facts(body).cost(0) >= 0


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        (CHAT, Usage(12, 34)),
        (RESPONSE, Usage(5, 6)),
        (STREAM, Usage(7, 8)),
        (EMBEDDING, Usage(9, 0)),
        (b'{"usage":null}', None),
        (b'{"usage":{"prompt_tokens":-1}}', None),
        (b'{"usage":{"prompt_tokens":true}}', None),
        (b'{"usage":{"prompt_tokens":1e999}}', None),
        (b'{"usage":{"prompt_tokens":' + b"9" * 3000 + b"}}", None),
        (b'{"usage":{"prompt_tokens":1', None),
        (b'{"content":"\\"usage\\": {\\"prompt_tokens\\": 1}"}', None),
        (CHAT[:-1] + b',"metadata":{"usage":"none"}}', Usage(12, 34)),
        (b'{"usage":' + b'{"usage":' * 400 + b"1" + b"}" * 401, None),
        (b"", None),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_usage_of_an_answer_whole_and_byte_by_byte(body: bytes, usage: Usage | None) -> None:
    assert read(body) == usage
    assert read(*(body[i : i + 1] for i in range(len(body)))) == usage


def test_only_a_tail_is_kept() -> None:
    reader = UsageReader("")
    for _ in range(100):
        reader.feed(b"x" * TAIL_BYTES)
    reader.feed(CHAT)
    assert len(reader._tail) <= 2 * TAIL_BYTES
    assert reader.usage() == Usage(12, 34)


@pytest.mark.parametrize(
    ("encoding", "encode"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
def test_encoded_answers_are_read_from_a_copy(encoding: str, encode) -> None:  # type: ignore[no-untyped-def]
    body = encode(json.dumps({"pad": "x" * 100_000}).encode()[:-1] + b"," + CHAT[1:])
    assert read(body, encoding=encoding) == Usage(12, 34)
    assert read(body[:9], body[9:], encoding=encoding) == Usage(12, 34)


def test_identity_is_no_encoding() -> None:
    assert read(CHAT, encoding="Identity") == Usage(12, 34)


@pytest.mark.parametrize("encoding", ["gzip", "br"])
def test_what_cannot_be_decoded_tells_nothing(encoding: str) -> None:
    assert read(b"\x00\x01rubbish", CHAT, encoding=encoding) is None


@given(st.lists(st.binary(max_size=60)), st.sampled_from(["", "gzip"]))
def test_any_bytes_are_read_without_harm(chunks: list[bytes], encoding: str) -> None:
    read(*chunks, encoding=encoding)


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("application/json; charset=utf-8", True),
        ("text/event-stream", True),
        ("audio/mpeg", False),
        ("", False),
    ],
)
def test_usage_is_looked_for_where_it_may_be(content_type: str, expected: bool) -> None:
    assert may_hold_usage(content_type) is expected


def test_usages_of_a_conversation_add_up() -> None:
    running = RunningUsage()
    assert running.total is None
    for piece, last in (
        (b'{"usage": null}', True),
        (RESPONSE[:50], False),
        (RESPONSE[50:], True),
        (b'{"delta": "x"}', True),
        (CHAT, True),
    ):
        running.feed(piece, last)
    assert running.total == Usage(5 + 12, 6 + 34)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/v1/realtime?model=gpt-realtime", "gpt-realtime"),
        ("/v1/realtime?a=b&model=ft%3Ax+y", "ft:x y"),
        ("/v1/realtime?model=x&model=z", None),
        ("/v1/realtime?model=x&model=", None),
        ("/v1/realtime?model=", None),
        ("/v1/realtime?model=" + "x" * 129, None),
        ("/v1/realtime?call_id=rtc_1", None),
        ("/v1/realtime", None),
        ("/v1/realtime?%ff=%zz&model=%ff", "\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_model_may_stand_in_the_query(target: str, expected: str | None) -> None:
    assert model_in(target) == expected
