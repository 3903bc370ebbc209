"""Failures of upstream: which are retried, which are not, and how clients see them."""

import pytest

from rustygate import retry
from tests.conftest import StartGate
from tests.support.attempts import (
    EARLY_HINTS,
    MULTIPART,
    close_or_reset,
    disconnect,
    expect_failure,
    expect_success,
    fail_all,
    fill_pool,
    with_streamed_bodies,
)
from tests.support.gate import Gate
from tests.support.http import (
    CONTINUE,
    LAST_CHUNK,
    chat,
    chunk,
    get,
    request,
    response,
    response_head,
)
from tests.support.upstream import Upstream
from tests.support.waiting import in_background, until

# A short timeout, within which a busy machine can still serve a request.
SHORT_S = 0.5


async def wait_for_retry_pause(running: Gate) -> None:
    """Wait until an exchange with a buffered body is between two attempts."""
    await until(lambda: running.snapshot()["in_flight"] == 0 < running.snapshot()["held_bytes"])


# Disconnects before a response.


@pytest.mark.parametrize(
    "sent",
    [
        get("/v1/models?x=%20", "X-Own: 1"),
        request("PUT", "/v1/x", body=b"{}"),
        request("PUT", "/v1/x", body=b"x" * (2 << 20)),
        request("PUT", "/v1/x", "Transfer-Encoding: chunked") + chunk(b"{}") + LAST_CHUNK,
        request("DELETE", "/v1/files/x"),
        request("PUT", "/v1/x", body=b""),
    ],
    ids=["GET", "PUT", "2 MiB", "chunked", "DELETE", "empty"],
)
async def test_retry_sends_the_same_bytes(
    gate: StartGate, upstream: Upstream, sent: bytes
) -> None:
    running = await gate()
    client = await running.send(sent)
    await disconnect(upstream, "reset")
    call = await upstream.call()
    await call.respond(response(b"whole"))
    assert (await expect_success(running, client, 2)).body == b"whole"
    first, second = upstream.wires
    assert first.received == second.received


