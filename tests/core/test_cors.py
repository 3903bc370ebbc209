"""Which pages may use the gate, and the headers for their browsers."""

import pytest

from rustygate.core.cors import (
    cors_headers,
    is_cors_header,
    is_origin_allowed,
    parse_origins,
    preflight_headers,
)

APP = "https://app.example.org"


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("*", ("*",)),
        (APP, (APP,)),
        (f"{APP}/", (APP,)),
        ("HTTPS://App.Example.org:443", (APP,)),
        ("http://localhost:80", ("http://localhost",)),
        (
            "http://localhost:443 ,\thttp://[::1]:3000",
            ("http://localhost:443", "http://[::1]:3000"),
        ),
        ("chrome-extension://abcdef", ("chrome-extension://abcdef",)),
        ("tauri://localhost", ("tauri://localhost",)),
        ("https://xn--bcher-kva.example:08443", ("https://xn--bcher-kva.example:8443",)),
    ],
)
def test_origins_are_normalized_as_browsers_send_them(text: str, origins: tuple[str, ...]) -> None:
    assert parse_origins(text) == origins


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        f"{APP},",
        f"{APP},*",
        "null",
        "app.example.org",
        "https://",
        f"{APP}/path",
        f"{APP}//",
        f"{APP}?x",
        f"{APP}:0",
        f"{APP}:65536",
        f"{APP}:",
        "https://me@app.example.org",
        "https://*.example.org",
        "https://b\u00fccher.example",
        f"{APP} {APP}",
    ],
)
def test_invalid_origin_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="not an origin"):
        parse_origins(text)


@pytest.mark.parametrize(
    ("sent", "allowed"),
    [
        ([APP], True),
        (["https://other.example.org"], False),
        (["http://app.example.org"], False),
        ([f"{APP}:444"], False),
        ([f"{APP}.evil.example"], False),
        ([f"{APP}/"], False),
        ([APP, APP], False),
        ([f"{APP}, {APP}"], False),
        (["null"], False),
        ([""], False),
        (["*"], False),
    ],
)
def test_only_listed_origins_are_allowed(sent: list[str], allowed: bool) -> None:
    assert is_origin_allowed(sent, [APP, "http://localhost:3000"]) is allowed
    assert is_origin_allowed(sent, ["*"])
    assert not is_origin_allowed(sent, [])


def test_preflight_allows_the_requested_method_and_headers() -> None:
    assert preflight_headers("PATCH", "authorization, x-stainless-os") == [
        ("Access-Control-Max-Age", "7200"),
        ("Access-Control-Allow-Methods", "PATCH"),
        ("Access-Control-Allow-Headers", "authorization, x-stainless-os"),
    ]


@pytest.mark.parametrize("odd", ["", "a\nb", "a:b", "\udcff", "\u00e9", "(x)"])
def test_preflight_does_not_repeat_invalid_values(odd: str) -> None:
    assert preflight_headers(odd, odd) == [("Access-Control-Max-Age", "7200")]


@pytest.mark.parametrize(
    ("vary", "added"),
    [
        ([], True),
        (["Accept-Encoding"], True),
        (["Accept", "X-Origin"], True),
        (["Accept-Encoding, origin"], False),
        (["Accept", "Origin"], False),
        (["*"], False),
    ],
)
def test_response_varies_by_origin(vary: list[str], added: bool) -> None:
    headers = cors_headers(APP, vary)
    assert headers[0] == ("Access-Control-Allow-Origin", APP)
    assert (("Vary", "Origin") in headers) is added


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Access-Control-Allow-Origin", True),
        ("access-control-max-age", True),
        ("Access-Controls", False),
        ("X-Access-Control-Allow-Origin", False),
    ],
)
def test_cors_headers_are_recognized(name: str, expected: bool) -> None:
    assert is_cors_header(name) is expected
