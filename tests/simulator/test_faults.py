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
from tests.support.simulator import CHAT, HELLO, SOON_S, Site, plain_text, post, running, unhurried


@pytest.mark.parametrize(
    ("simulate", "status", "type_", "code", "retry_after_ms"),
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
async def test_failure_on_demand(
    site: Site,
    simulate: str,
    status: int,
    type_: str,
    code: str | None,
    retry_after_ms: str | None,
) -> None:
    answer = await site.post("/chat/completions", CHAT, simulate=simulate)
    assert (answer.status, answer.error["type"], answer.error["code"]) == (status, type_, code)
    assert answer.headers.get("retry-after-ms") == retry_after_ms


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
async def test_refusal_on_demand_tells_the_models_own_limits(simulate: str, message: str) -> None:
    async with running(Options(tpm=30_000)) as site:
        answer = await site.post("/chat/completions", CHAT, simulate=simulate)
    assert answer.error["message"] == message


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_reset_comes_before_any_byte(site: Site, stream: bool) -> None:
    reader, writer = await site.send(
        post("/chat/completions", CHAT | {"stream": stream}, simulate="reset")
    )
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    assert (await site.stats())["severed"] == 1


@pytest.mark.parametrize("events", [0, 1, 3])
async def test_cut_comes_at_a_boundary(site: Site, events: int) -> None:
    answer = await site.post(
        "/chat/completions", CHAT | {"stream": True}, simulate=f"cut={events}"
    )
    assert not answer.whole
    assert answer.body.count(b"\n\n") == events
    assert answer.body.endswith(b"\n\n") or not events


async def test_cut_inside_comes_in_the_middle_of_an_event(site: Site) -> None:
    answer = await site.post("/chat/completions", CHAT | {"stream": True}, simulate="cut_inside=2")
    *whole, rest = answer.body.split(b"\n\n")
    assert not answer.whole
    assert len(whole) == 2
    assert rest.startswith(b"data: {")


async def test_stream_shorter_than_its_cut_comes_whole(site: Site) -> None:
    answer = await site.post("/chat/completions", CHAT | {"stream": True}, simulate="cut=100")
    assert answer.whole


@pytest.mark.parametrize("simulate", ["cut", "cut_inside"])
async def test_plain_answer_is_cut_in_its_middle(site: Site, simulate: str) -> None:
    answer = await site.post("/chat/completions", CHAT, simulate=simulate)
    assert answer.status == 200
    assert not answer.whole
    assert len(answer.body) == int(answer.headers["content-length"]) // 2


@pytest.mark.parametrize("simulate", ["cut=2", "cut_inside=2", "reset"])
async def test_sdk_raises_on_a_broken_stream(site: Site, simulate: str) -> None:
    async with site.sdk() as sdk:
        with pytest.raises(openai.APIConnectionError):
            async for _ in await sdk.chat.completions.create(
                model="m", messages=HELLO, stream=True, extra_headers={"X-Simulate": simulate}
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
async def test_client_that_leaves_ends_its_request(
    site: Site, simulate: str, stream: bool, before: bytes
) -> None:
    """Whatever the handler waits for, it is gone when the client is."""
    raw = post("/chat/completions", CHAT | {"stream": stream}, simulate=simulate)
    reader, writer = await site.send(raw)
    if before:
        await asyncio.wait_for(reader.readuntil(before), SOON_S)
    waiting = await site.stats_until(lambda stats: stats["requests_open"] == 1)
    assert waiting["streams_open"] == int(stream and bool(before))
    writer.close()
    stats = await site.stats_until(lambda stats: stats["requests_open"] == 0)
    assert (stats["left"], stats["streams_open"]) == (1, 0)


async def test_simulator_that_ends_waits_for_no_stalled_request() -> None:
    async with asyncio.timeout(SOON_S):
        async with running(Options()) as site:
            _, writer = await site.send(post("/chat/completions", CHAT, simulate="stall"))
            await site.stats_until(lambda stats: stats["requests_open"] == 1)
        writer.close()


async def test_stalled_stream_sends_its_events_first(site: Site) -> None:
    reader, writer = await site.send(
        post("/chat/completions", CHAT | {"stream": True}, simulate="stall=2")
    )
    for _ in range(3):  # The head, which ends in an empty line too, and two events.
        await asyncio.wait_for(reader.readuntil(b"\n\r\n"), SOON_S)
    writer.close()


async def test_gzip_compresses_a_plain_answer(site: Site) -> None:
    answer = await site.post("/chat/completions", CHAT, simulate="gzip")
    assert answer.headers["content-encoding"] == "gzip"
    assert plain_text(gzip.decompress(answer.body))


async def test_answer_longer_than_its_cap_is_cut_short_by_it(site: Site) -> None:
    answer = await site.post("/chat/completions", CHAT, simulate="tokens=9")
    body = json.loads(answer.body)
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 4
    response = await site.post(
        "/responses", {"model": "m", "input": "x", "max_output_tokens": 2}, simulate="tokens=9"
    )
    assert json.loads(response.body)["incomplete_details"] == {"reason": "max_output_tokens"}


async def test_unknown_fault_is_a_400_that_lists_the_known(site: Site) -> None:
    answer = await site.post("/chat/completions", CHAT, simulate="explode")
    assert (answer.status, answer.error["code"]) == (400, "unknown_fault")
    assert GRAMMAR in answer.error["message"]


async def test_flagged_faults_strike_each_nth_request_and_yield_to_the_header() -> None:
    options = Options(faults=parse("500"), fault_every=2)
    async with running(options) as site:
        statuses = []
        for simulate in ("", "", "", "status=502"):
            answer = await site.post("/chat/completions", CHAT, simulate=simulate)
            statuses.append(answer.status)
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
def test_faults_are_read(text: str, faults: Faults) -> None:
    assert parse(text) == faults


BAD_FAULTS = (
    "x = latency latency=nan latency=inf latency=-1 reset=1 99 600 cut=-1 cut=x cut= tokens=0 ² "
    "slow_down=x close close=999 close=5000 close=1006 too_large=1 tokens=" + "9" * 5000
)


@pytest.mark.parametrize("text", BAD_FAULTS.split(), ids=lambda text: text[:20])
def test_bad_faults_are_refused(text: str) -> None:
    with pytest.raises(FaultError):
        parse(text)


@unhurried
@given(st.text())
def test_no_fault_text_breaks_the_reader(text: str) -> None:
    with suppress(FaultError):
        parse(text)