async def test_disconnect_within_a_buffered_body_is_retried(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate()
    body = b"x" * (4 << 20)
    client = await running.send(request("PUT", "/v1/x", body=body))
    (await upstream.call()).reset()
    call = await upstream.call()
    assert await call.read_rest() == body
    await call.respond(response())
    await expect_success(running, client, 2)


@close_or_reset
@with_streamed_bodies
async def test_disconnect_is_not_retried_for_a_streamed_body(
    gate: StartGate, upstream: Upstream, sent: bytes, settings: dict[str, object], how: str
) -> None:
    running = await gate(**settings)
    client = await running.send(sent)
    await disconnect(upstream, how)
    await expect_failure(running, client, "upstream_disconnected", 1)
    assert len(upstream.calls) == 1


@close_or_reset
@pytest.mark.parametrize(
    "partial",
    [
        b"H",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        CONTINUE,
        EARLY_HINTS,
        EARLY_HINTS + b"HTTP/1.1 200",
    ],
    ids=lambda partial: repr(partial[:40]),
)
@pytest.mark.parametrize("sent", [chat(), get()], ids=["chat", "GET"])
async def test_disconnect_after_a_response_started_is_not_retried(
    gate: StartGate, upstream: Upstream, sent: bytes, partial: bytes, how: str
) -> None:
    running = await gate()
    client = await running.send(sent)
    await disconnect(upstream, how, partial)
    await expect_failure(running, client, "upstream_disconnected", 1)
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
    "unrequested upgrade": response_head(
        "Upgrade: x", "Connection: Upgrade", status="101 Switching Protocols"
    ),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
async def test_invalid_response_is_a_failure_and_not_retried(
    gate: StartGate, upstream: Upstream, garbage: bytes
) -> None:
    running = await gate()
    client = await running.send(chat())
    call = await upstream.call()
    call.send(garbage)
    await expect_failure(running, client, "upstream_disconnected", 1)
    await call.ended()
    assert len(upstream.calls) == 1


async def test_failure_for_an_unrequested_upgrade_says_so(
    gate: StartGate, upstream: Upstream
) -> None:
    upstream.reply = GARBAGE["unrequested upgrade"]
    got = await (await gate()).request(chat())
    assert got.json["error"]["message"] == (
        "Upstream switched protocols, but the request did not ask for that."
    )
    assert "x-should-retry" not in got.head


# Silence.


@pytest.mark.parametrize("partial", [b"", b"HTTP/1.1 200 OK\r\n"], ids=["nothing", "partial head"])
@pytest.mark.parametrize("pooled", [False, True], ids=["new", "pooled"])
async def test_silent_upstream_times_out_and_is_not_retried(
    gate: StartGate, upstream: Upstream, partial: bytes, pooled: bool
) -> None:
    running = await gate(UPSTREAM_READ_TIMEOUT=SHORT_S)
    before = len(await fill_pool(running, upstream)) if pooled else 0
    client = await running.send(chat())
    call = await upstream.call()
    call.send(partial)
    got = await expect_failure(running, client, "upstream_timeout", 1, before + 1)
    assert f"{SHORT_S} s" in got.error["message"]
    await call.ended()
    assert len(upstream.calls) == before + 1


@pytest.mark.parametrize("interim", [CONTINUE, EARLY_HINTS], ids=["100", "103"])
async def test_silence_after_an_interim_response_times_out(
    gate: StartGate, upstream: Upstream, interim: bytes
) -> None:
    running = await gate(UPSTREAM_READ_TIMEOUT=SHORT_S)
    client = await running.send(chat())
    call = await upstream.call()
    await call.read_rest()
    call.send(interim)
    await expect_failure(running, client, "upstream_timeout", 1)


@pytest.mark.parametrize("interim", [b"", CONTINUE], ids=["none", "100"])
async def test_slow_upload_is_not_taken_for_upstream_silence(
    gate: StartGate, upstream: Upstream, interim: bytes
) -> None:
    """The upload takes longer than another exchange, which times out."""
    running = await gate(UPSTREAM_READ_TIMEOUT=SHORT_S, MAX_BUFFERED_BODY=0)
    client = await running.send(request("POST", "/v1/files", MULTIPART, "Content-Length: 12"))
    client.send(b"first.")
    call = await upstream.call()
    await call.expect_body(b"first.")
    call.send(interim)
    assert (await running.request(get())).status == 504
    client.send(b"second")
    await call.respond(response())
    await expect_success(running, client, 1, 2)


@pytest.mark.parametrize(
    "previous_response",
    [response(), EARLY_HINTS + response()],
    ids=["final", "after an interim one"],
)
@pytest.mark.parametrize("late", [b"", b"\r\n"], ids=["", "empty line"])
async def test_slow_upload_on_a_pooled_connection_is_not_taken_for_upstream_silence(
    gate: StartGate, upstream: Upstream, previous_response: bytes, late: bytes
) -> None:
    """The end of the previous response must not restart the clock. The upload takes longer than
    another exchange, which times out."""
    running = await gate(UPSTREAM_READ_TIMEOUT=SHORT_S, MAX_BUFFERED_BODY=0)
    client = await running.send(get())
    call = await upstream.call()
    await call.respond(previous_response)
    await client.response()
    call.send(late)
    client.send(request("POST", "/v1/files", MULTIPART, "Content-Length: 12"), b"first.")
    call = await upstream.call()
    await call.expect_body(b"first.")
    assert (await running.request(get())).status == 504
    client.send(b"second")
    await call.respond(response())
    await expect_success(running, client, 1, 3)


# Between two attempts.


async def test_no_attempt_starts_after_the_deadline(gate: StartGate, upstream: Upstream) -> None:
    """The pauses double from a tenth of a second, so the third would end after 0.7 s."""
    running = await gate(UPSTREAM_RETRIES=100, RATE_LIMIT_TIMEOUT=0.5)
    client = await running.send(get())
    async with in_background(fail_all(upstream, "reset")):
        got = await client.response()
    assert (got.status, got.reason) == (502, "upstream_disconnected")
    # A gate on a busy machine may make fewer attempts.
    assert len(upstream.calls) == int(got.head["x-rustygate-attempts"]) <= 3


async def test_failure_is_reported_when_a_retry_cannot_be_admitted_in_time(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(RATE_LIMIT=0.001, RATE_LIMIT_BURST=1)
    client = await running.send(get())
    await disconnect(upstream, "reset")
    await expect_failure(running, client, "upstream_disconnected", 1)
    assert len(upstream.calls) == 1


@pytest.mark.parametrize(
    "head",
    ["Content-Length: 900000", "Transfer-Encoding: chunked", "X-Length: none"],
    ids=["length", "chunked", "until the end"],
)
async def test_long_429_passes_whole_and_is_not_retried(
    gate: StartGate, upstream: Upstream, head: str
) -> None:
    """Only an error that was read whole is followed by another attempt."""
    running = await gate()
    client = await running.send(chat())
    call = await upstream.call()
    body = b"x" * 900_000
    sent = chunk(body) + LAST_CHUNK if "chunked" in head else body
    call.send(response_head(head, "Retry-After: 1", status="429 Too Many Requests"), sent)
    if "none" in head:
        call.close()
    got = await client.response()
    assert (got.status, got.body) == (429, body)
    assert len(upstream.calls) == 1


async def test_429_that_arrives_in_parts_is_judged_as_a_whole(
    gate: StartGate, upstream: Upstream
) -> None:
    """Its end says that no retry will help."""
    running = await gate()
    client = await running.send(chat())
    call = await upstream.call()
    body = b'{"error": {"message": "%b", "code": "insufficient_quota"}}' % (b"x" * 60_000)
    lines = f"Content-Length: {len(body)}", "Retry-After-Ms: 1"
    call.send(response_head(*lines, status="429 Too Many Requests"), body[:100])
    # By the time another request is served, the first part has been read.
    await running.request(get("/health"))
    await call.respond(body[100:])
    got = await client.response()
    assert (got.status, got.body, len(upstream.calls)) == (429, body, 1)


async def test_no_retry_after_the_client_disconnected(
    gate: StartGate, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The client is to leave within the pause, on a busy machine, too.
    monkeypatch.setattr(retry, "RETRY_PAUSE_S", 20.0)
    running = await gate()
    client = await running.send(request("PUT", "/v1/x", body=b"{}"))
    await disconnect(upstream, "reset")
    await wait_for_retry_pause(running)
    client.disconnect()
    [line] = await running.settled()
    assert (line["outcome"], line["attempts"]) == ("client_left", 1)
    assert len(upstream.calls) == 1


# Errors of upstream itself.


@pytest.mark.parametrize(
    "status",
    [
        "500 Internal Server Error",
        "502 Bad Gateway",
        "503 Service Unavailable",
        "504 Gateway Timeout",
    ],
)
async def test_server_error_is_passed_on_at_the_first_attempt(
    gate: StartGate, upstream: Upstream, status: str
) -> None:
    running = await gate()
    upstream.reply = response(b'{"error": {"message": "own"}}', status=status)
    got = await running.request(chat())
    assert (got.head.start, got.reason) == (f"HTTP/1.1 {status}", None)
    assert (got.error, got.head["x-rustygate-attempts"]) == ({"message": "own"}, "1")
    [line] = await running.settled()
    assert (line["outcome"], line["status"]) == ("upstream_error", got.status)
    assert len(upstream.calls) == 1
