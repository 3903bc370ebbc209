"""The usage of responses, read from any bytes."""

import gzip
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.usage import TAIL_BYTES, Usage, UsageReader, may_contain_usage

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
def test_usage_of_a_response_whole_and_byte_by_byte(body: bytes, usage: Usage | None) -> None:
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
def test_compressed_responses_are_read_from_a_copy(encoding: str, encode) -> None:  # type: ignore[no-untyped-def]
    body = encode(json.dumps({"pad": "x" * 100_000}).encode()[:-1] + b"," + CHAT[1:])
    assert read(body, encoding=encoding) == Usage(12, 34)
    assert read(body[:9], body[9:], encoding=encoding) == Usage(12, 34)


def test_identity_is_not_an_encoding() -> None:
    assert read(CHAT, encoding="Identity") == Usage(12, 34)


@pytest.mark.parametrize("encoding", ["gzip", "br"])
def test_undecodable_body_has_no_usage(encoding: str) -> None:
    assert read(b"\x00\x01rubbish", CHAT, encoding=encoding) is None


@given(st.lists(st.binary(max_size=60)), st.sampled_from(["", "gzip"]))
def test_any_bytes_are_accepted(chunks: list[bytes], encoding: str) -> None:
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
def test_content_types_that_may_contain_usage(content_type: str, expected: bool) -> None:
    assert may_contain_usage(content_type) is expected
