"""What a WebSocket's opening says, upstream and downstream."""

from base64 import b64decode

import pytest

from rustygate.core.headers import Headers
from rustygate.core.websocket_handshake import (
    InvalidHandshake,
    WebSocketHandshake,
    is_websocket_upgrade,
)
from tests.support.websocket import CLIENT_NONCE, accept_key

KEY = "openai-insecure-api-key."
GATE_KEY = "sk-gate"
NONCE = b"0123456789abcdef"

UPGRADE = [("Upgrade", "websocket"), ("Connection", "Upgrade")]
FIELDS = [("sec-websocket-version", "13"), ("SEC-WebSocket-Key", CLIENT_NONCE)]


def opening(*fields: tuple[str, str]) -> WebSocketHandshake:
    return WebSocketHandshake.from_headers([*FIELDS, *fields])


def protocols(*values: str) -> WebSocketHandshake:
    return opening(*(("Sec-WebSocket-Protocol", value) for value in values))


def value(headers: Headers, name: str) -> str | None:
    found = [value for field, value in headers if field == name]
    assert len(found) <= 1
    return found[0] if found else None


def answered(
    asked: WebSocketHandshake, *fields: tuple[str, str], api_key: str = GATE_KEY
) -> Headers:
    """The client's answer to an opening that upstream agreed to with `fields`."""
    sent = WebSocketHandshake.from_headers(asked.upstream_headers(NONCE, api_key))
    return asked.response_headers(
        sent, [*UPGRADE, ("Sec-WebSocket-Accept", accept_key(sent.key)), *fields]
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([("Upgrade", "websocket"), ("Connection", "Upgrade")], True),
        ([("upgrade", "WebSocket "), ("connection", "keep-alive, UPGRADE")], True),
        ([("Connection", "close"), ("Connection", "upgrade"), ("Upgrade", "websocket")], True),
        ([("Upgrade", "websocket")], False),
        ([("Connection", "Upgrade")], False),
        ([("Upgrade", "h2c"), ("Connection", "Upgrade")], False),
        ([("Upgrade", "websocket, h2c"), ("Connection", "Upgrade")], False),
        ([("Upgrade", "websocket"), ("Connection", "upgrade-insecure")], False),
        ([], False),
    ],
)
def test_opening_is_known_by_its_upgrade(fields: Headers, expected: bool) -> None:
    assert is_websocket_upgrade(fields) is expected


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ([("Sec-WebSocket-Key", CLIENT_NONCE)], "Version"),
        ([("Sec-WebSocket-Version", "8"), ("Sec-WebSocket-Key", CLIENT_NONCE)], "Version"),
        ([("Sec-WebSocket-Version", "13, 8"), ("Sec-WebSocket-Key", CLIENT_NONCE)], "Version"),
        ([("Sec-WebSocket-Version", "13")], "Key"),
        ([*FIELDS, FIELDS[1]], "Key"),
        ([FIELDS[0], ("Sec-WebSocket-Key", "")], "Key"),
        ([FIELDS[0], ("Sec-WebSocket-Key", "c2hvcnQ=")], "Key"),
        ([FIELDS[0], ("Sec-WebSocket-Key", CLIENT_NONCE[:-2] + "*=")], "Key"),
        ([FIELDS[0], ("Sec-WebSocket-Key", CLIENT_NONCE[:-1])], "Key"),
        ([FIELDS[0], ("Sec-WebSocket-Key", "\udcff" * 24)], "Key"),
        ([*FIELDS, ("Sec-WebSocket-Protocol", "a b")], "Protocol"),
        ([*FIELDS, ("Sec-WebSocket-Protocol", "\udce4")], "Protocol"),
    ],
)
def test_opening_that_is_not_as_it_must_be_is_refused(fields: Headers, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        WebSocketHandshake.from_headers(fields)


def test_each_hop_has_its_own_key() -> None:
    onward = opening().upstream_headers(NONCE, GATE_KEY)
    assert b64decode(value(onward, "Sec-WebSocket-Key") or "") == NONCE
    assert value(onward, "Sec-WebSocket-Version") == "13"
    assert value(answered(opening()), "Sec-WebSocket-Accept") == accept_key(CLIENT_NONCE)


@pytest.mark.parametrize(
    ("asked", "onward"),
    [
        ([], None),
        (["realtime"], "realtime"),
        (["realtime", "openai-beta.realtime-v1"], "realtime, openai-beta.realtime-v1"),
        (["a,b , c"], "a, b, c"),
        (["Realtime, realtime"], "Realtime, realtime"),
        ([f"realtime, {KEY}sk-client, x"], f"realtime, {KEY}{GATE_KEY}, x"),
        (["OpenAI-Insecure-API-Key.sk-client"], f"{KEY}{GATE_KEY}"),
        ([KEY], f"{KEY}{GATE_KEY}"),
        ([f"{KEY}one, {KEY}two"], f"{KEY}{GATE_KEY}"),
    ],
)
def test_subprotocols_are_offered_as_the_client_offers_them(
    asked: list[str], onward: str | None
) -> None:
    headers = protocols(*asked).upstream_headers(NONCE, GATE_KEY)
    assert value(headers, "Sec-WebSocket-Protocol") == onward


@pytest.mark.parametrize(
    ("offered", "key"),
    [
        ("realtime", None),
        (f"realtime, {KEY}rg-one, {KEY}rg-two", "rg-one"),
        ("OpenAI-Insecure-API-Key.rg-One", "rg-One"),
    ],
)
def test_client_s_key_is_read_however_its_name_is_spelt(offered: str, key: str | None) -> None:
    assert protocols(offered).api_key == key


def test_key_that_is_no_token_is_not_offered() -> None:
    headers = protocols(f"realtime, {KEY}sk-client").upstream_headers(NONCE, "a,b=")
    assert value(headers, "Sec-WebSocket-Protocol") == "realtime"


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        ("realtime", "realtime"),
        (f"{KEY}{GATE_KEY}", f"{KEY}sk-client"),
        (None, None),
    ],
)
def test_chosen_subprotocol_is_told_in_the_client_s_words(
    chosen: str | None, told: str | None
) -> None:
    asked = protocols(f"realtime, {KEY}sk-client")
    fields = [] if chosen is None else [("Sec-WebSocket-Protocol", chosen)]
    assert value(answered(asked, *fields), "Sec-WebSocket-Protocol") == told


