"""How turns in a WebSocket end: usage, failures, estimates, log and metrics."""

import asyncio
import json
from time import monotonic
from typing import Any

import pytest

from rustygate.admission.admission import Admission
from tests.conftest import StartGate
from tests.support.gate import one_process
from tests.support.http import get, response
from tests.support.metrics import Scrape
from tests.support.upstream import Upstream
from tests.support.websocket import (
    CONTINUATION,
    PING,
    TEXT,
    frame,
)
from tests.support.websocket_turns import (
    ONE_SLOT,
    ONE_TURN,
    RESPONSES,
    OpenSocket,
    create,
    create_response,
    created,
    done,
    hold_turn,
    next_event,
    open_responses,
    serve_turn,
    usage,
)
from tests.telemetry.usage.samples import EVER

# Turns that upstream starts on its own.


async def test_turn_that_upstream_starts_is_charged_and_logged(realtime: OpenSocket) -> None:
    running, client, server = await realtime(
        TOKENS_PER_MINUTE=5000, RATE_LIMIT_TIMEOUT=1, **ONE_SLOT
    )
    server.send(created("resp_voice"))
    await client.frame()
    await running.wait_until(in_flight=1)
    server.send(done("resp_voice", (4000, 900)))
    await client.frame()
    await running.wait_until(in_flight=0)
    client.send(create(max_output_tokens=1000))
    assert (await next_event(client))["error"]["type"] == "tokens"
    turn, _ = await running.settled(2)
    assert (turn["model"], turn["outcome"], turn["status"]) == ("gpt-realtime", "ok", 200)
    assert (turn["tokens_in"], turn["tokens_out"]) == (4000, 900)


async def test_turns_are_in_the_usage_record(realtime: OpenSocket) -> None:
    running, client, server = await realtime()
    for number in range(2):
        for event in (created(f"resp_{number}"), done(f"resp_{number}", (4000, 900))):
            server.send(event)
            await client.frame()
    await running.settled(2)
    [(names, totals)] = await running.daemon.usage.rows_by(EVER)
    assert names[1:] == ("127.0.0.1", "gpt-realtime")
    assert (totals.exchanges, totals.tokens_in, totals.tokens_out) == (2, 8000, 1800)
    assert (totals.unpriced, totals.cost_nano_usd > 0) == (0, True)


async def test_turn_that_upstream_starts_takes_a_request(realtime: OpenSocket) -> None:
    _, client, server = await realtime(**ONE_TURN)
    server.send(created())
    await client.frame()
    client.send(create())
    assert (await next_event(client))["type"] == "error"


async def test_end_of_an_unknown_response_is_a_turn(
    realtime: OpenSocket, upstream: Upstream
) -> None:
    running, client, server = await realtime()
    server.send(done("resp_unknown", (7, 8)))
    await client.frame()
    [turn] = await running.settled()
    assert (turn["tokens_in"], turn["tokens_out"]) == (7, 8)
    await running.wait_until(in_flight=0)


# Failures that upstream reports.


FAILURES: dict[str, tuple[dict[str, Any], int | None]] = {
    "failed response": (
        {
            "type": "response.done",
            "response": {
                "status": "failed",
                "status_details": {"error": {"code": "rate_limit_exceeded", "message": "Slow"}},
            },
        },
        429,
    ),
    "failed without a reason": (
        {"type": "response.failed", "response": {"status": "failed"}},
        None,
    ),
    "server error": (
        {"type": "response.failed", "response": {"error": {"code": "server_error"}}},
        None,
    ),
    "error with a status": (
        {"type": "error", "status": 400, "error": {"code": "previous_response_not_found"}},
        400,
    ),
    "named like a quota": (
        {"type": "error", "error": {"code": "too_many_requests", "message": "Slow"}},
        None,
    ),
    "flat error": ({"type": "error", "code": "rate_limit_exceeded", "message": "Slow"}, 429),
}


