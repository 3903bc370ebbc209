"""Which headers cross the gate."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.headers import (
    _REQUEST_PLANS,
    MAX_CACHE_ENTRIES,
    Credentials,
    HeaderLines,
    NamedLines,
    UnreadableHeader,
    header_lines,
    headers_in,
    lines_without,
    reason_phrase,
    request_headers,
    response_headers,
)
from rustygate.core.location import LocationMap

KEY_ONLY = Credentials.for_account("sk-gate", None, None)
ACCOUNT = Credentials.for_account("sk-gate", "org-1", "proj-1")


def upstream_headers(
    *raw: tuple[bytes, bytes], credentials: Credentials = KEY_ONLY
) -> list[tuple[str, str]]:
    """The headers that go upstream, without the key."""
    headers = headers_in(request_headers(raw, credentials, streaming=False))
    assert ("Authorization", "Bearer sk-gate") in headers
    return [header for header in headers if header[0] != "Authorization"]


@pytest.mark.parametrize(
    "name",
    [
        b"Authorization", b"api-key", b"API-Key", b"X-Api-Key", b"x-goog-api-key",
        b"Connection", b"Cookie", b"Expect", b"Forwarded", b"Host",
        b"Keep-Alive", b"Origin", b"Proxy-Authorization", b"Proxy-Authenticate",
        b"Proxy-Connection", b"Referer", b"Sec-Fetch-Mode", b"TE", b"Trailer",
        b"Transfer-Encoding", b"Upgrade",
        b"X-Forwarded-For", b"x-forwarded-proto", b"X-Real-IP", b"X-RustyGate-Client",
    ],
)  # fmt: skip
def test_dropped_from_requests(name: bytes) -> None:
    assert upstream_headers((name, b"x")) == []


@pytest.mark.parametrize(
    "name", [b"User-Agent", b"OpenAI-Beta", b"traceparent", b"x-stainless-lang", b"Security"]
)
def test_forwarded_unchanged_in_requests(name: bytes) -> None:
    assert upstream_headers((name, b" v\tw ")) == [(name.decode(), " v\tw ")]


def test_repeated_headers_keep_their_order_in_one_spelling() -> None:
    raw = [(b"X-Tag", b"1"), (b"Other", b"o"), (b"x-tag", b"2")]
    assert upstream_headers(*raw) == [("X-Tag", "1"), ("Other", "o"), ("X-Tag", "2")]


def test_connection_may_not_remove_the_upstream_key() -> None:
    raw = [(b"Connection", b"close, X-Hop , Authorization"), (b"X-Hop", b"1"), (b"X-End", b"2")]
    assert upstream_headers(*raw) == [("X-End", "2")]


def test_account_headers_are_added_where_the_client_sent_none() -> None:
    raw = [(b"openai-organization", b"org-client")]
    assert upstream_headers(*raw, credentials=ACCOUNT) == [
        ("openai-organization", "org-client"),
        ("OpenAI-Project", "proj-1"),
    ]


def test_connection_may_not_remove_the_content_length() -> None:
    raw = [(b"Connection", b"Content-Length, X-Hop"), (b"X-Hop", b"1"), (b"Content-Length", b"2")]
    assert upstream_headers(*raw) == [("Content-Length", "2")]


def test_account_header_named_by_connection_is_replaced() -> None:
    """Headers are stripped first and added afterwards."""
    raw = [(b"Connection", b"OpenAI-Organization"), (b"OpenAI-Organization", b"org-client")]
    assert upstream_headers(*raw, credentials=ACCOUNT) == [
        ("OpenAI-Organization", "org-1"),
        ("OpenAI-Project", "proj-1"),
    ]


@pytest.mark.parametrize("value", [b"caf\xe9", b"a\x00b", b"a\rb", b"\x7f"])
def test_unreadable_value_is_rejected_and_not_shown(value: bytes) -> None:
    with pytest.raises(UnreadableHeader, match="The value of header X-Odd is not UTF-8"):
        upstream_headers((b"X-Odd", value))


def test_utf8_values_are_forwarded() -> None:
    assert upstream_headers((b"X-Odd", "grüße ☃\u00a0".encode())) == [("X-Odd", "grüße ☃\u00a0")]


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
def test_accept_encoding_is_narrowed_to_readable_codings(sent: str, narrowed: str) -> None:
    raw = [(b"X-A", b"1"), (b"Accept-Encoding", sent.encode()), (b"X-B", b"2")]
    for streaming, value in ((False, narrowed), (True, "identity")):
        headers = headers_in(request_headers(raw, KEY_ONLY, streaming=streaming))
        assert headers[:3] == [("X-A", "1"), ("Accept-Encoding", value), ("X-B", "2")]


def test_no_accept_encoding_is_added() -> None:
    assert upstream_headers() == []


def test_repeated_response_headers_keep_order_and_case() -> None:
    raw = [(b"X-A", b"1"), (b"x-a", b"2"), (b"Content-Length", b"5")]
    lines, names = response_headers(raw)
    assert lines == b"X-A: 1\r\nx-a: 2\r\nContent-Length: 5\r\n"
    assert names == {"x-a", "content-length"}


@pytest.mark.parametrize(
    "name",
    [b"Set-Cookie", b"alt-svc", b"Strict-Transport-Security", b"Connection", b"Transfer-Encoding"],
)
def test_dropped_from_responses(name: bytes) -> None:
    assert response_headers([(name, b"x")]) == NamedLines(b"", frozenset())


def test_unreadable_response_header_is_left_out() -> None:
    raw = [(b"X-Latin", b"\xe9"), (b"X-Control", b"a\x01"), (b"X-Good", b"1")]
    assert response_headers(raw) == NamedLines(b"X-Good: 1\r\n", frozenset({"x-good"}))


def test_header_cannot_end_its_line() -> None:
    raw = [(b"X-Good", b"1"), (b"X-Bad", b"a\r\nX-Injected: 1"), (b"X-Also-Good", b"2")]
    assert response_headers(raw).lines == b"X-Good: 1\r\nX-Also-Good: 2\r\n"
    with pytest.raises(UnreadableHeader, match="X-Bad"):
        upstream_headers(*raw)


def test_unreadable_value_of_a_dropped_header_does_no_harm() -> None:
    assert upstream_headers((b"Cookie", b"\xe9"), (b"X-Good", b"1")) == [("X-Good", "1")]
    assert response_headers([(b"Set-Cookie", b"\xe9"), (b"X-Good", b"1")]).lines == (
        b"X-Good: 1\r\n"
    )


def test_percent_signs_pass() -> None:
    assert upstream_headers((b"X-%b%s", b"100%%b")) == [("X-%b%s", "100%%b")]


def test_connection_of_a_response_names_headers_of_one_hop() -> None:
    raw = [(b"connection", b"X-Hop"), (b"X-Hop", b"1"), (b"X-End", b"2")]
    assert response_headers(raw) == NamedLines(b"X-End: 2\r\n", frozenset({"x-end"}))


def test_locations_under_the_base_lead_here() -> None:
    raw = [(b"Location", b"http://up/v1/files/1"), (b"content-location", b"http://else/\xc3\xa9")]
    assert response_headers(raw, LocationMap("http://up/v1")).lines == (
        b"Location: /v1/files/1\r\ncontent-location: http://else/\xc3\xa9\r\n"
    )


HEADERS = st.lists(
    st.tuples(
        st.text(alphabet="aAbB-", min_size=1),
        st.text(st.characters(codec="utf-8", exclude_categories=["Cc"])),
    )
)


@given(HEADERS)
def test_lines_are_read_as_they_were_written(headers: list[tuple[str, str]]) -> None:
    lines: HeaderLines = header_lines(headers)
    assert headers_in(lines) == headers
    left = headers_in(lines_without(lines, {"a", "b-a"}))
    assert left == [each for each in headers if each[0].lower() not in {"a", "b-a"}]


@pytest.mark.parametrize(
    ("reason", "written"),
    [("OK", "OK"), ("", ""), ("I'm a teapot", "I'm a teapot"), ("a\rb", None), ("\udce9", None)],
)
def test_unwritable_reason_phrase_is_replaced_by_the_default(
    reason: str, written: str | None
) -> None:
    assert reason_phrase(reason) == written


def test_random_header_names_do_not_fill_memory() -> None:
    """As large as a request head may be, and different each time."""
    tracemalloc.start()
    try:
        for number in range(50):
            invented = b"a%d," % number + b"a," * 15_000
            names = [(b"%d-%s" % (part, invented), b"") for part in range(3)]
            upstream_headers(*names, (b"Connection", invented), (b"Accept-Encoding", invented))
        assert tracemalloc.get_traced_memory()[0] < 500_000
    finally:
        tracemalloc.stop()


def test_cache_of_header_plans_is_bounded() -> None:
    for number in range(3 * MAX_CACHE_ENTRIES):
        assert upstream_headers((b"X-%d" % number, b"")) == [(f"X-{number}", "")]
    assert 0 < len(_REQUEST_PLANS) <= MAX_CACHE_ENTRIES


@given(st.lists(st.tuples(st.binary(min_size=1), st.binary())))
def test_any_bytes_give_headers_or_an_error(raw: list[tuple[bytes, bytes]]) -> None:
    names = [(name.hex().encode(), value) for name, value in raw]
    try:
        headers = headers_in(request_headers(names, ACCOUNT, streaming=True))
    except UnreadableHeader:
        return
    assert all(name.isascii() and value.encode() is not None for name, value in headers)
