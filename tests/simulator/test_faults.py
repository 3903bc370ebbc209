"""Faults: their grammar, and what each does to a response."""

import asyncio
import gzip
import json
from contextlib import suppress

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.simulator import Options
from rustygate.simulator.faults import GRAMMAR, FaultError, Faults, parse
from tests.support.simulator import (
    CHAT_BODY,
    MESSAGES,
    Simulator,
    chat_text,
    post,
    running_simulator,
)
from tests.support.waiting import SOON_S, soon


@pytest.mark.parametrize(
    ("simulate", "status", "error_type", "code", "retry_after_ms"),
    [
        ("500", 500, "server_error", None, None),
        ("status=418", 418, "invalid_request_error", None, None),
        ("slow_down", 429, "requests", "slow_down", None),
        ("slow_down=2.5", 429, "requests", "slow_down", "2500"),
        ("overloaded", 503, "service_unavailable_error", "server_is_overloaded", None),
        ("too_large", 429, "tokens", "rate_limit_exceeded", None),
        *[
            (code, 429, "insufficient_quota", code, None)
            for code in (
                "insufficient_quota",
                "organization_spend_limit_exceeded",
                "project_spend_limit_exceeded",
                "organization_usage_limit_exceeded",
                "credit_balance_exhausted",
            )
        ],
        ("rate_limited", 429, "requests", "rate_limit_exceeded", "1000"),
        ("rate_limited=0.25", 429, "requests", "rate_limit_exceeded", "250"),
    ],
)
async def test_error_faults_return_openais_errors(
    simulator: Simulator,
    simulate: str,
    status: int,
    error_type: str,
    code: str | None,
    retry_after_ms: str | None,
) -> None:
    response = await simulator.post("/chat/completions", CHAT_BODY, simulate=simulate)
    error = response.error
    assert (response.status, error["type"], error["code"]) == (status, error_type, code)
    assert response.headers.get("retry-after-ms") == retry_after_ms


@pytest.mark.parametrize(
    ("simulate", "message"),
    [
        (
            "rate_limited=2",
            "Rate limit reached for gpt-4o in organization org-simulator on requests per min "
            "(RPM): Limit 500, Used 500, Requested 1. Please try again in 2s.",
        ),
        (
            "too_large",
            "Request too large for gpt-4o in organization org-simulator on tokens per min (TPM): "
            "Limit 30000, Requested 40000. The input or output tokens must be reduced in order to "
            "run successfully.",
        ),
    ],
)
async def test_simulated_limit_error_quotes_the_models_limits(simulate: str, message: str) -> None:
    async with running_simulator(Options(tpm=30_000)) as simulator:
        response = await simulator.post("/chat/completions", CHAT_BODY, simulate=simulate)
    assert response.error["message"] == message


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_reset_fault_resets_before_any_byte(simulator: Simulator, stream: bool) -> None:
    reader, writer = await simulator.open(
        post("/chat/completions", CHAT_BODY | {"stream": stream}, simulate="reset")
    )
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    assert (await simulator.stats())["severed"] == 1


@pytest.mark.parametrize("events", [0, 1, 3])
async def test_cut_comes_at_an_event_boundary(simulator: Simulator, events: int) -> None:
    response = await simulator.post(
        "/chat/completions", CHAT_BODY | {"stream": True}, simulate=f"cut={events}"
    )
    assert not response.complete
    assert response.body.count(b"\n\n") == events
    assert response.body.endswith(b"\n\n") or not events


async def test_cut_inside_comes_in_the_middle_of_an_event(simulator: Simulator) -> None:
    response = await simulator.post(
        "/chat/completions", CHAT_BODY | {"stream": True}, simulate="cut_inside=2"
    )
    *complete_events, last_event = response.body.split(b"\n\n")
    assert not response.complete
    assert len(complete_events) == 2
    assert last_event.startswith(b"data: {")


async def test_stream_shorter_than_its_cut_is_complete(simulator: Simulator) -> None:
    response = await simulator.post(
        "/chat/completions", CHAT_BODY | {"stream": True}, simulate="cut=100"
    )
    assert response.complete


@pytest.mark.parametrize("simulate", ["cut", "cut_inside"])
async def test_plain_response_is_cut_in_its_middle(simulator: Simulator, simulate: str) -> None:
    response = await simulator.post("/chat/completions", CHAT_BODY, simulate=simulate)
    assert response.status == 200
    assert not response.complete
    assert len(response.body) == int(response.headers["content-length"]) // 2


@pytest.mark.parametrize("simulate", ["cut=2", "cut_inside=2", "reset"])
async def test_sdk_raises_on_a_broken_stream(simulator: Simulator, simulate: str) -> None:
    async with simulator.sdk() as sdk:
        with pytest.raises(openai.APIConnectionError):
            async for _ in await sdk.chat.completions.create(
                model="m", messages=MESSAGES, stream=True, extra_headers={"X-Simulate": simulate}
            ):
                pass


