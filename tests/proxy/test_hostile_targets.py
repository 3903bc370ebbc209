"""No target reaches a path outside the upstream base URL."""

import pytest

from tests.support.gate import Gate
from tests.support.hostile import MARK, MARKED, check_unharmed, with_start_line
from tests.support.http import (
    get,
    response,
)
from tests.support.upstream import Upstream

pytestmark = pytest.mark.usefixtures("no_request_byte_is_logged")


@pytest.mark.parametrize(
    "target",
    [
        "/v1/..",
        "/v1/.",
        "/v1/../admin",
        "/v1/./models",
        "/v1/x/../../admin",
        "/v1/models/..?a=b",
        "/v1//../admin",
        "/v1/%2e%2e/admin",
        "/v1/%2E%2e/admin",
        "/v1/.%2e/admin",
        "/v1/%2e./admin",
        "/v1/%2e/models",
        "/v1/%2e%2e",
        "/v1/%2e%2e%2fadmin",
        "/v1/..%2fadmin",
        "/v1/x%2F..%2F..%2Fadmin",
        "/v1/x%2f%2e%2e%2fadmin",
        "/v1/..%5cadmin",
        "/v1/x%5c%2e%2e%5cadmin",
        "/v1/..\\admin",
        "/v1\\..\\admin",
        "/v1/x\\y",
        "http://gate/v1/../admin",
        "http://gate/v1/%2e%2e/admin",
        "/v1/models#/../x",
        "/v1/models?a#b",
    ],
)
async def test_target_outside_the_base_path_is_refused(
    running: Gate, upstream: Upstream, target: str
) -> None:
    client = await running.connect()
    received = await client.request(get(target, MARKED))
    assert (received.status, received.reason) == (400, "bad_request")
    assert upstream.wires == []
    assert (await client.request(get("/health"))).status == 200
    await check_unharmed(running, upstream)


@pytest.mark.parametrize(
    "target",
    [
        # Decoded once, as upstream does, these are not dot segments.
        "/v1/%252e%252e/admin",
        "/v1/..%252fadmin",
        "/v1/%25%32%65%25%32%65/x",
        "/v1/%c0%ae%c0%ae/x",
        "/v1/...",
        "/v1/..x/.y/z..",
        "/v1/x?to=../../admin&%2e%2e/",
        # Nor are these the end of a line or string, or a query.
        "/v1/x%0d%0aX-Injected:%201",
        "/v1/x%0D%0A%0D%0AGET%20/v1/y%20HTTP/1.1",
        "/v1/x?a=%0d%0aAuthorization:%20Bearer%20x",
        "/v1/x%00y",
        "/v1/x%3fa=b%23c",
        "/v1/%",
        "/v1/%zz%e2%82",
    ],
)
async def test_encoded_target_stays_encoded(
    running: Gate, upstream: Upstream, target: str
) -> None:
    upstream.reply = response()
    assert (await running.request(get(target))).status == 200
    [call] = upstream.calls
    assert call.head.start == f"GET {target} HTTP/1.1"
    assert {name for name, _ in call.head.fields} == {"host", "authorization"}
    assert (await running.settled())[0]["path"] == target.partition("?")[0]


@pytest.mark.parametrize("target", ["gate:443", "/v1/models"])
async def test_connect_opens_no_tunnel(running: Gate, upstream: Upstream, target: str) -> None:
    client = await running.send(with_start_line(f"CONNECT {target} HTTP/1.1".encode()))
    assert (await client.head()).status == 405
    assert upstream.wires == []
    await check_unharmed(running, upstream)


@pytest.mark.parametrize(
    "target",
    [
        "/v1/m\u00f6dels".encode(),
        f"/v1/x?q={MARK}\u2603".encode(),
        b"/v1/x?q=\xff\xfe" + MARK.encode(),
        "http://gate/v1/\u00e4".encode(),
        "/h\u00e4lth".encode(),
        b"\xc3\xa4",
        b"/v1/x\x7f",
        b"/v1/x?\x01",
        b"/v1/x\\y",
    ],
)
async def test_refusal_of_a_raw_url_says_to_encode_it(
    running: Gate, upstream: Upstream, target: bytes
) -> None:
    got = await running.request(b"GET " + target + b" HTTP/1.1\r\nHost: gate\r\n\r\n")
    assert (got.status, got.reason) == (400, "bad_request")
    assert "must be percent-encoded" in got.error["message"]
    assert MARK.encode() not in got.body
    assert upstream.wires == []
    await check_unharmed(running, upstream)
