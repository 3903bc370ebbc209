"""Invalid WebSocket frames: the sender gets the reason, the other side a Close frame."""

from typing import Any

import pytest

from tests.conftest import StartGate
from tests.support.flood import send_until_stalled
from tests.support.upstream import Upstream
from tests.support.waiting import soon
from tests.support.websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MASK,
    PING,
    close_payload,
    frame,
    open_websocket,
)

MEGABYTE = 1 << 20


BAD: dict[str, tuple[dict[str, Any], int, str]] = {
    "reserved bit": ({"payload": b"x", "reserved": 2}, 1002, "bad_request"),
    "compression that was not negotiated": (
        {"payload": b"x", "reserved": 4},
        1002,
        "bad_request",
    ),
    "unknown opcode": ({"payload": b"x", "opcode": 5}, 1002, "bad_request"),
    "long ping": ({"payload": b"x" * 126, "opcode": PING}, 1002, "bad_request"),
    "fragmented ping": ({"payload": b"x", "opcode": PING, "final": False}, 1002, "bad_request"),
    "continuation without a start": (
        {"payload": b"x", "opcode": CONTINUATION},
        1002,
        "bad_request",
    ),
    "not UTF-8": ({"payload": b"\xff"}, 1007, "bad_request"),
    "too large": ({"payload": b"x", "length": 16 * MEGABYTE + 1}, 1009, "body_too_large"),
    "largest length": ({"payload": b"x", "length": 2**63 - 1}, 1009, "body_too_large"),
    "code 1006": ({"payload": close_payload(1006), "opcode": CLOSE}, 1002, "bad_request"),
    "code 1005": ({"payload": close_payload(1005), "opcode": CLOSE}, 1002, "bad_request"),
    "half a code": ({"payload": b"\x03", "opcode": CLOSE}, 1002, "bad_request"),
}


@pytest.mark.parametrize(("bad", "code", "reason"), BAD.values(), ids=BAD)
async def test_client_violation_gets_a_close_frame_with_the_reason(
    gate: StartGate, upstream: Upstream, bad: dict[str, Any], code: int, reason: str
) -> None:
    running = await gate()
    client, server = await open_websocket(running, upstream)
    other, other_server = await open_websocket(running, upstream)
    client.send(b"before")
    client.send(**bad)
    client.send(b"after")
    await server.expect(b"before")
    close = await client.close_frame()
    assert close.code == code
    assert close.reason.startswith("rustygate: ")
    assert (await server.close_frame()).code == 1001
    assert (await client.ended(), await server.ended()) == ("closed", "closed")
    client.wire.close()
    server.wire.close()
    [line] = await running.settled()
    assert (line["outcome"], line["reason"]) == ("aborted", reason)
    other.send(b"untouched")
    await other_server.expect(b"untouched")


async def test_unmasked_client_frame_is_a_violation(gate: StartGate, upstream: Upstream) -> None:
    client, server = await open_websocket(await gate(), upstream)
    client.wire.send(frame(b"bare"))
    assert (await client.close_frame()).code == 1002
    assert (await server.close_frame()).code == 1001


@pytest.mark.parametrize(("bad", "code", "reason"), BAD.values(), ids=BAD)
async def test_upstream_violation_gets_a_close_frame_with_the_reason(
    gate: StartGate, upstream: Upstream, bad: dict[str, Any], code: int, reason: str
) -> None:
    running = await gate()
    client, server = await open_websocket(running, upstream)
    server.send(**bad)
    assert (await server.close_frame()).code == code
    close = await client.close_frame()
    assert (close.code, close.reason[:11]) == (1011, "rustygate: ")
    client.wire.close()
    [line] = await running.settled()
    assert (line["outcome"], line["reason"]) == ("aborted", "upstream_disconnected")


async def test_oversized_message_is_read_to_its_end_before_disconnecting(
    gate: StartGate, upstream: Upstream
) -> None:
    """A client that reads only after sending still gets the reason."""
    client, _ = await open_websocket(await gate(), upstream)
    size = 17 * MEGABYTE
    client.send(b"x" * size)
    assert (await client.close_frame()).code == 1009


async def test_too_many_fragments_are_a_violation(gate: StartGate, upstream: Upstream) -> None:
    client, server = await open_websocket(await gate(), upstream)
    client.send(b"", final=False)
    client.wire.send(frame(b"", CONTINUATION, mask=MASK, final=False) * 70_000)
    assert (await client.close_frame()).code == 1009
    # Nothing of the message has passed: it might still have become a turn.
    assert (await server.close_frame()).code == 1001


async def test_largest_message_passes(gate: StartGate, upstream: Upstream) -> None:
    client, server = await open_websocket(await gate(), upstream)
    largest = b"x" * (16 * MEGABYTE)
    client.send(largest)
    await server.expect(largest)
    server.send(largest)
    await client.expect(largest)


async def test_side_inside_a_frame_is_cut_without_a_close_frame(
    gate: StartGate, upstream: Upstream
) -> None:
    client, server = await open_websocket(await gate(), upstream)
    server.wire.send(frame(b"half")[:-2])
    async with soon():
        assert await client.wire.read_some() == frame(b"half")[:-2]
    client.send(b"\xff")
    assert await client.read_until_end() == b""
    assert (await server.close_frame()).code == 1001


async def test_violation_after_an_unnoticed_reset_of_the_other_side(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate()
    client, server = await open_websocket(running, upstream)
    client.wire.pause_reading()
    await send_until_stalled(server.wire, frame(b"x" * 60_000, BINARY))
    bad = frame(b"a" * 50 + b"\xff", mask=MASK)
    client.wire.send(bad[:20])
    async with soon():
        await server.wire.read_some()
    server.wire.reset()
    client.wire.send(bad[20:])
    assert (await running.settled())[0]["reason"] == "bad_request"


@pytest.mark.parametrize("noise", [b"\x00" * 100, b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 5000])
async def test_data_that_is_not_a_frame_is_a_violation(
    gate: StartGate, upstream: Upstream, noise: bytes
) -> None:
    client, _ = await open_websocket(await gate(), upstream)
    client.wire.send(noise)
    assert (await client.close_frame()).code == 1002
