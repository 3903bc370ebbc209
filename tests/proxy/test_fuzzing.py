"""Random bytes never crash the gate or provoke a 5xx response."""

import asyncio
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.gate import IDLE, Gate
from tests.support.hostile import (
    BODY,
    chunked,
)
from tests.support.http import (
    LAST_CHUNK,
    chunk,
    get,
    post,
    response,
)
from tests.support.upstream import Upstream

pytestmark = pytest.mark.usefixtures("no_request_byte_is_logged")


FRAGMENTS = [
    *(b"GET ", b"POST ", b"/v1/x", b"/v1/../", b" HTTP/1.1", b" HTTP/1.0", b"\r\n", b"\r\n\r\n"),
    *(
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b":",
        b";",
        b",",
        b"\0",
        b"%2e",
        b"?",
        b"#",
        b"\xff",
        b"{}",
        b"[[",
    ),
    *(b"Host: gate\r\n", b"Content-Length: ", b"Transfer-Encoding: ", b"chunked", b"identity"),
    *(b"Connection: ", b"close", b"keep-alive", b"upgrade", b"Upgrade: websocket\r\n"),
    *(b"Expect: 100-continue\r\n", b"Content-Type: application/json\r\n", b"0", b"2", b"-1", b"f"),
    *(get("/v1/x"), post(), chunked(chunk(b"{}"), LAST_CHUNK), chunked(), LAST_CHUNK),
]
NOISE = st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=8), max_size=30).map(b"".join)


@st.composite
def pieces(draw: st.DrawFn) -> list[bytes]:
    """Noise, or a valid request with noise in it, cut into pieces."""
    valid = draw(
        st.sampled_from([b"", get("/v1/x"), post(BODY), chunked(chunk(BODY), LAST_CHUNK)])
    )
    at = draw(st.integers(0, len(valid)))
    data = valid[:at] + draw(NOISE) + valid[at + draw(st.integers(0, 3)) :]
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=4)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@settings(
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(pieces())
async def test_gate_survives_any_bytes(
    running: Gate, upstream: Upstream, pieces: list[bytes]
) -> None:
    """It responds, waits or closes, never with an internal error, and serves the next request."""
    upstream.reply = response(b"")
    client, other = await running.connect(), await running.connect()
    for piece in pieces:
        client.send(piece)
        await asyncio.sleep(0)
    for _ in range(3):
        assert (await other.request(get("/health"))).status == 200
    if client.wire.end is None:
        client.wire.half_close()
    await client.ended()
    assert not re.search(rb"HTTP/1\.[01] 5\d\d", client.wire.received)
    await running.wait_until(**IDLE)
    assert running.log.errors == []
    client.disconnect()
    other.disconnect()
