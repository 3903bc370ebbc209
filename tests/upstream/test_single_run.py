"""Work is never done twice: which requests are sent again after upstream closed the connection."""

import asyncio
import sys
from collections.abc import Callable

import openai
import pytest

from tests.conftest import StartGate
from tests.support.attempts import (
    EARLY_HINTS,
    close_or_reset,
    disconnect,
    end_before_request,
    expect_failure,
    expect_success,
    fail_all,
    fill_pool,
    with_streamed_bodies,
)
from tests.support.certificates import Authority
from tests.support.http import CONTINUE, Response, chat, get, post, request, response
from tests.support.upstream import Call, Upstream, tls_upstream, url_with_tls
from tests.support.waiting import in_background, soon

BATCH = post(b'{"input_file_id": "f"}', target="/v1/batches")
POSTS = {
    "chat": chat(),
    "streamed response": chat(stream=True),
    "batch": BATCH,
    "unknown type": request("POST", "/v1/x", body=b"data"),
    "empty": post(b""),
    "PATCH": request("PATCH", "/v1/x", body=b"{}"),
    "2 MiB": post(b"x" * (2 << 20)),
}
IDEMPOTENT = {
    "GET": get(),
    "HEAD": request("HEAD", "/v1/models"),
    "PUT": request("PUT", "/v1/x", body=b"{}"),
    "DELETE": request("DELETE", "/v1/files/x"),
    "OPTIONS": request("OPTIONS", "/v1/x"),
}
each_post = pytest.mark.parametrize("sent", POSTS.values(), ids=POSTS)
each_idempotent = pytest.mark.parametrize("sent", IDEMPOTENT.values(), ids=IDEMPOTENT)
new_or_pooled = pytest.mark.parametrize("pooled", [False, True], ids=["new", "pooled"])


async def work_and_disconnect(upstream: Upstream, how: str, work_s: float = 0) -> Call:
    """Upstream reads a whole request, works on it, and ends the connection."""
    call = await upstream.call()
    await call.read_rest()
    await asyncio.sleep(work_s)
    call.close() if how == "close" else call.reset()
    return call


def assert_may_have_run(got: Response) -> None:
    assert "x-should-retry" not in got.head
    assert got.error["message"].endswith("so the request was not sent again.")


@close_or_reset
@new_or_pooled
@pytest.mark.parametrize(("retries", "work_s"), [(0, 0), (2, 0), (2, 0.15)])
@each_post
async def test_work_that_upstream_did_is_not_run_again(
    gate: StartGate,
    upstream: Upstream,
    sent: bytes,
    retries: int,
    work_s: float,
    pooled: bool,
    how: str,
) -> None:
    running = await gate(UPSTREAM_RETRIES=retries)
    before = len(await fill_pool(running, upstream)) if pooled else 0
    client = await running.send(sent)
    await work_and_disconnect(upstream, how, work_s)
    got = await expect_failure(running, client, "upstream_disconnected", 1, before + 1)
    assert_may_have_run(got)
    assert len(upstream.calls) == before + 1


