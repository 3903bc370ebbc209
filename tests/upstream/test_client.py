"""Upstreams that fail: what is tried again, what is not, and what clients are told."""

import asyncio
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from tests.conftest import StartGate
from tests.support.client import Client
from tests.support.gate import Gate
from tests.support.http import (
    CHAT,
    CONTINUE,
    LAST_CHUNK,
    Response,
    chat,
    chunk,
    get,
    post,
    request,
    response,
    response_head,
)
from tests.support.upstream import Call, Upstream, loopback_socket, url_of
from tests.support.waiting import until

# Silence that is too long.
SHORT = 0.2

EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
MULTIPART = "Content-Type: multipart/form-data; boundary=x"

# Requests whose body is not held, so that it can be sent only once, with the settings for that.
STREAMED = {
    "multipart": (request("POST", "/v1/files", MULTIPART, body=b"--x--"), {}),
    "large": (chat(), {"MAX_BUFFERED_BODY": 10}),
    "chunked and large": (
        request("POST", CHAT, "Transfer-Encoding: chunked") + chunk(bytes(1 << 20)) + LAST_CHUNK,
        {"MAX_BUFFERED_BODY": 10},
    ),
    "no room": (chat(), {"QUEUE_BYTES": 0}),
}
a_streamed_body = pytest.mark.parametrize(("sent", "settings"), STREAMED.values(), ids=STREAMED)
either_end = pytest.mark.parametrize("how", ["close", "reset"])


@pytest.fixture
async def absent(_no_task_is_left: None) -> AsyncIterator[Upstream]:
    """An upstream that refuses connections until a test starts it."""
    upstream = Upstream()
    yield upstream
    await upstream.stop()


async def broken(upstream: Upstream, how: str, *sent: bytes) -> Call:
    """Upstream reads a request, sends some bytes or none, and ends the connection."""
    call = await upstream.call()
    await call.read_rest()
    call.send(*sent)
    call.close() if how == "close" else call.reset()
    return call


async def pausing(running: Gate) -> None:
    """Wait until an exchange, whose body is held, is between two attempts."""
    await until(lambda: running.snapshot()["in_flight"] == 0 < running.snapshot()["held_bytes"])


async def served(running: Gate, client: Client, attempts: int, lines: int = 1) -> Response:
    """Upstream's answer, after so many attempts by the header and by the last of the lines."""
    got = await client.response()
    assert (got.status, got.reason) == (200, None)
    assert got.head["x-rustygate-attempts"] == str(attempts)
    line = (await running.settled(lines))[-1]
    assert (line["outcome"], line["attempts"]) == ("ok", attempts)
    return got


async def failed(
    running: Gate, client: Client, reason: str, attempts: int, lines: int = 1
) -> Response:
    """The gate's own answer, after so many attempts by the header and by the last line."""
    got = await client.response()
    assert (got.status, got.reason) == (504 if reason == "upstream_timeout" else 502, reason)
    assert got.head["x-rustygate-attempts"] == str(attempts)
    line = (await running.settled(lines))[-1]
    assert (line["outcome"], line["attempts"]) == ("upstream_error", attempts)
    assert (line["status"], line["reason"]) == (got.status, reason)
    return got


async def reusable(running: Gate, upstream: Upstream, count: int = 1) -> list[Call]:
    """So many connections that have served a request each and are kept for the next."""
    clients = [await running.send(get()) for _ in range(count)]
    calls = [await upstream.call() for _ in clients]
    for client, call in zip(clients, calls, strict=True):
        await call.respond(response())
        assert (await client.response()).status == 200
    return calls


# Connecting.


@asynccontextmanager
async def nobody() -> AsyncIterator[str]:
    """An address where nobody listens."""
    with loopback_socket() as unheard:
        yield url_of(unheard)


@asynccontextmanager
async def full_backlog() -> AsyncIterator[str]:
    """A listener that accepts nobody and has room for one that waits."""
    with loopback_socket() as listener:
        listener.listen(0)
        with socket.create_connection(listener.getsockname()):
            yield url_of(listener)