@pytest.mark.parametrize(
    ("simulate", "stream", "before"),
    [
        ("stall", False, b""),
        ("stall", True, b""),
        ("stall=2", False, b"HTTP/1.1 200"),
        ("stall=2", True, b"\n\n"),
        ("latency=3600", False, b""),
        ("tokens_per_second=0.001", True, b"\n\n"),
    ],
    ids=["head", "stream-head", "body", "stream", "latency", "pace"],
)
async def test_client_disconnect_ends_the_request(
    simulator: Simulator, simulate: str, stream: bool, before: bytes
) -> None:
    """The handler ends with its client, no matter what it is waiting for."""
    raw = post("/chat/completions", CHAT_BODY | {"stream": stream}, simulate=simulate)
    reader, writer = await simulator.open(raw)
    if before:
        await asyncio.wait_for(reader.readuntil(before), SOON_S)
    stats_while_open = await simulator.wait_for_stats(lambda stats: stats["requests_open"] == 1)
    assert stats_while_open["streams_open"] == int(stream and bool(before))
    writer.close()
    stats = await simulator.wait_for_stats(lambda stats: stats["requests_open"] == 0)
    assert (stats["left"], stats["streams_open"]) == (1, 0)


async def test_shutdown_does_not_wait_for_stalled_requests() -> None:
    async with soon():
        async with running_simulator(Options()) as simulator:
            _, writer = await simulator.open(
                post("/chat/completions", CHAT_BODY, simulate="stall")
            )
            await simulator.wait_for_stats(lambda stats: stats["requests_open"] == 1)
        writer.close()


async def test_stall_comes_after_the_requested_events(simulator: Simulator) -> None:
    reader, writer = await simulator.open(
        post("/chat/completions", CHAT_BODY | {"stream": True}, simulate="stall=2")
    )
    for _ in range(3):  # The head, which also ends in an empty line, and two events.
        await asyncio.wait_for(reader.readuntil(b"\n\r\n"), SOON_S)
    writer.close()


async def test_gzip_fault_compresses_a_plain_response(simulator: Simulator) -> None:
    response = await simulator.post("/chat/completions", CHAT_BODY, simulate="gzip")
    assert response.headers["content-encoding"] == "gzip"
    assert chat_text(gzip.decompress(response.body))


async def test_forced_length_is_capped_by_the_token_limit(simulator: Simulator) -> None:
    response = await simulator.post("/chat/completions", CHAT_BODY, simulate="tokens=9")
    body = json.loads(response.body)
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 4
    response = await simulator.post(
        "/responses", {"model": "m", "input": "x", "max_output_tokens": 2}, simulate="tokens=9"
    )
    assert json.loads(response.body)["incomplete_details"] == {"reason": "max_output_tokens"}


async def test_unknown_fault_returns_400_with_the_known_faults(simulator: Simulator) -> None:
    response = await simulator.post("/chat/completions", CHAT_BODY, simulate="explode")
    assert (response.status, response.error["code"]) == (400, "unknown_fault")
    assert GRAMMAR in response.error["message"]


async def test_configured_faults_apply_to_every_nth_request_unless_overridden() -> None:
    options = Options(faults=parse("500"), fault_every=2)
    async with running_simulator(options) as simulator:
        statuses = []
        for simulate in ("", "", "", "status=502"):
            response = await simulator.post("/chat/completions", CHAT_BODY, simulate=simulate)
            statuses.append(response.status)
    assert statuses == [200, 500, 200, 502]


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("", Faults()),
        (" cut = 3 , gzip,", Faults(cut=3, gzip=True)),
        ("latency=0.5,tokens_per_second=20", Faults(latency=0.5, tokens_per_second=20.0)),
        ("stall", Faults(stall=-1)),
        ("stall=0", Faults(stall=0)),
        ("close=4001", Faults(close=4001)),
    ],
)
def test_faults_are_parsed(text: str, faults: Faults) -> None:
    assert parse(text) == faults


BAD_FAULTS = (
    "x = latency latency=nan latency=inf latency=-1 reset=1 99 600 cut=-1 cut=x cut= tokens=0 ² "
    "slow_down=x close close=999 close=5000 close=1006 too_large=1 tokens=" + "9" * 5000
)


@pytest.mark.parametrize("text", BAD_FAULTS.split(), ids=lambda text: text[:20])
def test_bad_faults_are_rejected(text: str) -> None:
    with pytest.raises(FaultError):
        parse(text)


@given(st.text())
def test_parsing_any_text_raises_only_fault_errors(text: str) -> None:
    with suppress(FaultError):
        parse(text)
