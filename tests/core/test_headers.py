"""What crosses the gate."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.headers import (
    _REQUEST_PLANS,
    CACHE_ENTRIES,
    Credentials,
    UnreadableHeader,
    narrow_accept_encoding,
    reason_phrase,
    request_headers,
    response_headers,
)

NOBODY = Credentials.for_account("sk-gate", None, None)
ACCOUNT = Credentials.for_account("sk-gate", "org-1", "proj-1")


def up(*raw: tuple[bytes, bytes], credentials: Credentials = NOBODY) -> list[tuple[str, str]]:
    """What goes upstream of these headers, the key aside."""
    headers = request_headers(raw, credentials, streaming=False)
    assert ("Authorization", "Bearer sk-gate") in headers
    return [header for header in headers if header[0] != "Authorization"]


@pytest.mark.parametrize(
    "name",
    [
        b"Authorization", b"Connection", b"Cookie", b"Expect", b"Forwarded", b"Host",
        b"Keep-Alive", b"Origin", b"Proxy-Authorization", b"Proxy-Authenticate",
        b"Proxy-Connection", b"Referer", b"Sec-Fetch-Mode", b"TE", b"Trailer",
        b"Transfer-Encoding", b"Upgrade",
        b"X-Forwarded-For", b"x-forwarded-proto", b"X-Real-IP", b"X-RustyGate-Client",
    ],
)  # fmt: skip
def test_dropped_from_requests(name: bytes) -> None:
    assert up((name, b"x")) == []


@pytest.mark.parametrize(
    "name", [b"User-Agent", b"OpenAI-Beta", b"traceparent", b"x-stainless-lang", b"Security"]
)
def test_passed_in_requests_as_sent(name: bytes) -> None:
    assert up((name, b" v\tw ")) == [(name.decode(), " v\tw ")]


def test_repeated_headers_stay_repeated_in_order_in_one_spelling() -> None:
    """aiohttp's client would drop the first of two that differ in case."""
    raw = [(b"X-Tag", b"1"), (b"Other", b"o"), (b"x-tag", b"2")]
    assert up(*raw) == [("X-Tag", "1"), ("Other", "o"), ("X-Tag", "2")]


def test_headers_named_by_connection_are_stripped_but_not_the_key() -> None:
    raw = [(b"Connection", b"close, X-Hop , Authorization"), (b"X-Hop", b"1"), (b"X-End", b"2")]
    assert up(*raw) == [("X-End", "2")]


def test_account_is_named_where_the_client_named_none() -> None:
    raw = [(b"openai-organization", b"org-client")]
    assert up(*raw, credentials=ACCOUNT) == [
        ("openai-organization", "org-client"),
        ("OpenAI-Project", "proj-1"),
    ]


def test_length_stays_whatever_connection_names() -> None:
    raw = [(b"Connection", b"Content-Length, X-Hop"), (b"X-Hop", b"1"), (b"Content-Length", b"2")]
    assert up(*raw) == [("Content-Length", "2")]


def test_account_that_connection_names_is_the_gate_s() -> None:
    """Strip first, inject after."""
    raw = [(b"Connection", b"OpenAI-Organization"), (b"OpenAI-Organization", b"org-client")]
    assert up(*raw, credentials=ACCOUNT) == [*ACCOUNT.account]


@pytest.mark.parametrize("value", [b"caf\xe9", b"a\x00b", b"a\rb", b"\x7f"])
def test_value_that_cannot_be_carried_is_refused_without_showing_it(value: bytes) -> None:
    with pytest.raises(UnreadableHeader, match="The value of header X-Odd is not UTF-8"):
        up((b"X-Odd", value))


def test_utf8_values_are_carried() -> None:
    assert up((b"X-Odd", "grüße ☃\u00a0".encode())) == [("X-Odd", "grüße ☃\u00a0")]


@pytest.mark.parametrize(
    ("sent", "narrowed"),
    [
        ("gzip, deflate, br, zstd", "gzip, deflate"),
        ("GZIP;q=0.5 , br", "GZIP;q=0.5"),
        ("br", "identity"),
        ("*", "identity"),
        ("identity;q=0, gzip", "identity;q=0, gzip"),
    ],
)
def test_codings_are_narrowed_to_what_the_gate_can_read(sent: str, narrowed: str) -> None:
    assert narrow_accept_encoding(sent, streaming=False) == narrowed
    assert narrow_accept_encoding(sent, streaming=True) == "identity"


def test_no_coding_is_named_where_the_client_named_none() -> None:
    assert up() == []


def test_response_headers_stay_repeated_in_order_and_case() -> None:
    raw = [(b"X-A", b"1"), (b"x-a", b"2"), (b"Content-Length", b"5")]
    assert response_headers(raw) == [("X-A", "1"), ("x-a", "2"), ("Content-Length", "5")]


@pytest.mark.parametrize(
    "name",
    [b"Set-Cookie", b"alt-svc", b"Strict-Transport-Security", b"Connection", b"Transfer-Encoding"],
)
def test_dropped_from_responses(name: bytes) -> None:
    assert response_headers([(name, b"x")]) == []


def test_response_header_that_cannot_be_carried_is_left_out() -> None:
    raw = [(b"X-Latin", b"\xe9"), (b"X-Control", b"a\x01"), (b"X-Good", b"1")]
    assert response_headers(raw) == [("X-Good", "1")]


@pytest.mark.parametrize(
    ("reason", "written"),
    [("OK", "OK"), ("", ""), ("I'm a teapot", "I'm a teapot"), ("a\rb", None), ("\udce9", None)],
)
def test_reason_phrase_that_cannot_be_written_is_left_to_the_status(
    reason: str, written: str | None
) -> None:
    assert reason_phrase(reason) == written


def test_what_clients_invent_fills_no_memory() -> None:
    """As large as heads may be, and another each time."""
    tracemalloc.start()
    try:
        for number in range(50):
            made_up = b"a%d," % number + b"a," * 15_000
            names = [(b"%d-%s" % (part, made_up), b"") for part in range(3)]
            up(*names, (b"Connection", made_up), (b"Accept-Encoding", made_up))
        assert tracemalloc.get_traced_memory()[0] < 500_000
    finally:
        tracemalloc.stop()


def test_many_heads_are_remembered_but_not_all() -> None:
    for number in range(3 * CACHE_ENTRIES):
        assert up((b"X-%d" % number, b"")) == [(f"X-{number}", "")]
    assert 0 < len(_REQUEST_PLANS) <= CACHE_ENTRIES


@given(st.lists(st.tuples(st.binary(min_size=1), st.binary())))
def test_any_bytes_give_headers_or_a_refusal(raw: list[tuple[bytes, bytes]]) -> None:
    names = [(name.hex().encode(), value) for name, value in raw]
    try:
        headers = request_headers(names, ACCOUNT, streaming=True)
    except UnreadableHeader:
        return
    assert all(name.isascii() and value.encode() is not None for name, value in headers)