@each_post
async def test_stale_connection_is_replaced_once(
    gate: StartGate, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """The replacement ends at once as well, but upstream has read the request."""
    running = await gate(UPSTREAM_RETRIES=0)
    calls = await fill_pool(running, upstream)
    end_before_request(monkeypatch, calls, "close")
    client = await running.send(sent)
    fresh = await disconnect(upstream, "close")
    assert fresh.wire is not calls[0].wire
    assert_may_have_run(await expect_failure(running, client, "upstream_disconnected", 1, 2))
    assert len(upstream.calls) == 2


async def test_reset_may_follow_from_the_request(
    gate: StartGate, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reset does not show what upstream had read."""
    running = await gate()
    end_before_request(monkeypatch, await fill_pool(running, upstream), "reset")
    client = await running.send(chat())
    assert_may_have_run(await expect_failure(running, client, "upstream_disconnected", 1, 2))
    assert len(upstream.calls) == 1


async def test_close_proves_nothing_where_the_system_shows_no_acknowledgements(
    gate: StartGate, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await gate()
    end_before_request(monkeypatch, await fill_pool(running, upstream), "close")
    monkeypatch.setattr(sys, "platform", "darwin")
    client = await running.send(chat())
    assert_may_have_run(await expect_failure(running, client, "upstream_disconnected", 1, 2))
    assert len(upstream.calls) == 1


@pytest.mark.parametrize("size", [0, 20_000, 900_000])
async def test_stale_tls_connection_is_replaced(
    gate: StartGate, authority: Authority, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    async with tls_upstream(authority) as upstream:
        running = await gate(OPENAI_BASE_URL=url_with_tls(upstream), SSL_CERT_FILE=authority.file)
        calls = await fill_pool(running, upstream)
        end_before_request(monkeypatch, calls, "close")
        client = await running.send(post(b"x" * size))
        await (await upstream.call()).respond(response(b"fresh"))
        assert (await expect_success(running, client, 1, 2)).body == b"fresh"


@close_or_reset
async def test_work_over_tls_is_not_run_again(
    gate: StartGate, authority: Authority, how: str
) -> None:
    async with tls_upstream(authority) as upstream:
        running = await gate(OPENAI_BASE_URL=url_with_tls(upstream), SSL_CERT_FILE=authority.file)
        await fill_pool(running, upstream)
        client = await running.send(chat())
        await work_and_disconnect(upstream, how)
        assert_may_have_run(await expect_failure(running, client, "upstream_disconnected", 1, 2))
        assert len(upstream.calls) == 2


@close_or_reset
@new_or_pooled
@pytest.mark.parametrize("read", ["head", "a part of the body"])
async def test_body_is_not_sent_again_to_an_upstream_that_closed_within_it(
    gate: StartGate, upstream: Upstream, read: str, pooled: bool, how: str
) -> None:
    running = await gate()
    before = len(await fill_pool(running, upstream)) if pooled else 0
    client = await running.send(post(b"x" * (4 << 20)))
    call = await upstream.call()
    if read != "head":
        await call.body.read_some()
    call.close() if how == "close" else call.reset()
    await expect_failure(running, client, "upstream_disconnected", 1, before + 1)
    assert len(upstream.calls) == before + 1


async def test_unacknowledged_rest_of_a_body_does_not_hide_that_upstream_read_the_head(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate()
    await fill_pool(running, upstream)
    client = await running.send(post(b"x" * (8 << 20)))
    call = await upstream.call()
    call.wire.pause_reading()
    call.wire.half_close()
    # The gate sees the end while most of the body is unacknowledged.
    for _ in range(5):
        await asyncio.sleep(0)
    call.wire.resume_reading()
    assert_may_have_run(await expect_failure(running, client, "upstream_disconnected", 1, 2))
    assert len(upstream.calls) == 2


@close_or_reset
@new_or_pooled
@pytest.mark.parametrize("interim", [CONTINUE, EARLY_HINTS, EARLY_HINTS * 2], ids=len)
async def test_interim_response_shows_that_upstream_got_the_request(
    gate: StartGate, upstream: Upstream, interim: bytes, pooled: bool, how: str
) -> None:
    running = await gate()
    before = len(await fill_pool(running, upstream)) if pooled else 0
    client = await running.send(chat())
    await disconnect(upstream, how, interim)
    got = await expect_failure(running, client, "upstream_disconnected", 1, before + 1)
    assert "x-should-retry" not in got.head
    assert len(upstream.calls) == before + 1


@close_or_reset
@each_idempotent
@pytest.mark.parametrize("retries", [0, 1, 2])
async def test_idempotent_request_is_retried_until_the_limit(
    gate: StartGate, upstream: Upstream, sent: bytes, retries: int, how: str
) -> None:
    running = await gate(UPSTREAM_RETRIES=retries)
    client = await running.send(sent)
    async with in_background(fail_all(upstream, how)):
        got = await client.response(bodiless=sent.startswith(b"HEAD"))
    assert (got.status, got.reason) == (502, "upstream_disconnected")
    assert got.head["x-should-retry"] == "true"
    assert got.head["x-rustygate-attempts"] == str(1 + retries)
    assert len(upstream.calls) == 1 + retries


@each_idempotent
async def test_idempotent_request_is_retried_after_work(
    gate: StartGate, upstream: Upstream, sent: bytes
) -> None:
    running = await gate()
    await fill_pool(running, upstream)
    client = await running.send(sent)
    await work_and_disconnect(upstream, "close")
    await (await upstream.call()).respond(response(b"" if b"HEAD" in sent[:4] else b"{}"))
    got = await client.response(bodiless=sent.startswith(b"HEAD"))
    assert (got.status, got.head["x-rustygate-attempts"]) == (200, "2")


@with_streamed_bodies
async def test_streamed_body_on_a_stale_connection_may_be_retried_by_its_client(
    gate: StartGate,
    upstream: Upstream,
    monkeypatch: pytest.MonkeyPatch,
    sent: bytes,
    settings: dict[str, object],
) -> None:
    running = await gate(**settings)
    end_before_request(monkeypatch, await fill_pool(running, upstream), "close")
    client = await running.send(sent)
    got = await expect_failure(running, client, "upstream_disconnected", 1, 2)
    assert got.head["x-should-retry"] == "true"
    assert len(upstream.calls) == 1


async def ask(client: openai.AsyncOpenAI) -> None:
    messages = [{"role": "user", "content": "Hello!"}]
    await client.chat.completions.create(model="gpt-4o", messages=messages)  # type: ignore[arg-type]


@pytest.mark.parametrize(("max_retries", "runs"), [(0, 1), (2, 3)])
async def test_sdk_runs_work_as_often_as_without_the_gate(
    gate: StartGate,
    upstream: Upstream,
    async_client: Callable[..., openai.AsyncOpenAI],
    max_retries: int,
    runs: int,
) -> None:
    running = await gate()
    async with in_background(fail_all(upstream, "close")), soon():
        with pytest.raises(openai.InternalServerError):
            await ask(async_client(running, max_retries=max_retries))
        with pytest.raises(openai.APIConnectionError):
            await ask(async_client(running, max_retries=max_retries, base_url=upstream.url))
    assert len(upstream.calls) == 2 * runs