@pytest.mark.parametrize(("event", "status"), FAILURES.values(), ids=FAILURES)
async def test_turn_that_fails_is_an_upstream_error(
    responses: OpenSocket, event: dict[str, Any], status: int | None
) -> None:
    running, client, server = await responses(TOKENS_PER_MINUTE=5000, **ONE_SLOT)
    client.send(create_response(max_output_tokens=5000 - 100))
    await next_event(server)
    server.send(json.dumps(event).encode())
    assert await next_event(client) == event
    [turn] = await running.settled()
    assert (turn["outcome"], turn["status"]) == ("upstream_error", status)
    # What was reserved is given back.
    await running.wait_until(in_flight=0)
    client.send(create_response(model="gpt-4o", max_output_tokens=5000 - 100))
    await next_event(server)


async def test_rate_limit_pauses_the_lane(responses: OpenSocket) -> None:
    _, client, server = await responses()
    client.send(create_response())
    await next_event(server)
    error = {"code": "rate_limit_exceeded", "type": "requests", "message": "Slow down"}
    headers = {"retry-after-ms": "500"}
    event = {"type": "error", "status": 429, "error": error, "headers": headers}
    began = monotonic()
    server.send(json.dumps(event).encode())
    await client.frame()
    client.send(create_response(model="gpt-4o"))
    assert (await next_event(server))["model"] == "gpt-4o"
    client.send(create_response())
    assert (await next_event(server))["model"] == "gpt-5"
    assert monotonic() - began > 0.4


@one_process
@pytest.mark.parametrize(
    ("code", "slow"),
    [
        ("rate_limit_exceeded", [False]),
        ("slow_down", [True]),
        ("model_not_found", []),
        ("insufficient_quota", []),
    ],
)
async def test_error_of_a_turn_pauses_and_slows_the_lane_as_its_code_says(
    responses: OpenSocket, monkeypatch: pytest.MonkeyPatch, code: str, slow: list[bool]
) -> None:
    pauses: list[bool] = []
    pause = Admission.pause

    def note(admission: Admission, wait: int, *, slow: bool, guessed: bool) -> None:
        pauses.append(slow)
        pause(admission, wait, slow=slow, guessed=guessed)

    monkeypatch.setattr(Admission, "pause", note)
    running, client, server = await responses()
    client.send(create_response())
    await next_event(server)
    server.send(json.dumps({"type": "error", "error": {"code": code}}).encode())
    await client.frame()
    await running.settled()
    assert pauses == slow


async def test_turns_that_name_no_model_have_a_lane_of_their_own(
    responses: OpenSocket, upstream: Upstream
) -> None:
    running, client, server = await responses()
    client.send(b'{"type":"response.create"}')
    await next_event(server)
    error = {"code": "rate_limit_exceeded", "message": "Try again in 20s."}
    server.send(json.dumps({"type": "error", "status": 429, "error": error}).encode())
    await client.frame()
    # Neither another WebSocket nor a request is held up.
    await open_responses(running, upstream)
    asking = await running.send(get())
    await (await upstream.call()).respond(response())
    assert (await asking.response()).status == 200
    client.send(b'{"type":"response.create"}')
    await running.wait_until(waiters=1)


async def test_exhausted_quota_pauses_nothing(responses: OpenSocket) -> None:
    _, client, server = await responses()
    client.send(create_response())
    await next_event(server)
    error = {"code": "insufficient_quota"}
    # A turn that waited for as long would be refused.
    headers = {"retry-after-ms": "600000"}
    event = {"type": "error", "status": 429, "error": error, "headers": headers}
    server.send(json.dumps(event).encode())
    await client.frame()
    client.send(create_response())
    assert (await next_event(server))["model"] == "gpt-5"


async def test_realtime_error_of_another_event_ends_no_turn(realtime: OpenSocket) -> None:
    running, client, server = await realtime(**ONE_SLOT)
    client.send(create("mine"))
    await next_event(server)
    for error in (
        {"event_id": "other", "code": "x"},
        {"event_id": None, "code": "input_audio_buffer_commit_empty"},
        {"event_id": None, "code": "response_cancel_not_active"},
    ):
        server.send(json.dumps({"type": "error", "error": error}).encode())
        await client.frame()
    await running.wait_until(in_flight=1)
    server.send(json.dumps({"type": "error", "error": {"event_id": "mine"}}).encode())
    await client.frame()
    await running.wait_until(in_flight=0)