@asynccontextmanager
async def unknown_name() -> AsyncIterator[str]:
    """A host name that never resolves (RFC 6761, 6.4)."""
    yield "http://upstream.invalid/v1"


@asynccontextmanager
async def no_tls() -> AsyncIterator[str]:
    """An upstream that answers a TLS handshake in plain HTTP."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(response(status="400 Bad Request"))
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        yield url_of(server.sockets[0]).replace("http:", "https:")


@pytest.mark.parametrize(
    ("somewhere", "settings", "message"),
    [
        (nobody, {}, "connection refused"),
        (full_backlog, {"UPSTREAM_CONNECT_TIMEOUT": SHORT}, rf"within {SHORT} s"),
        (unknown_name, {}, "name does not resolve"),
        (no_tls, {}, "TLS failed: wrong version number"),
    ],
    ids=["refused", "time-out", "unknown name", "no TLS"],
)
async def test_connection_that_cannot_be_made_is_tried_again_and_given_up(
    gate: StartGate,
    somewhere: Callable[[], AbstractAsyncContextManager[str]],
    settings: dict[str, object],
    message: str,
) -> None:
    async with somewhere() as url:
        running = await gate(OPENAI_BASE_URL=url, UPSTREAM_RETRIES=1, **settings)
        client = await running.send(chat())
        got = await failed(running, client, "upstream_unreachable", 2)
    assert re.search(message, got.error["message"])


@pytest.fixture
def self_signed(tmp_path: Path) -> ssl.SSLContext:
    """A server's context with a certificate that nobody trusts."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = f"req -x509 -newkey rsa:2048 -nodes -subj /CN=x -keyout {key} -out {certificate}"
    subprocess.run([openssl, *made.split()], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return context


async def test_certificate_that_is_not_trusted_is_no_connection(
    gate: StartGate, self_signed: ssl.SSLContext
) -> None:
    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise AssertionError("the gate trusts anybody")

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=self_signed) as server:
        url = url_of(server.sockets[0]).replace("http:", "https:")
        running = await gate(OPENAI_BASE_URL=url, UPSTREAM_RETRIES=0)
        client = await running.send(chat())
        got = await failed(running, client, "upstream_unreachable", 1)
    assert "TLS failed: certificate verify failed" in got.error["message"]


@pytest.mark.parametrize(
    "settings",
    [{}, {"CONCURRENCY_LIMIT": 1}, {"RATE_LIMIT": 0.001, "RATE_LIMIT_BURST": 1}],
    ids=["", "its slot is free", "its unit was given back"],
)
async def test_refused_connection_is_made_once_upstream_listens(
    absent: Upstream, gate: StartGate, settings: dict[str, object]
) -> None:
    running = await gate(OPENAI_BASE_URL=absent.url, UPSTREAM_RETRIES=1, **settings)
    client = await running.send(chat())
    await pausing(running)
    absent.reply = response(b"there")
    await absent.start()
    assert (await served(running, client, 2)).body == b"there"


@a_streamed_body
async def test_refused_connection_is_not_tried_again_for_a_streamed_body(
    absent: Upstream, gate: StartGate, sent: bytes, settings: dict[str, object]
) -> None:
    running = await gate(OPENAI_BASE_URL=absent.url, **settings)
    await failed(running, await running.send(sent), "upstream_unreachable", 1)


@pytest.mark.parametrize(
    "budget",
    [{"RATE_LIMIT": 0.001, "RATE_LIMIT_BURST": 1}, {"TOKENS_PER_MINUTE": 10}],
    ids=["requests", "tokens"],
)
async def test_client_that_leaves_while_upstream_connects_has_spent_nothing(
    gate: StartGate, budget: dict[str, object]
) -> None:
    """The next one finds the budget full: it is in flight at once, and not refused."""
    async with full_backlog() as url:
        running = await gate(OPENAI_BASE_URL=url, RATE_LIMIT_TIMEOUT=2, **budget)
        first = await running.send(chat())
        await running.wait_until(in_flight=1)
        first.disconnect()
        await running.wait_until(in_flight=0)
        second = await running.send(chat())
        refusal = asyncio.create_task(second.response())
        await running.wait_until(in_flight=1, waiters=0)
        assert not refusal.done()
        refusal.cancel()


