"""The usage in a body: found wherever it stands, and nowhere else."""

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
        (DETAILED, Usage(19, 10, 3)),
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