async def test_turn_that_upstream_ignores_gives_its_slot_back(realtime: OpenSocket) -> None:
    # Within this time, upstream begins a response on a busy machine, too.
    timeout_s = 1
    running, client, server = await realtime(**ONE_SLOT, UPSTREAM_READ_TIMEOUT=timeout_s)
    sent = monotonic()
    client.send(create("ignored"))
    client.send(create("next"))
    assert (await next_event(server))["event_id"] == "ignored"
    assert (await next_event(server))["event_id"] == "next"
    [ignored] = await running.settled()
    assert (ignored["outcome"], ignored["reason"]) == ("upstream_error", "upstream_timeout")
    assert 950 < ignored["total_ms"] <= 1000 * (monotonic() - sent) + 1
    # A response that has begun may take as long as it likes.
    server.send(created())
    await client.frame()
    await asyncio.sleep(1.2 * timeout_s)
    server.send(done())
    await client.frame()
    assert (await running.settled(2))[1]["outcome"] == "ok"


async def test_turn_that_fails_before_it_begins_does_not_time_out(
    responses: OpenSocket,
) -> None:
    timeout_s = 0.5
    running, client, server = await responses(UPSTREAM_READ_TIMEOUT=timeout_s)
    client.send(create_response())
    await next_event(server)
    server.send(b'{"type":"error","status":400,"error":{"code":"x"}}')
    await client.frame()
    await asyncio.sleep(1.2 * timeout_s)
    [turn] = await running.settled()
    assert (turn["outcome"], turn["status"]) == ("upstream_error", 400)


async def test_upstream_disconnect_ends_the_turns(realtime: OpenSocket) -> None:
    running, client, server = await realtime(**ONE_SLOT)
    await hold_turn(running, client, server)
    server.wire.close()
    await client.ended()
    await running.wait_until(in_flight=0, waiters=0, held_bytes=0)
    for line in await running.settled(3):
        assert (line["outcome"], line["reason"]) == ("aborted", "upstream_disconnected")


# Tokens without a usage.


def delta(text: str, kind: str = "response.output_text.delta") -> bytes:
    return json.dumps({"type": kind, "delta": text}, separators=(",", ":")).encode()


async def test_turn_without_a_usage_is_estimated(responses: OpenSocket) -> None:
    running, client, server = await responses(TOKENS_PER_MINUTE=5000, RATE_LIMIT_TIMEOUT=1)
    client.send(create_response(input="x" * 400, max_output_tokens=4000))
    await next_event(server)
    events = [created(), *(delta(f" word{number}") for number in range(200))]
    events.append(b'{"type":"response.completed","response":{"id":"resp_1"}}')
    for event in events:
        server.send(event)
    for event in events:
        await client.expect(event)
    [turn] = await running.settled()
    assert (turn["outcome"], turn["tokens_in"]) == ("ok", 100)
    assert 200 <= turn["tokens_out"] <= 460
    assert turn["tokens_estimated"] is True
    # The rest of what was reserved is free again.
    client.send(create_response(max_output_tokens=4000))
    await next_event(server)


async def test_cut_turn_is_settled_with_the_text_that_passed(responses: OpenSocket) -> None:
    running, client, server = await responses()
    client.send(create_response(input="x" * 40, max_output_tokens=4000))
    await next_event(server)
    for event in (created(), *[delta(" word")] * 30):
        server.send(event)
        await client.expect(event)
    client.wire.reset()
    turn, _ = await running.settled(2)
    assert (turn["outcome"], turn["tokens_in"], turn["tokens_out"]) == ("client_left", 10, 30)


async def test_cached_tokens_of_a_turn_are_logged(realtime: OpenSocket) -> None:
    running, client, server = await realtime()
    client.send(create())
    await next_event(server)
    response = {"id": "resp_1", "usage": usage(30, 12, cached=20)}
    server.send(created())
    server.send(json.dumps({"type": "response.done", "response": response}).encode())
    [turn] = await running.settled()
    assert (turn["tokens_in"], turn["tokens_cached"], turn["tokens_out"]) == (30, 20, 12)
    assert client.wire.received.count(b"response") or await client.frame()