# Breaks before an answer.


@either_end
@pytest.mark.parametrize("retries", [0, 1, 2])
async def test_break_before_an_answer_is_tried_again_and_given_up(
    gate: StartGate, upstream: Upstream, how: str, retries: int
) -> None:
    running = await gate(UPSTREAM_RETRIES=retries)
    client = await running.send(chat())
    for _ in range(retries + 1):
        await broken(upstream, how)
    await failed(running, client, "upstream_disconnected", retries + 1)
    assert len(upstream.calls) == retries + 1


@pytest.mark.parametrize(
    "sent",
    [
        get("/v1/models?x=%20", "X-Own: 1"),
        chat(),
        post(b"x" * (2 << 20)),
        request("POST", CHAT, "Transfer-Encoding: chunked") + chunk(b"{}") + LAST_CHUNK,
        request("DELETE", "/v1/files/x"),
        post(b""),
    ],
    ids=["GET", "chat", "2 MiB", "chunked", "DELETE", "empty"],
)
async def test_same_bytes_are_sent_again(gate: StartGate, upstream: Upstream, sent: bytes) -> None:
    running = await gate()
    client = await running.send(sent)
    await broken(upstream, "reset")
    call = await upstream.call()
    await call.respond(response(b"whole"))
    assert (await served(running, client, 2)).body == b"whole"
    first, second = upstream.wires
    assert first.received == second.received


