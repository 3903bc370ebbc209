"""What a request may cost, read from any body."""

import gzip
import random
import sys
from collections.abc import Callable
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.request_facts import (
    NO_FACTS,
    RequestFacts,
    facts_in_query,
    is_work,
    model_in_query,
    read_compressed_facts,
    read_facts_in_start,
    read_form_facts,
    read_request_facts,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

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
        (b'{"model":"' + b"x" * 129 + b'"}', RequestFacts(output_cap=None, readable=False)),
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
    assert read_request_facts(body, CHAT_PATH) == facts
    assert read_request_facts(body) == facts


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
def test_only_text_generation_has_an_output(path: str | None, output_cap: int | None) -> None:
    assert read_request_facts(b'{"input":"four"}', path) == RequestFacts(
        None, False, 4, output_cap
    )
    assert read_request_facts(b"four", path) == RequestFacts(
        None, False, 4, output_cap, readable=False
    )


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "/v1/chat/completions", True),
        ("POST", "/v1/chat/completions/", True),
        ("POST", "/v1/completions", True),
        ("POST", "/v1/responses", True),
        ("POST", "/v1/responses/compact", True),
        ("POST", "/v1/embeddings", True),
        ("POST", "/v1/messages", True),
        ("POST", "/v1/audio/transcriptions", True),
        ("POST", "/v1/threads/runs", True),
        ("POST", "/v1/threads/thread_1/runs", True),
        ("POST", "/v1/threads/thread_1/runs/run_1/submit_tool_outputs", True),
        ("POST", "/v1/batchesque", True),
        ("POST", "/v1/batches", False),
        ("POST", "/v1/batches/batch_1/cancel", False),
        ("POST", "/v1/responses/resp_1/cancel", False),
        ("POST", "/v1/responses/resp_1/cancel/", False),
        ("POST", "/v1/threads/thread_1/runs/run_1", False),
        ("POST", "/v1/threads/thread_1/runs/run_1/cancel", False),
        ("POST", "/v1/chat/completions/chatcmpl-1", False),
        ("POST", "/v1/responses/input_tokens", False),
        ("POST", "/v1/messages/count_tokens", False),
        ("GET", "/v1/responses/resp_1", False),
        ("HEAD", "/v1/responses/resp_1", False),
        ("DELETE", "/v1/responses/resp_1", False),
        ("PATCH", "/v1/responses/resp_1", False),
        ("GET", "/v1/chat/completions", False),
    ],
)
def test_which_requests_make_a_model_work(method: str, path: str, expected: bool) -> None:
    assert is_work(method, path) is expected


def test_cap_counts_on_any_path() -> None:
    assert read_request_facts(b'{"max_tokens":5}', "/v1/odd").output_cap == 5


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
def test_cost_is_a_quarter_of_the_input_rounded_up_plus_the_output(
    facts: RequestFacts, cost: int
) -> None:
    assert facts.cost(typical_output=500) == cost


@given(st.binary(max_size=300))
def test_any_body_has_facts(body: bytes) -> None:
    assert read_request_facts(body).cost(0) >= 0


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
def test_model_in_the_query(target: str, expected: str | None) -> None:
    assert model_in_query(target) == expected


# Forms, starts and queries.

FORM = "Multipart/form-data; boundary=X"
URL_ENCODED = "application/x-www-form-urlencoded"


