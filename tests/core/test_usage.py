"""The usage in a body: found wherever it stands, and nowhere else."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.usage import USAGE_BYTES, Usage, find_usage, may_contain_usage

CHAT = b'{"id":"c","usage":{"prompt_tokens":12,"completion_tokens":34,"total_tokens":46}}'
RESPONSE = (
    b'event: response.completed\ndata: {"type":"response.completed","response":{"usage":'
    b'{"input_tokens":5,"input_tokens_details":{"cached_tokens":4},"output_tokens":6},'
    b'"user":null,"metadata":{}}}\n\n'
)
STREAM = (
    b'data: {"choices":[],"usage":null}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":8}}\n\n'
    b"data: [DONE]\n\n"
)
EMBEDDING = b'{"data":[],"usage":{"prompt_tokens":9,"total_tokens":9}}'
DETAILED = b"""{"usage": {
  "prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29,
  "prompt_tokens_details": {"cached_tokens": 3, "audio_tokens": 0},
  "completion_tokens_details": {"reasoning_tokens": 2, "accepted": {"a": 1}},
  "note": "a brace } and a quote \\" in a string"
}, "choices": []}"""
LONG = b'"metadata":{"note":"%b"}' % (b"x" * 20_000)


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        (CHAT, Usage(12, 34)),
        (RESPONSE, Usage(5, 6, 4)),
        (STREAM, Usage(7, 8)),
        (EMBEDDING, Usage(9, 0)),
        (b'"usage":{"prompt_tokens":4}', Usage(4, 0)),
        (DETAILED, Usage(19, 10, 3, 2)),
        (b'{"usage":{"prompt_tokens":5,"completion_tokens":5}}', Usage(5, 5)),
        (b'{"usage":{"total_tokens":9}}', Usage(9, 0)),
        (b'{"usage":{"total_tokens":9,"completion_tokens":4}}', Usage(5, 4)),
        (b'{"usage":{"total_tokens":9,"completion_tokens":10}}', None),
        (b'{"usage":{"prompt_tokens":12.0,"completion_tokens":3.4e1}}', Usage(12, 34)),
        (b'{"usage":{"prompt_tokens":1e9,"completion_tokens":1000000001}}', Usage(10**9, 0)),
        (b'{"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}}', None),
        (b'{"usage":{"prompt_tokens":0,"completion_tokens":1}}', Usage(0, 1)),
        (CHAT + b'{"usage":{"prompt_tokens":0,"completion_tokens":0}}', Usage(12, 34)),
        (CHAT + b'{"usage":{"output_tokens":56}}', Usage(12, 56)),
        (CHAT + b'{"usage":{"output_tokens":56}}{"usage":{"output_tokens":78}}', Usage(12, 78)),
        (b'{"usage":{"output_tokens":56}}', None),
        (
            b'data: {\ndata:  "usage": {\ndata:   "prompt_tokens": 12,\n'
            b'data:   "completion_tokens": 34\ndata:  }\ndata: }\n\n',
            Usage(12, 34),
        ),
        (CHAT[:-1] + b',"choices":[{"message":{"content":"hi"}}]}', Usage(12, 34)),
        (CHAT[:-1] + b"," + LONG + b"}", Usage(12, 34)),
        (b"{" + LONG + b"," + CHAT[1:], Usage(12, 34)),
        (CHAT[:-1] + b',"metadata":{"usage":"none"}}', Usage(12, 34)),
        (STREAM + b'data: {"choices":[],"usage":null}\n\n', Usage(7, 8)),
        (CHAT + STREAM, Usage(7, 8)),
        (CHAT + b'{"usage":{"prompt_tokens":"x"}}', Usage(12, 34)),
        (CHAT + b'{"usage":{"prompt_tokens":1', Usage(12, 34)),
        (b'{"usage":{"prompt_tokens":1,"prompt_tokens_details":null}}', Usage(1, 0)),
        (
            b'{"usage":{"prompt_tokens":1,"prompt_tokens_details":{"cached_tokens":0}}}',
            Usage(1, 0, 0),
        ),
        (
            b'{"usage":{"prompt_tokens":1,"prompt_tokens_details":{"cached_tokens":-1}}}',
            Usage(1, 0),
        ),
        (b'{"usage":{"prompt_tokens":1,"prompt_tokens_details":[]}}', Usage(1, 0)),
        (b'{"usage":{"prompt_tokens":1000000000}}', Usage(1_000_000_000, 0)),
        (b'{"usage":{"prompt_tokens":1000000001}}', None),
        (b'{"usage":{"prompt_tokens":3,"completion_tokens":-1}}', Usage(3, 0)),
        (b'{"usage":null}', None),
        (b'{"usage":{"prompt_tokens":-1}}', None),
        (b'{"usage":{"prompt_tokens":true}}', None),
        (b'{"usage":{"prompt_tokens":1e999}}', None),
        (b'{"usage":{"prompt_tokens":' + b"9" * 3000 + b"}}", None),
        (b'{"usage":{"prompt_tokens":1', None),
        (b'{"content":"\\"usage\\": {\\"prompt_tokens\\": 1}"}', None),
        (b'{"\\"usage":{"prompt_tokens":1}}', None),
        (b'{"tools":[{"usage":{"properties":{"prompt_tokens":{"type":"integer"}}}}]}', None),
        (b'{"prompt_tokens":5}', None),
        (b'{"usage":' + b'{"usage":' * 400 + b"1" + b"}" * 401, None),
        (b"", None),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_usage_is_found_wherever_it_stands(body: bytes, usage: Usage | None) -> None:
    assert find_usage(body) == usage
    assert find_usage(bytearray(body)) == usage


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        (b"", Usage(1, 2, 3)),
        (b'{"usage":null}', Usage(1, 2, 3)),
        (b'{"usage":{"output_tokens":56}}', Usage(1, 56, 3)),
        (b'{"usage":{"output_tokens":0}}', Usage(1, 2, 3)),
        (b'{"usage":{"output_tokens":-1}}', Usage(1, 2, 3)),
        (CHAT, Usage(12, 34)),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_a_usage_leaves_out_is_that_of_the_one_before(body: bytes, usage: Usage) -> None:
    assert find_usage(body, Usage(1, 2, 3)) == usage


CHAT_DETAILS = ("prompt_tokens_details", "completion_tokens_details")
RESPONSE_DETAILS = ("input_tokens_details", "output_tokens_details")
REALTIME_DETAILS = ("input_token_details", "output_token_details")


@pytest.mark.parametrize(
    "names", [CHAT_DETAILS, RESPONSE_DETAILS, REALTIME_DETAILS], ids=lambda names: names[0]
)
def test_details_are_read_by_the_names_of_every_api(names: tuple[str, str]) -> None:
    usage = {
        "input_tokens": 100,
        names[0]: {"cached_tokens": 60, "cache_write_tokens": 20, "audio_tokens": 5},
        "output_tokens": 50,
        names[1]: {"reasoning_tokens": 30, "audio_tokens": 4, "image_tokens": 3},
    }
    expected = Usage(
        100, 50, tokens_cached=60, tokens_reasoning=30, tokens_written=20, tokens_media=12
    )
    assert find_usage(json.dumps({"usage": usage}).encode()) == expected


@pytest.mark.parametrize("details", [None, [], "x", 5, {}, {"reasoning_tokens": "1"}])
def test_details_that_make_no_sense_are_left_out(details: object) -> None:
    usage: dict[str, Any] = {"prompt_tokens": 3, "completion_tokens": 2}
    usage["completion_tokens_details"] = details
    usage["prompt_tokens_details"] = {
        "cached_tokens": True,
        "audio_tokens": -1,
        "image_tokens": 1.5,
    }
    assert find_usage(json.dumps({"usage": usage}).encode()) == Usage(3, 2)


def test_details_that_make_sense_count_beside_others() -> None:
    usage: dict[str, Any] = {"prompt_tokens": 9, "completion_tokens": 5}
    usage["prompt_tokens_details"] = {"cached_tokens": 3, "audio_tokens": "2", "image_tokens": 1.5}
    usage["completion_tokens_details"] = {"reasoning_tokens": 4, "audio_tokens": -1}
    assert find_usage(json.dumps({"usage": usage}).encode()) == Usage(9, 5, 3, 4)


def test_details_are_at_most_what_they_are_a_part_of() -> None:
    usage: dict[str, Any] = {"prompt_tokens": 3, "completion_tokens": 2}
    usage |= {"prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 9}}
    usage |= {"completion_tokens_details": {"reasoning_tokens": 10**12}}
    assert find_usage(json.dumps({"usage": usage}).encode()) == Usage(3, 2, 3, 2, 3)


def test_longest_usage_object_is_bounded() -> None:
    body = b'{"usage":{"note":"%b","prompt_tokens":1}}'
    overhead = len(body) - len(b"%b") - len(b"{}")
    assert find_usage(body % (b"x" * (USAGE_BYTES - overhead))) == Usage(1, 0)
    assert find_usage(body % (b"x" * (USAGE_BYTES - overhead + 1))) is None


@given(
    st.lists(
        st.sampled_from(
            [b'"usage"', b":", b"{", b"}", b'"prompt_tokens"', b"1", b",", b'"', b"\\"]
        )
    )
)
def test_any_bytes_are_accepted(parts: list[bytes]) -> None:
    find_usage(b"".join(parts))


@pytest.mark.parametrize(
    "unit",
    [b'"usage":', b't_tokens"', b'"usage":{"prompt_tokens":', b'"usage":{"output_tokens":1}'],
)
def test_time_is_linear_in_the_size_of_the_body(unit: bytes) -> None:
    """A quadratic search of these bodies would take hours."""
    assert find_usage(unit * 200_000) is None


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
