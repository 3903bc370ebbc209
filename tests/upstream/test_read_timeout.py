"""How long upstream may be silent: the setting, or the client's own longer timeout."""

import asyncio

import pytest

from tests.conftest import StartGate
from tests.support.attempts import expect_failure, expect_success
from tests.support.gate import one_process
from tests.support.http import EVENT_STREAM, LAST_CHUNK, chat, chunk, response
from tests.support.upstream import Upstream
from tests.support.waiting import within

# UPSTREAM_READ_TIMEOUT, and a silence and a client's timeout that are longer.
SETTING_S = 0.2
SILENCE_S = 0.4
LONG_S = 30.0

EVENT = b"data: 1\n\n"

both_headers = pytest.mark.parametrize(
    "header", ["x-stainless-read-timeout", "x-stainless-timeout"]
)


@both_headers
async def test_client_with_a_longer_timeout_waits_for_the_head(
    gate: StartGate, upstream: Upstream, header: str
) -> None:
    running = await gate(UPSTREAM_READ_TIMEOUT=SETTING_S)
    client = await running.send(chat(f"{header}: {LONG_S}"))
    call = await upstream.call()
    await asyncio.sleep(SILENCE_S)
    await call.respond(response(b"late"))
    assert (await expect_success(running, client, 1)).body == b"late"


@both_headers
async def test_client_with_a_longer_timeout_waits_for_the_next_byte(
    gate: StartGate, upstream: Upstream, header: str
) -> None:
    running = await gate(UPSTREAM_READ_TIMEOUT=SETTING_S)
    client = await running.send(chat(f"{header}: {LONG_S}", stream=True))
    call = await upstream.call()
    call.send(EVENT_STREAM, chunk(EVENT))
    await client.head()
    await client.expect_body(EVENT)
    await asyncio.sleep(SILENCE_S)
    call.send(chunk(EVENT), LAST_CHUNK)
    assert await client.read_rest() == EVENT


@pytest.mark.parametrize("in_body", [False, True], ids=["head", "body"])
async def test_read_timeout_ends_with_the_clients_own_timeout(
    gate: StartGate, upstream: Upstream, in_body: bool
) -> None:
    running = await gate(UPSTREAM_READ_TIMEOUT=SETTING_S)
    client = await running.send(chat(f"x-stainless-read-timeout: {SILENCE_S}", stream=True))
    call = await upstream.call()
    began = asyncio.get_running_loop().time()
    async with within(2):
        if in_body:
            call.send(EVENT_STREAM, chunk(EVENT))
            await client.head()
            message = (await client.read_until_cut()).decode()
        else:
            got = await expect_failure(running, client, "upstream_timeout", 1)
            message = got.error["message"]
    assert asyncio.get_running_loop().time() - began > SILENCE_S - 0.05
    assert f"Upstream sent nothing for {SILENCE_S} s; raise UPSTREAM_READ_TIMEOUT" in message


async def test_shorter_client_timeout_does_not_shorten_the_read_timeout(
    gate: StartGate, upstream: Upstream
) -> None:
    running = await gate(UPSTREAM_READ_TIMEOUT=LONG_S)
    client = await running.send(chat(f"x-stainless-read-timeout: {SETTING_S}"))
    call = await upstream.call()
    await asyncio.sleep(SILENCE_S)
    await call.respond(response())
    await expect_success(running, client, 1)


@pytest.mark.parametrize("value", ["", "never", "-1", "0", "nan", "inf", "1e999"])
async def test_unusable_timeout_leaves_the_setting(
    gate: StartGate, upstream: Upstream, value: str
) -> None:
    running = await gate(UPSTREAM_READ_TIMEOUT=SETTING_S)
    client = await running.send(chat(f"x-stainless-read-timeout: {value}"))
    got = await expect_failure(running, client, "upstream_timeout", 1)
    assert f"for {SETTING_S} s" in got.error["message"]


@pytest.mark.parametrize("patient_first", [True, False])
async def test_each_request_on_a_connection_has_its_own_timeout(
    gate: StartGate, upstream: Upstream, patient_first: bool
) -> None:
    """The timer of the first request must not be the second's."""
    # An impatient request that comes first is to be served within the setting.
    setting_s = SETTING_S if patient_first else 1
    running = await gate(UPSTREAM_READ_TIMEOUT=setting_s)
    patient = chat("x-stainless-read-timeout: 60")
    client = await running.send(patient if patient_first else chat())
    await (await upstream.call()).respond(response())
    await client.response()
    client.send(chat() if patient_first else patient)
    call = await upstream.call()
    if patient_first:
        await expect_failure(running, client, "upstream_timeout", 1, 2)
    else:
        await asyncio.sleep(1.2 * setting_s)
        await call.respond(response())
        await expect_success(running, client, 1, 2)
    assert len(upstream.wires) == 1


@one_process
async def test_idle_connection_does_not_time_out(gate: StartGate, upstream: Upstream) -> None:
    """It is idle for longer than another exchange, which times out."""
    running = await gate(UPSTREAM_READ_TIMEOUT=2)
    clients = [await running.send(chat()) for _ in range(2)]
    for call in [await upstream.call() for _ in clients]:
        await call.respond(response(b""))
    for client in clients:
        assert (await client.response()).status == 200
    assert (await running.request(chat())).status == 504
    await upstream.call()
    upstream.reply = response()
    assert (await running.request(chat("x-stainless-read-timeout: 60"))).status == 200
    assert len(upstream.wires) == 2
