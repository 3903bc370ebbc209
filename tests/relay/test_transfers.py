"""Uploads and downloads of any size: complete, at the pace of the slower side, in little memory.

Memory is measured in a gate that runs as a process of its own. `TRANSFER_MB=500` makes the bodies
larger.
"""

import asyncio
import os
from hashlib import sha256

import pytest

from rustygate.downstream.request_body import INITIAL_READ_BUFFER
from tests.conftest import StartGate, StartGateProcess
from tests.support.client import Client
from tests.support.flood import send_until_stalled
from tests.support.gate import Gate
from tests.support.http import (
    CONTINUE,
    LAST_CHUNK,
    chunk,
    get,
    post,
    request,
    response,
    response_head,
)
from tests.support.upstream import Call, Upstream
from tests.support.waiting import until
from tests.support.wire import Wire

MEGABYTE = 1 << 20

# A large body, in pieces whose size differs from that of every buffer.
PIECE = bytes(range(251)) * 1024
PIECES = int(os.environ.get("TRANSFER_MB", "64")) * MEGABYTE // len(PIECE)
SIZE = PIECES * len(PIECE)
DIGEST = sha256()
for _ in range(PIECES):
    DIGEST.update(PIECE)

# How much a process may grow while it passes a body larger than this.
GROWTH_KB = 40_000

# How much the sockets on loopback and the gate's own buffers may hold in all.
BUFFERED_LIMIT = 24 * MEGABYTE

BOUNDARY = "----WebKitFormBoundary7MA4YWxkTrZu0gW='odd,chars'?"
MULTIPART = f'Content-Type: multipart/form-data; boundary="{BOUNDARY}"'
FORM = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="\xfcbung.bin"\r\n'
    "Content-Type: application/octet-stream\r\n\r\n"
).encode() + bytes(range(256)) * 300
FORM += f"\r\n--{BOUNDARY}--\r\n".encode()

START = request("POST", "/v1/files", MULTIPART, f"Content-Length: {SIZE}")
START_CHUNKED = request("POST", "/v1/files", MULTIPART, "Transfer-Encoding: chunked")


async def flood(wire: Wire, *, chunked: bool = False) -> None:
    """Send the large body."""
    piece = chunk(PIECE) if chunked else PIECE
    for _ in range(PIECES):
        await wire.send_all(piece)
    if chunked:
        wire.send(LAST_CHUNK)


async def read_digest(end: Call | Client) -> bytes:
    """Read the rest of a body and keep none of it; returns its digest."""
    digest = sha256()
    while piece := await end.body.read_some():
        digest.update(piece)
        end.wire.discard_read()
    return digest.digest()


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_large_upload_uses_little_memory(
    gate_process: StartGateProcess, upstream: Upstream, chunked: bool
) -> None:
    gate = await gate_process()
    client = await gate.connect()
    before = gate.memory_kb()
    client.send(START_CHUNKED if chunked else START)
    sending = asyncio.create_task(flood(client.wire, chunked=chunked))
    call = await upstream.call()
    assert call.head.all("content-length") == ([] if chunked else [str(SIZE)])
    assert await read_digest(call) == DIGEST.digest()
    await sending
    await call.respond(response())
    assert (await client.response()).status == 200
    assert gate.memory_kb() - before < GROWTH_KB
    client.disconnect()


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_large_download_uses_little_memory(
    gate_process: StartGateProcess, upstream: Upstream, chunked: bool
) -> None:
    gate = await gate_process()
    client = await gate.connect()
    before = gate.memory_kb()
    client.send(get("/v1/files/f-1/content"))
    call = await upstream.call()
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {SIZE}"
    call.send(response_head(framing, "Content-Type: application/octet-stream"))
    sending = asyncio.create_task(flood(call.wire, chunked=chunked))
    assert (await client.head()).all("content-length") == ([] if chunked else [str(SIZE)])
    assert await read_digest(client) == DIGEST.digest()
    await sending
    assert gate.memory_kb() - before < GROWTH_KB
    client.disconnect()