def form(**fields: str) -> bytes:
    """A multipart form with a file and these fields."""
    file = '--X\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n12345678\r\n'
    parts = "".join(
        f'--X\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    return f"{file}{parts}--X--\r\n".encode()


@pytest.mark.parametrize(
    ("fields", "facts"),
    [
        ({}, RequestFacts()),
        ({"model": "whisper-1"}, RequestFacts("whisper-1")),
        ({"model": "m", "stream": "true"}, RequestFacts("m", True)),
        ({"model": "m", "stream": "True"}, RequestFacts("m", True)),
        ({"model": "m", "stream": "1"}, RequestFacts("m", True)),
        ({"model": "m", "stream": "false"}, RequestFacts("m")),
        ({"model": "m", "prompt": "gr\u00fc\u00df", "n": "2"}, RequestFacts("m", False, 4)),
        ({"model": "m", "input": "12", "instructions": "3"}, RequestFacts("m", False, 3)),
        ({"model": "m", "max_tokens": "7", "n": "2"}, RequestFacts("m", False, 0, 14)),
        ({"model": "m", "max_tokens": "many", "n": "-2"}, RequestFacts("m")),
        ({"model": "m", "messages": "x", "text": "y", "other": "z"}, RequestFacts("m")),
        ({"model": "", "prompt": "1"}, RequestFacts(None, False, 1)),
        ({"model": "m" * 129}, RequestFacts(readable=False)),
    ],
)
def test_facts_of_a_form(fields: dict[str, str], facts: RequestFacts) -> None:
    assert read_form_facts(form(**fields), "/v1/images/edits", FORM) == facts
    body = urlencode(fields).encode()
    assert read_form_facts(body, "/v1/images/edits", URL_ENCODED) == facts


def test_text_that_is_too_long_to_read_counts() -> None:
    body = form(model="m", prompt="x" * 300_000, other="x" * 300_000)
    assert read_form_facts(body, "/v1/x", FORM) == RequestFacts("m", False, 300_000)


def test_form_that_others_may_read_differently_is_not_readable() -> None:
    body = form(model="m").replace(b"--X--", b"")
    assert read_form_facts(body + b"--X", "/v1/x", FORM).readable is False
    assert read_form_facts(b"model=a&model=b", "/v1/x", URL_ENCODED) == RequestFacts(
        "a", readable=False
    )


@pytest.mark.parametrize("content_type", [URL_ENCODED, FORM])
def test_json_is_read_whatever_its_type(content_type: str) -> None:
    """curl says that it is a form."""
    facts = read_form_facts(b'{"model":"m","input":"four"}', "/v1/x", content_type)
    assert facts == RequestFacts("m", False, 4)


@pytest.mark.parametrize(
    ("start", "content_type", "facts"),
    [
        (b'{"model":"m","stream":true,"max_tokens":5,"messages":[{"con', "application/json",
         RequestFacts("m", True, 0, 5, readable=False)),
        (b'{"stream":true,"n":2,"input":"x', "", RequestFacts(None, True, 0, 0, readable=False)),
        (b'{"model":{"a":1},"stream":"true","input', "", RequestFacts(readable=False)),
        (b'{"messages":["x', "", RequestFacts(readable=False)),
        (b"\x89PNG", "image/png", RequestFacts(readable=False)),
        (b"", "application/json", RequestFacts(readable=False)),
        (form(model="m", stream="true")[:-8], FORM, RequestFacts("m", readable=False)),
        (form(model="m", stream="true", file="x")[:-20], FORM,
         RequestFacts("m", True, readable=False)),
        (b"model=m&stream=true&prompt=x", URL_ENCODED, RequestFacts("m", True, readable=False)),
        (b"stream=true&model=m", URL_ENCODED, RequestFacts(None, True, readable=False)),
    ],
    ids=lambda value: repr(value[:30]) if isinstance(value, bytes) else None,
)  # fmt: skip
def test_facts_in_the_start_of_a_body(
    start: bytes, content_type: str, facts: RequestFacts
) -> None:
    assert read_facts_in_start(start, "/v1/x", content_type) == facts


def test_byte_order_mark_hides_nothing() -> None:
    """Editors on Windows write one, and Python's JSON reader skips it."""
    body = b'\xef\xbb\xbf{"model":"m","stream":true,"input":"hello"}'
    assert read_request_facts(body, "/v1/x") == RequestFacts("m", True, 5)
    start = body[:-8]
    assert read_facts_in_start(start, "/v1/x", "") == RequestFacts("m", True, readable=False)


def test_start_of_a_text_request_without_a_cap_costs_what_is_typical() -> None:
    facts = read_facts_in_start(b'{"model":"m",', "/v1/chat/completions", "application/json")
    assert (facts.output_cap, facts.cost(500)) == (None, 500)


@given(st.binary(max_size=300), st.sampled_from(["", FORM, URL_ENCODED]))
def test_any_start_has_facts(start: bytes, content_type: str) -> None:
    assert not read_facts_in_start(start, "/v1/x", content_type).readable


@pytest.mark.parametrize(
    ("target", "streaming"),
    [
        ("/v1/responses/resp_1?stream=true&starting_after=4", True),
        ("/v1/responses/resp_1?a=b&stream=True", True),
        ("/v1/responses/resp_1?stream=1", True),
        ("/v1/responses/resp_1?stream=false", False),
        ("/v1/responses/resp_1?stream=", False),
        ("/v1/responses/resp_1?upstream=true", False),
        ("/v1/responses/stream=true", False),
        ("/v1/responses/resp_1?x=?stream=true", False),
    ],
)
def test_stream_in_the_query(target: str, streaming: bool) -> None:
    assert facts_in_query(target) == RequestFacts(streaming=streaming)


# Compressed bodies.


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{"model":"m","stream":true,"prompt":"four","max_tokens":5}', "application/json"),
        (form(model="m", stream="true", prompt="four", max_tokens="5"), FORM),
    ],
)
def test_compressed_body_shows_what_it_shows_decoded(body: bytes, content_type: str) -> None:
    facts = read_compressed_facts(
        zstd.compress(gzip.compress(body)), "/v1/x", content_type, ["gzip", "zstd"], 10_000
    )
    assert facts == RequestFacts("m", True, 4, 5)


@pytest.mark.parametrize(
    ("body", "codings"), [(b"not gzip", ["gzip"]), (b"12345678", ["compress"])]
)
def test_body_that_cannot_be_decoded_costs_its_length(body: bytes, codings: list[str]) -> None:
    facts = read_compressed_facts(body, "/v1/responses", "application/json", codings, 100)
    assert facts == RequestFacts(None, False, 8, None, readable=False)


def test_body_that_decodes_to_too_much_shows_its_start() -> None:
    body = gzip.compress(b'{"model":"m","stream":true,"input":"' + bytes(100_000) + b'"}')
    facts = read_compressed_facts(body, "/v1/x", "application/json", ["gzip"], 1000)
    assert facts == RequestFacts("m", True, len(body), 0, readable=False)


@pytest.mark.parametrize("encode", [gzip.compress, zstd.compress])
def test_start_of_a_compressed_body_shows_its_model(encode: Callable[[bytes], bytes]) -> None:
    noise = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz", k=500_000))
    body = encode(b'{"model":"m","stream":true,"input":"' + noise.encode() + b'"}')
    coding = "gzip" if encode is gzip.compress else "zstd"
    facts = read_facts_in_start(body[:200_000], "/v1/x", "application/json", [coding])
    assert facts == RequestFacts("m", True, readable=False)


@given(st.binary(max_size=300), st.sampled_from(["gzip", "zstd", "br", "deflate", "odd"]))
def test_any_compressed_body_has_facts(body: bytes, coding: str) -> None:
    facts = read_compressed_facts(body, "/v1/x", "application/json", [coding], 1000)
    assert facts.cost(0) >= 0
    assert not read_facts_in_start(body, "/v1/x", FORM, [coding]).readable
