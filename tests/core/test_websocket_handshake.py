"""The WebSocket handshake: requests and responses, upstream and downstream."""

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


def handshake(*fields: tuple[str, str]) -> WebSocketHandshake:
    return WebSocketHandshake.from_headers([*FIELDS, *fields])


def offering(*values: str) -> WebSocketHandshake:
    return handshake(*(("Sec-WebSocket-Protocol", value) for value in values))


def value(headers: Headers, name: str) -> str | None:
    found = [value for field, value in headers if field == name]
    assert len(found) <= 1
    return found[0] if found else None


def response_to(
    request: WebSocketHandshake, *fields: tuple[str, str], api_key: str = GATE_KEY
) -> Headers:
    """The response to the client when upstream accepted the handshake with `fields`."""
    sent = WebSocketHandshake.from_headers(request.upstream_headers(NONCE, api_key))
    return request.response_headers(
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
def test_recognizes_a_websocket_upgrade(fields: Headers, expected: bool) -> None:
    assert is_websocket_upgrade(fields) is expected


@pytest.mark.parametrize(
    ("fields", "named"),
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
def test_invalid_request_is_rejected_naming_the_header(fields: Headers, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        WebSocketHandshake.from_headers(fields)


def test_each_hop_has_its_own_key() -> None:
    headers = handshake().upstream_headers(NONCE, GATE_KEY)
    assert b64decode(value(headers, "Sec-WebSocket-Key") or "") == NONCE
    assert value(headers, "Sec-WebSocket-Version") == "13"
    assert value(response_to(handshake()), "Sec-WebSocket-Accept") == accept_key(CLIENT_NONCE)


@pytest.mark.parametrize(
    ("offered", "sent"),
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
def test_subprotocols_are_offered_as_by_the_client(offered: list[str], sent: str | None) -> None:
    headers = offering(*offered).upstream_headers(NONCE, GATE_KEY)
    assert value(headers, "Sec-WebSocket-Protocol") == sent


@pytest.mark.parametrize(
    ("offered", "key"),
    [
        ("realtime", None),
        (f"realtime, {KEY}rg-one, {KEY}rg-two", "rg-one"),
        ("OpenAI-Insecure-API-Key.rg-One", "rg-One"),
    ],
)
def test_client_key_is_found_in_any_spelling(offered: str, key: str | None) -> None:
    assert offering(offered).api_key == key


def test_key_that_is_not_a_token_is_not_offered() -> None:
    headers = offering(f"realtime, {KEY}sk-client").upstream_headers(NONCE, "a,b=")
    assert value(headers, "Sec-WebSocket-Protocol") == "realtime"


@pytest.mark.parametrize(
    ("chosen", "returned"),
    [
        ("realtime", "realtime"),
        (f"{KEY}{GATE_KEY}", f"{KEY}sk-client"),
        (None, None),
    ],
)
def test_chosen_subprotocol_is_returned_as_the_client_offered_it(
    chosen: str | None, returned: str | None
) -> None:
    request = offering(f"realtime, {KEY}sk-client")
    fields = [] if chosen is None else [("Sec-WebSocket-Protocol", chosen)]
    assert value(response_to(request, *fields), "Sec-WebSocket-Protocol") == returned


@pytest.mark.parametrize(
    ("offered", "sent"),
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
def test_only_compression_is_offered(offered: str, sent: str | None) -> None:
    headers = handshake(("Sec-WebSocket-Extensions", offered)).upstream_headers(NONCE, GATE_KEY)
    expected = "Permessage-Deflate;server_no_context_takeover" if sent is None else sent
    assert (value(headers, "Sec-WebSocket-Extensions") or "") == expected


def test_compression_parameters_of_upstream_reach_the_client() -> None:
    request = handshake(("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"))
    accepted = "permessage-deflate; client_max_window_bits=12"
    headers = response_to(request, ("sec-websocket-extensions", accepted))
    assert value(headers, "Sec-WebSocket-Extensions") == accepted
    assert value(response_to(request), "Sec-WebSocket-Extensions") is None


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [("Sec-WebSocket-Accept", "x")],
        [("Sec-WebSocket-Accept", accept_key(CLIENT_NONCE))],
    ],
    ids=["none", "wrong", "the client's"],
)
def test_upstream_must_send_the_right_accept_value(fields: Headers) -> None:
    request = handshake()
    with pytest.raises(InvalidHandshake):
        request.response_headers(
            WebSocketHandshake.from_headers(request.upstream_headers(NONCE, GATE_KEY)),
            [*UPGRADE, *fields],
        )


@pytest.mark.parametrize(
    "fields", [[], UPGRADE[:1], UPGRADE[1:], [("Upgrade", "h2c"), UPGRADE[1]]], ids=repr
)
def test_upstream_must_switch_to_websocket(fields: Headers) -> None:
    request = handshake()
    sent = WebSocketHandshake.from_headers(request.upstream_headers(NONCE, GATE_KEY))
    with pytest.raises(InvalidHandshake):
        request.response_headers(sent, [*fields, ("Sec-WebSocket-Accept", accept_key(sent.key))])


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
        response_to(offering("realtime, x"), field)


def test_upstream_may_not_choose_two_extensions() -> None:
    request = handshake(("Sec-WebSocket-Extensions", "permessage-deflate"))
    with pytest.raises(InvalidHandshake):
        response_to(
            request, ("Sec-WebSocket-Extensions", "permessage-deflate, permessage-deflate")
        )