async def test_queued_uploads_stay_within_queue_bytes(
    gate_process: StartGateProcess, upstream: Upstream
) -> None:
    """What is read ahead of each counts too; beyond the limit bodies stay in their sockets."""
    gate = await gate_process(CONCURRENCY_LIMIT="1", QUEUE_BYTES="10000000")
    clients = [await gate.connect() for _ in range(101)]
    clients[0].send(get())
    await upstream.call()
    before = gate.memory_kb()
    for client in clients[1:]:
        client.send(START, PIECE * 8)
        await wait_until_stalled(client.wire)
    # At most one read of 256 KiB arrives with each head.
    assert gate.memory_kb() - before < 10_000 + 100 * 256 + 4_000
    for client in clients:
        client.disconnect()


async def wait_until_stalled(wire: Wire) -> None:
    """Wait until the kernel takes no more of the data."""
    left = -1
    while left != (left := wire.transport.get_write_buffer_size()):  # noqa: ASYNC110
        await asyncio.sleep(0.01)


# Backpressure.


async def test_slow_upstream_pauses_the_client(gate: StartGate, upstream: Upstream) -> None:
    client = await (await gate()).send(
        request("POST", "/v1/files", MULTIPART, f"Content-Length: {2 * BUFFERED_LIMIT}")
    )
    client.send(PIECE)
    call = await upstream.call()
    call.wire.pause_reading()
    taken = await send_until_stalled(client.wire, PIECE, limit=2 * BUFFERED_LIMIT)
    assert taken < BUFFERED_LIMIT
    call.wire.resume_reading()
    # The first piece, and the one that was not taken.
    received = len(call.head.raw) + taken + 2 * len(PIECE)
    await until(lambda: len(call.wire.received) == received)
    assert call.wire.received.endswith(PIECE * (taken // len(PIECE) + 2))


async def test_slow_client_pauses_the_download(gate: StartGate, upstream: Upstream) -> None:
    client = await (await gate()).send(get("/v1/files/f-1/content"))
    call = await upstream.call()
    call.send(response_head(f"Content-Length: {3 * BUFFERED_LIMIT}", "Content-Type: audio/mpeg"))
    await client.head()
    client.wire.pause_reading()
    taken = await send_until_stalled(call.wire, PIECE, limit=2 * BUFFERED_LIMIT)
    assert taken < BUFFERED_LIMIT
    client.wire.resume_reading()
    sent = PIECE * (taken // len(PIECE) + 1)
    await until(lambda: client.wire.received.endswith(sent))


# Uploads.


async def test_end_that_the_parser_held_back_arrives(gate: StartGate, upstream: Upstream) -> None:
    """Enough small chunks at once pause the reading."""
    running = await gate(MAX_BUFFERED_BODY=0)
    number = INITIAL_READ_BUFFER // 16 + 1
    for size in range(number - 3, number + 3):
        client = await running.send(
            request("POST", "/v1/files", MULTIPART, "Transfer-Encoding: chunked")
        )
        client.send(chunk(b"x") * size)
        call = await upstream.call()
        await call.expect_body(b"x" * size)
        client.send(chunk(b"a"), LAST_CHUNK)
        assert await call.read_rest() == b"a"
        await call.respond(response())
        assert (await client.response()).status == 200


@pytest.mark.parametrize("expects", [False, True], ids=["sent at once", "100-continue"])
async def test_form_arrives_byte_for_byte(
    gate: StartGate, upstream: Upstream, expects: bool
) -> None:
    lines = [MULTIPART, *(["Expect: 100-continue"] if expects else [])]
    client = await (await gate()).send(
        request("POST", "/v1/files", *lines, f"Content-Length: {len(FORM)}")
    )
    if expects:
        assert (await client.head()).raw == CONTINUE
    client.send(FORM)
    call = await upstream.call()
    assert await call.read_rest() == FORM
    assert call.head["content-length"] == str(len(FORM))
    assert call.head["content-type"] == MULTIPART.removeprefix("Content-Type: ")
    await call.respond(response())
    assert (await client.response()).status == 200


@pytest.mark.parametrize("expects", [False, True], ids=["sent at once", "100-continue"])
async def test_queued_upload_arrives_complete(
    gate: StartGate, upstream: Upstream, expects: bool
) -> None:
    """Whether its start has been read ahead or the client still waits for a 100."""
    running = await gate(CONCURRENCY_LIMIT=1, MAX_BUFFERED_BODY=1000)
    first = await running.send(get("/v1/holder"))
    holder = await upstream.call()
    lines = [MULTIPART, *(["Expect: 100-continue"] if expects else [])]
    body = PIECE * 8
    head = request("POST", "/v1/files", *lines, f"Content-Length: {len(body)}")
    client = await running.send(head, b"" if expects else body)
    await running.wait_until(waiters=1, held_bytes=0 if expects else 512 << 10)
    await holder.respond(response())
    await first.response()
    if expects:
        assert (await client.head()).raw == CONTINUE
        client.send(body)
    call = await upstream.call()
    assert await call.read_rest() == body
    assert running.snapshot()["held_bytes"] == 0
    await call.respond(response())
    assert (await client.response()).status == 200


async def test_body_beyond_queue_bytes_stays_in_its_socket(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(CONCURRENCY_LIMIT=1, QUEUE_BYTES=1000)
    first = await running.send(get("/v1/holder"))
    holder = await upstream.call()
    held = await running.send(post(b"1" * 900))
    await running.wait_until(waiters=1, held_bytes=900)
    bodies = [b"2" * 200, b"3" * 100_000]
    waiting = []
    for number, body in enumerate(bodies, 2):
        waiting.append(await running.send(post(body)))
        await running.wait_until(waiters=number, held_bytes=900)
    await holder.respond(response())
    await first.response()
    for client, body in zip([held, *waiting], [b"1" * 900, *bodies], strict=True):
        call = await upstream.call()
        assert await call.read_rest() == body
        await call.respond(response())
        assert (await client.response()).status == 200


async def test_upload_that_grows_too_large_is_refused_while_it_is_sent(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(MAX_BODY_SIZE=MEGABYTE, MAX_BUFFERED_BODY=0)
    client = await running.send(START_CHUNKED, chunk(b"x" * 1000))
    call = await upstream.call()
    await call.expect_body(b"x" * 1000)
    client.send(*[chunk(PIECE)] * 64)
    got = await client.response()
    assert (got.status, got.reason) == (413, "body_too_large")
    assert got.head["connection"] == "close"
    await call.ended()
    assert not call.wire.received.endswith(LAST_CHUNK)


async def test_response_in_the_middle_of_an_upload_survives_a_reset(
    gate_process: StartGateProcess, upstream: Upstream
) -> None:
    """Upstream closes with unread data, which resets the connection while the gate writes."""
    gate = await gate_process()
    body = b"x" * (4 * MEGABYTE)
    for _ in range(20):
        client = await gate.connect()
        client.send(post(body))
        call = await upstream.call()
        call.send(response(b"{}", status="413 Too Large"))
        call.wire.end_at_once("reset")
        got = await client.response()
        assert (got.status, got.reason) == (413, None)
        client.disconnect()


async def test_broken_upload_does_not_affect_another(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(MAX_BUFFERED_BODY=0)
    intact = await running.send(START_CHUNKED, chunk(FORM[:1000]))
    call = await upstream.call()
    await call.expect_body(FORM[:1000])
    for ending in (b"", b"zz\r\n", b"5\r\n123"):
        await break_upload(running, upstream, ending)
        intact.send(chunk(FORM[1000:2000]))
        await call.expect_body(FORM[1000:2000])
    intact.send(chunk(FORM[2000:]), LAST_CHUNK)
    assert await call.read_rest() == FORM[2000:]
    await call.respond(response())
    assert (await intact.response()).status == 200


async def break_upload(running: Gate, upstream: Upstream, ending: bytes) -> None:
    """An upload with such an end; upstream never sees a complete body."""
    client = await running.send(START_CHUNKED, chunk(FORM[:1000]))
    call = await upstream.call()
    await call.expect_body(FORM[:1000])
    client.send(ending)
    if ending == b"zz\r\n":
        assert (await client.response()).status == 400
    else:
        client.disconnect()
    await call.ended()
    assert not call.wire.received.endswith(LAST_CHUNK)


# Downloads.

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 400

RANGES = "multipart/byteranges; boundary=THIS_STRING_SEPARATES"
TWO_RANGES = (
    b"\r\n--THIS_STRING_SEPARATES\r\nContent-Range: bytes 0-1/9\r\n\r\n\x00\xff"
    b"\r\n--THIS_STRING_SEPARATES\r\nContent-Range: bytes 7-8/9\r\n\r\n\r\n"
    b"\r\n--THIS_STRING_SEPARATES--\r\n"
)

RESPONSES = {
    "file": ("200 OK", ["Content-Type: application/octet-stream"], PICTURE),
    "picture": ("200 OK", ["Content-Type: image/png", "Accept-Ranges: bytes"], PICTURE),
    "range": (
        "206 Partial Content",
        ["Content-Type: image/png", "Content-Range: bytes 8-107/102408"],
        PICTURE[8:108],
    ),
    "ranges": ("206 Partial Content", [f"Content-Type: {RANGES}"], TWO_RANGES),
    "no such range": (
        "416 Range Not Satisfiable",
        ["Content-Range: bytes */102408", "Content-Type: application/json"],
        b'{"error": {}}',
    ),
    "compressed": (
        "200 OK",
        ["Content-Encoding: gzip", "Content-Type: text/csv"],
        b"\x1f\x8b\x08x",
    ),
    "empty": ("200 OK", ["Content-Type: audio/mpeg"], b""),
}
ADDED = {
    "x-rustygate-id", "x-rustygate-queued-ms", "x-rustygate-attempts", "server-timing", "date",
}  # fmt: skip


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize(("status", "lines", "body"), RESPONSES.values(), ids=RESPONSES)
async def test_binary_response_arrives_byte_for_byte(
    gate: StartGate, upstream: Upstream, status: str, lines: list[str], body: bytes, chunked: bool
) -> None:
    client = await (await gate()).send(get("/v1/files/f-1/content", "Range: bytes=8-107"))
    call = await upstream.call()
    assert call.head["range"] == "bytes=8-107"
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    call.send(response_head(*lines, framing, status=status))
    for at in range(0, len(body), 40_000):
        call.send(chunk(body[at : at + 40_000]) if chunked else body[at : at + 40_000])
    call.send(LAST_CHUNK if chunked else b"")
    got = await client.response()
    assert (got.head.start, got.body) == (f"HTTP/1.1 {status}", body)
    passed = [line for line in got.head.fields if line[0] not in ADDED]
    sent = [tuple(line.lower().split(": ", 1)) for line in [*lines, framing]]
    assert sorted((name, value.lower()) for name, value in passed) == sorted(sent)


async def test_speech_passes_as_it_is_generated(gate: StartGate, upstream: Upstream) -> None:
    client = await (await gate()).send(post(target="/v1/audio/speech"))
    call = await upstream.call()
    call.send(response_head("Transfer-Encoding: chunked", "Content-Type: audio/mpeg"))
    for number in range(5):
        piece = b"\xff\xfb\n\n" + bytes([number]) * 400
        call.send(chunk(piece))
        if not number:
            assert (await client.head())["content-type"] == "audio/mpeg"
        await client.expect_body(piece)
    call.send(LAST_CHUNK)
    assert await client.read_rest() == b""


@pytest.mark.parametrize(
    "lines",
    [
        [f"Content-Length: {1 << 40}", "Accept-Ranges: bytes", "Content-Type: image/png"],
        ["Content-Length: 100", "Content-Encoding: gzip", "Content-Range: bytes 0-99/200"],
    ],
    ids=["large", "encoded range"],
)
async def test_head_response_keeps_the_content_length(
    gate: StartGate, upstream: Upstream, lines: list[str]
) -> None:
    client = await (await gate()).connect()
    upstream.reply = response_head(*lines)
    for _ in range(2):
        got = await client.request(request("HEAD", "/v1/files/f-1/content"))
        assert set(lines) <= set(got.head.lines)