@pytest.mark.parametrize(
    ("asked", "onward"),
    [
        ("permessage-deflate", "permessage-deflate"),
        (
            "permessage-deflate; client_max_window_bits, permessage-deflate",
            "permessage-deflate; client_max_window_bits, permessage-deflate",
        ),
        ("x-mux, Permessage-Deflate;server_no_context_takeover", None),
        ("x-mux", ""),
        ("permessage-deflate-x", ""),
        ("permessage-deflate; x=\udcff", ""),
    ],
)
def test_only_compression_is_offered(asked: str, onward: str | None) -> None:
    headers = opening(("Sec-WebSocket-Extensions", asked)).upstream_headers(NONCE, GATE_KEY)
    expected = "Permessage-Deflate;server_no_context_takeover" if onward is None else onward
    assert (value(headers, "Sec-WebSocket-Extensions") or "") == expected


def test_compression_is_agreed_upon_as_upstream_says() -> None:
    asked = opening(("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"))
    agreed = "permessage-deflate; client_max_window_bits=12"
    headers = answered(asked, ("sec-websocket-extensions", agreed))
    assert value(headers, "Sec-WebSocket-Extensions") == agreed
    assert value(answered(asked), "Sec-WebSocket-Extensions") is None


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [("Sec-WebSocket-Accept", "x")],
        [("Sec-WebSocket-Accept", accept_key(CLIENT_NONCE))],
    ],
    ids=["none", "wrong", "the client's"],
)
def test_upstream_must_prove_that_it_read_the_key(fields: Headers) -> None:
    asked = opening()
    with pytest.raises(InvalidHandshake):
        asked.response_headers(
            WebSocketHandshake.from_headers(asked.upstream_headers(NONCE, GATE_KEY)),
            [*UPGRADE, *fields],
        )


@pytest.mark.parametrize(
    "fields", [[], UPGRADE[:1], UPGRADE[1:], [("Upgrade", "h2c"), UPGRADE[1]]], ids=repr
)
def test_upstream_must_switch_to_the_websocket(fields: Headers) -> None:
    asked = opening()
    sent = WebSocketHandshake.from_headers(asked.upstream_headers(NONCE, GATE_KEY))
    with pytest.raises(InvalidHandshake):
        asked.response_headers(sent, [*fields, ("Sec-WebSocket-Accept", accept_key(sent.key))])


@pytest.mark.parametrize(
    "field",
    [
        ("Sec-WebSocket-Protocol", "other"),
        ("Sec-WebSocket-Protocol", "realtime, x"),
        ("Sec-WebSocket-Protocol", f"{KEY}{GATE_KEY}"),
        ("Sec-WebSocket-Extensions", "permessage-deflate"),
        ("Sec-WebSocket-Extensions", "x-mux"),
    ],
)
def test_upstream_may_not_choose_what_was_not_offered(field: tuple[str, str]) -> None:
    with pytest.raises(InvalidHandshake):
        answered(protocols("realtime, x"), field)


def test_upstream_may_not_add_an_extension_to_compression() -> None:
    asked = opening(("Sec-WebSocket-Extensions", "permessage-deflate"))
    with pytest.raises(InvalidHandshake):
        answered(asked, ("Sec-WebSocket-Extensions", "permessage-deflate, permessage-deflate"))