async def test_break_in_the_middle_of_a_held_body_is_tried_again(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate()
    body = b"x" * (4 << 20)
    client = await running.send(post(body))
    (await upstream.call()).reset()
    call = await upstream.call()
    assert await call.read_rest() == body
    await call.respond(response())
    await served(running, client, 2)


@either_end
@a_streamed_body
async def test_break_is_not_tried_again_for_a_streamed_body(
    gate: StartGate, upstream: Upstream, sent: bytes, settings: dict[str, object], how: str
) -> None:
    running = await gate(**settings)
    client = await running.send(sent)
    await broken(upstream, how)
    await failed(running, client, "upstream_disconnected", 1)
    assert len(upstream.calls) == 1


@either_end
@pytest.mark.parametrize(
    "begun",
    [
        b"H",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        CONTINUE,
        EARLY_HINTS,
        EARLY_HINTS + b"HTTP/1.1 200",
    ],
    ids=lambda begun: repr(begun[:40]),
)
async def test_break_of_an_answer_that_had_begun_is_not_tried_again(
    gate: StartGate, upstream: Upstream, begun: bytes, how: str
) -> None:
    running = await gate()
    client = await running.send(chat())
    await broken(upstream, how, begun)
    await failed(running, client, "upstream_disconnected", 1)
    assert len(upstream.calls) == 1


GARBAGE = {
    "a word": b"nonsense\r\n\r\n",
    "HTML": b"<html>\r\n<body>",
    "zeros": b"\x00" * 100,
    "TLS": b"\x16\x03\x01\x02\x00\x01",
    "HTTP/2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
    "HTTP/2 as text": response().replace(b"HTTP/1.1", b"HTTP/2"),
    "no status": response(status="OK OK"),
    "no header": response_head("no colon"),
    "no length": response_head("Content-Length: x"),
    "two lengths": response_head("Content-Length: 1", "Content-Length: 2"),
    "length and chunks": response_head("Content-Length: 1", "Transfer-Encoding: chunked"),
    "endless header": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
    "too many headers": response_head(*["X: x"] * 1000),
    "switched unasked": response_head(
        "Upgrade: x", "Connection: Upgrade", status="101 Switching Protocols"
    ),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
async def test_what_is_no_answer_is_a_failure_and_not_tried_again(
    gate: StartGate, upstream: Upstream, garbage: bytes
) -> None:
    running = await gate()
    client = await running.send(chat())
    call = await upstream.call()
    call.send(garbage)
    await failed(running, client, "upstream_disconnected", 1)
    await call.ended()
    assert len(upstream.calls) == 1


# Silence.


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\n"], ids=["nothing", "half a head"])
@pytest.mark.parametrize("kept", [False, True], ids=["new", "kept"])
async def test_silence_is_a_time_out_and_not_tried_again(
    gate: StartGate, upstream: Upstream, begun: bytes, kept: bool
) -> None:
    running = await gate(UPSTREAM_READ_TIMEOUT=SHORT)
    before = len(await reusable(running, upstream)) if kept else 0
    client = await running.send(chat())
    call = await upstream.call()
    call.send(begun)
    got = await failed(running, client, "upstream_timeout", 1, before + 1)
    assert f"{SHORT} s" in got.error["message"]
    await call.ended()
    assert len(upstream.calls) == before + 1


@pytest.mark.parametrize("interim", [CONTINUE, EARLY_HINTS], ids=["100", "103"])
async def test_silence_after_an_interim_answer_is_a_time_out(
    gate: StartGate, upstream: Upstream, interim: bytes
) -> None:
    running = await gate(UPSTREAM_READ_TIMEOUT=SHORT)
    client = await running.send(chat())
    call = await upstream.call()
    await call.read_rest()
    call.send(interim)
    await failed(running, client, "upstream_timeout", 1)


@pytest.mark.parametrize("interim", [b"", CONTINUE], ids=["", "asked to go on"])
async def test_slow_upload_is_no_silence_of_upstream(
    gate: StartGate, upstream: Upstream, interim: bytes
) -> None:
    """It takes longer than another exchange, which times out."""
    running = await gate(UPSTREAM_READ_TIMEOUT=SHORT)
    client = await running.send(request("POST", "/v1/files", MULTIPART, "Content-Length: 12"))
    client.send(b"first.")
    call = await upstream.call()
    await call.expect_body(b"first.")
    call.send(interim)
    assert (await running.request(get())).status == 504
    client.send(b"second")
    await call.respond(response())
    await served(running, client, 1, 2)


@pytest.mark.parametrize("kept_by", [response(), EARLY_HINTS + response()], ids=["", "interim"])
@pytest.mark.parametrize("late", [b"", b"\r\n"], ids=["", "empty line"])
async def test_slow_upload_over_a_kept_connection_is_no_silence_of_upstream(
    gate: StartGate, upstream: Upstream, kept_by: bytes, late: bytes
) -> None:
    """Whatever the connection's last answer ended with. It takes longer than another exchange,
    which times out."""
    running = await gate(UPSTREAM_READ_TIMEOUT=SHORT)
    client = await running.send(get())
    call = await upstream.call()
    await call.respond(kept_by)
    await client.response()
    call.send(late)
    client.send(request("POST", "/v1/files", MULTIPART, "Content-Length: 12"), b"first.")
    call = await upstream.call()
    await call.expect_body(b"first.")
    assert (await running.request(get())).status == 504
    client.send(b"second")
    await call.respond(response())
    await served(running, client, 1, 3)


# Between two attempts.


async def test_no_attempt_begins_after_the_deadline(gate: StartGate) -> None:
    """The pauses double from a tenth of a second: the third would end after 0.7 s."""
    async with nobody() as url:
        running = await gate(OPENAI_BASE_URL=url, UPSTREAM_RETRIES=100, RATE_LIMIT_TIMEOUT=0.5)
        await failed(running, await running.send(chat()), "upstream_unreachable", 3)


async def test_failure_is_told_when_a_retry_would_not_be_admitted_in_time(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(RATE_LIMIT=0.001, RATE_LIMIT_BURST=1)
    client = await running.send(chat())
    await broken(upstream, "reset")
    await failed(running, client, "upstream_disconnected", 1)
    assert len(upstream.calls) == 1


@pytest.mark.parametrize(
    "head",
    ["Content-Length: 900000", "Transfer-Encoding: chunked", "X-Length: none"],
    ids=["length", "chunked", "until the end"],
)
async def test_answer_given_up_for_a_retry_that_never_came_is_no_whole_one(
    gate: StartGate, upstream: Upstream, head: str
) -> None:
    """Of a long one only the beginning was read: it is passed on, and cut."""
    running = await gate()
    client = await running.send(chat("x-stainless-read-timeout: 2"))
    call = await upstream.call()
    await running.send(chat())
    other = await upstream.call()
    body = b"x" * 900_000
    if "chunked" in head:
        body = chunk(body) + LAST_CHUNK
    for each, pause_s in (call, 1), (other, 60):
        lines = (head, f"Retry-After: {pause_s}")
        each.send(response_head(*lines, status="429 Too Many Requests"), body)
        await running.wait_until(waiters=1)
    assert (await client.head()).status == 429
    assert 0 < len(await client.read_until_cut()) < 900_000


async def test_nothing_more_is_sent_for_a_client_that_left(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate()
    client = await running.send(chat())
    await broken(upstream, "reset")
    await pausing(running)
    client.disconnect()
    [line] = await running.settled()
    assert (line["outcome"], line["attempts"]) == ("client_left", 1)
    assert len(upstream.calls) == 1


# Connections that were kept.


@either_end
@pytest.mark.parametrize(
    "sent", [get(), chat(), request("DELETE", "/v1/x")], ids=["GET", "chat", "DELETE"]
)
async def test_break_of_a_kept_connection_is_tried_again_at_once_and_not_counted(
    gate: StartGate, upstream: Upstream, sent: bytes, how: str
) -> None:
    running = await gate(UPSTREAM_RETRIES=0)
    kept = {call.wire for call in await reusable(running, upstream, 2)}
    client = await running.send(sent)
    stale = await broken(upstream, how)
    assert stale.wire in kept
    fresh = await upstream.call()
    assert fresh.wire not in kept
    await fresh.respond(response(b"fresh"))
    assert (await served(running, client, 1, 3)).body == b"fresh"


async def test_all_kept_connections_may_be_stale(gate: StartGate, upstream: Upstream) -> None:
    running = await gate(UPSTREAM_RETRIES=0)
    kept = {call.wire for call in await reusable(running, upstream, 3)}
    clients = [await running.send(chat()) for _ in kept]
    stale = [await upstream.call() for _ in kept]
    assert {call.wire for call in stale} == kept
    for call in stale:
        await call.read_rest()
        call.reset()
    for _ in kept:
        await (await upstream.call()).respond(response())
    for client in clients:
        got = await client.response()
        assert (got.status, got.head["x-rustygate-attempts"]) == (200, "1")


@pytest.mark.parametrize("retries", [0, 1])
async def test_break_of_the_fresh_connection_too_counts_once(
    gate: StartGate, upstream: Upstream, retries: int
) -> None:
    running = await gate(UPSTREAM_RETRIES=retries)
    await reusable(running, upstream)
    client = await running.send(chat())
    for _ in range(2 + retries):
        await broken(upstream, "reset")
    await failed(running, client, "upstream_disconnected", 1 + retries, 2)
    assert len(upstream.calls) == 1 + 2 + retries


@either_end
async def test_answer_that_had_begun_on_a_kept_connection_is_not_tried_again(
    gate: StartGate, upstream: Upstream, how: str
) -> None:
    running = await gate()
    await reusable(running, upstream)
    client = await running.send(chat())
    await broken(upstream, how, b"HTTP/1.1 200")
    await failed(running, client, "upstream_disconnected", 1, 2)
    assert len(upstream.calls) == 2


@a_streamed_body
async def test_streamed_body_on_a_kept_connection_is_not_tried_again(
    gate: StartGate, upstream: Upstream, sent: bytes, settings: dict[str, object]
) -> None:
    running = await gate(**settings)
    await reusable(running, upstream)
    client = await running.send(sent)
    await broken(upstream, "reset")
    await failed(running, client, "upstream_disconnected", 1, 2)
    assert len(upstream.calls) == 2


async def test_connection_that_upstream_closed_is_not_used(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(UPSTREAM_RETRIES=0)
    [kept] = await reusable(running, upstream)
    kept.wire.half_close()
    await kept.ended()
    upstream.reply = response()
    await served(running, await running.send(chat()), 1, 2)
    assert (len(upstream.calls), len(upstream.wires)) == (2, 2)


late_or_not = pytest.mark.parametrize(
    "late", [False, True], ids=["with the answer", "while it was kept"]
)


async def answer_after(running: Gate, upstream: Upstream, unasked: bytes, late: bool) -> Response:
    """What comes of a request after upstream said something unasked behind the answer before, or
    when that was over."""
    client = await running.send(get())
    call = await upstream.call()
    await call.respond(response(), b"" if late else unasked)
    assert (await client.response()).status == 200
    call.send(unasked if late else b"")
    upstream.reply = response(b"asked for")
    return await running.request(chat())


@late_or_not
async def test_what_upstream_says_unasked_answers_nobody(
    gate: StartGate, upstream: Upstream, late: bool
) -> None:
    unasked = response(b"unasked", status="408 Request Timeout")
    got = await answer_after(await gate(), upstream, unasked, late)
    assert got.body == b"asked for"


@late_or_not
@pytest.mark.parametrize(
    "begun",
    [
        b"H",
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 200 OK\r\nX-Unasked: ",
        b"HTTP/1.1 200 OK\r\nX-Unasked: 1\r\n\r",
    ],
    ids=["a letter", "a status", "a name", "all but a newline"],
)
async def test_half_a_head_said_unasked_begins_no_answer(
    gate: StartGate, upstream: Upstream, begun: bytes, late: bool
) -> None:
    got = await answer_after(await gate(), upstream, begun, late)
    assert (got.head.start, got.body) == ("HTTP/1.1 200 OK", b"asked for")
    assert len(upstream.wires) == 2


async def test_empty_lines_behind_an_answer_do_not_count(
    gate: StartGate, upstream: Upstream
) -> None:
    upstream.reply = response() + b"\r\n"
    running = await gate()
    for _ in range(3):
        assert (await running.request(get())).status == 200
    assert len(upstream.wires) == 1


# What passes.


@pytest.mark.parametrize(
    "status",
    [
        "500 Internal Server Error",
        "502 Bad Gateway",
        "503 Service Unavailable",
        "504 Gateway Timeout",
    ],
)
async def test_plain_failure_of_upstream_s_own_passes_at_the_first_attempt(
    gate: StartGate, upstream: Upstream, status: str
) -> None:
    running = await gate()
    upstream.reply = response(b'{"error": {"message": "own"}}', status=status)
    got = await running.request(chat())
    assert (got.head.start, got.reason) == (f"HTTP/1.1 {status}", None)
    assert (got.error, got.head["x-rustygate-attempts"]) == ({"message": "own"}, "1")
    [line] = await running.settled()
    assert (line["outcome"], line["status"]) == ("ok", got.status)
    assert len(upstream.calls) == 1


@pytest.mark.parametrize(
    "values",
    [["x" * 60_000], ["x" * 8_000] * 7, ["x"] * 400, ["x" * 150] * 400],
    ids=["long", "several long", "many", "many and large"],
)
async def test_huge_head_passes(gate: StartGate, upstream: Upstream, values: list[str]) -> None:
    upstream.reply = response(b"{}", *[f"X-Huge: {value}" for value in values])
    got = await (await gate()).request(chat())
    assert (got.status, got.head.all("x-huge")) == (200, values)