# Learned limits.


async def test_rate_limits_in_a_session_set_the_lane(realtime: OpenSocket) -> None:
    _, client, server = await realtime(RATE_LIMIT="auto", RATE_LIMIT_BURST=5, RATE_LIMIT_TIMEOUT=1)
    client.send(create("first"))
    await next_event(server)
    server.send(created())
    limits = [{"name": "requests", "limit": 2, "remaining": 0, "reset_seconds": 30}]
    server.send(json.dumps({"type": "rate_limits.updated", "rate_limits": limits}).encode())
    server.send(done())
    for _ in range(3):
        await client.frame()
    client.send(create("second"))
    error = (await next_event(client))["error"]
    assert (error["code"], error["event_id"]) == ("rate_limit_exceeded", "second")
    assert "2 requests/min reached for gpt-realtime" in error["message"]


# Log and metrics.


async def test_turn_logs_a_line_of_its_own(gate: StartGate, upstream: Upstream) -> None:
    running = await gate()
    client, server = await open_responses(running, upstream, "X-RustyGate-Client: app")
    client.send(create_response())
    await next_event(server)
    server.send(created())
    server.send(done(tokens=(30, 12), kind="completed"))
    await client.frame()
    await client.frame()
    [turn] = await running.settled()
    client.close()
    await server.close_frame()
    server.close()
    await client.close_frame()
    _, socket = await running.settled(2)
    assert turn["id"] == f"{socket['id']}.1"
    assert (turn["client"], turn["method"], turn["path"]) == ("app", "WS", RESPONSES)
    assert (turn["model"], turn["status"], turn["outcome"]) == ("gpt-5", 200, "ok")
    assert (turn["tokens_in"], turn["tokens_out"], turn["attempts"]) == (30, 12, 1)
    assert turn["queued_ms"] <= turn["first_byte_ms"] <= turn["total_ms"]
    assert turn["bytes"] == len(frame(created())) + len(
        frame(done(tokens=(30, 12), kind="completed"))
    )
    assert (socket["method"], socket["status"], socket["outcome"]) == ("GET", 101, "ok")
    assert socket["model"] == "gpt-5"
    assert (socket["tokens_in"], socket["tokens_out"]) == (None, None)


async def test_metrics_show_the_model_of_a_responses_websocket(responses: OpenSocket) -> None:
    running, client, server = await responses()
    client.send(create_response())
    await serve_turn(server, tokens=(30, 12))
    await client.frame()
    await client.frame()
    await running.settled()
    scrape = await Scrape.of(running)
    labels = {"model": "gpt-5", "status": "200", "outcome": "ok"}
    assert scrape.sum("rustygate_exchanges_total", **labels) == 1
    assert scrape.sum("rustygate_tokens_total", model="gpt-5", kind="input") == 30
    assert scrape.sum("rustygate_tokens_total", model="gpt-5", kind="output") == 12


async def test_tokens_of_transcriptions_are_those_of_the_websocket(realtime: OpenSocket) -> None:
    running, client, server = await realtime()
    transcribed = {
        "type": "conversation.item.input_audio_transcription.completed",
        "usage": usage(20, 3),
    }
    server.send(json.dumps(transcribed).encode())
    server.close()
    await client.frame()
    await client.close_frame()
    client.close()
    await server.close_frame()
    [socket] = await running.settled()
    assert (socket["tokens_in"], socket["tokens_out"]) == (20, 3)


async def test_event_in_fragments_ends_a_turn(realtime: OpenSocket) -> None:
    running, client, server = await realtime(**ONE_SLOT)
    client.send(create())
    await next_event(server)
    text = done(tokens=(9, 6))
    server.send(text[:7], final=False)
    server.send(b"", PING)
    server.send(text[7:40], CONTINUATION, final=False)
    server.send(text[40:], CONTINUATION)
    for opcode in (TEXT, PING, CONTINUATION, CONTINUATION):
        assert (await client.frame()).opcode == opcode
    [turn] = await running.settled()
    assert (turn["tokens_in"], turn["tokens_out"]) == (9, 6)
