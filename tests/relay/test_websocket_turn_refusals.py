"""Turns in a WebSocket that are refused: error events, draining, clients' limits."""

import asyncio
from pathlib import Path
from time import monotonic

import pytest

from rustygate.access.client_auth import ClientAuth
from rustygate.core.clients import hash_key
from tests.conftest import StartGate
from tests.support.gate import Log
from tests.support.http import CLIENT_KEY
from tests.support.upstream import Upstream
from tests.support.websocket import (
    handshake,
)
from tests.support.websocket_turns import (
    ONE_SLOT,
    ONE_TURN,
    OpenSocket,
    create,
    create_response,
    free_slot,
    hold_turn,
    next_event,
)

# A client in a clients file.
CLIENT = f'[client.app]\nkey_sha256 = "{hash_key(CLIENT_KEY)}"\n'

# Refusals.


async def test_realtime_refusal_is_an_error_event(realtime: OpenSocket) -> None:
    _, client, _ = await realtime(TOKENS_PER_MINUTE=100)
    client.send(create("mine", max_output_tokens=101))
    event = await next_event(client)
    assert event["event_id"].startswith("event_")
    assert event == {
        "type": "error",
        "event_id": event["event_id"],
        "error": {
            "type": "tokens",
            "code": "rate_limit_exceeded",
            "message": "The request costs 101 tokens, and the limit is 100 tokens/min; send a "
            "smaller request or lower its output limit.",
            "param": None,
            "event_id": "mine",
        },
    }


async def test_responses_refusal_is_an_error_event_with_a_status(responses: OpenSocket) -> None:
    _, client, _ = await responses(**ONE_TURN)
    client.send(create_response())
    client.send(create_response(stream_id="lane"))
    event = await next_event(client)
    assert (event["type"], event["status"], event["stream_id"]) == ("error", 429, "lane")
    assert (event["error"]["type"], event["error"]["code"]) == ("requests", "rate_limit_exceeded")
    assert event["headers"]["X-RustyGate-Error"] == "queue_timeout"
    assert int(event["headers"]["retry-after-ms"]) > 900_000
    assert event["error"]["headers"] == event["headers"]


async def test_turn_that_is_not_admitted_by_its_deadline_is_refused(realtime: OpenSocket) -> None:
    running, client, server = await realtime(**ONE_SLOT, RATE_LIMIT_TIMEOUT=0.2)
    client.send(create("first"))
    await next_event(server)
    sent = monotonic()
    client.send(create("late"))
    client.send(create("later"))
    client.send(b"behind")
    for name in ("late", "later"):
        assert (await next_event(client))["error"]["event_id"] == name
    assert monotonic() - sent > 0.15
    await server.expect(b"behind")
    late = (await running.settled(2))[0]
    assert (late["status"], late["outcome"], late["reason"]) == (429, "refused", "queue_timeout")
    assert 150 <= late["queued_ms"] <= 1000 * (monotonic() - sent) + 1


async def test_defect_ends_its_turn_only(
    realtime: OpenSocket, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, client, server = await realtime()
    with monkeypatch.context() as patch:
        patch.delattr("rustygate.relay.websocket_turns.check_model")
        client.send(create("first"))
        error = (await next_event(client))["error"]
    [line] = await running.settled()
    assert (line["status"], line["reason"]) == (500, "internal_error")
    assert (error["code"], error["event_id"]) == ("internal_error", "first")
    assert line["id"] in error["message"]
    assert "Traceback" in log.errors[0]
    assert line["id"] in log.errors.pop()
    client.send(create("second"))
    assert (await next_event(server))["event_id"] == "second"


async def test_drain_refuses_held_turns(realtime: OpenSocket) -> None:
    running, client, server = await realtime(**ONE_SLOT)
    await hold_turn(running, client, server)
    draining = asyncio.create_task(running.daemon.drain())
    event = await next_event(client)
    assert (event["error"]["code"], event["error"]["event_id"]) == ("draining", "held")
    client.send(create("new"))
    assert (await next_event(client))["error"]["code"] == "draining"
    # The turn in flight continues.
    await free_slot(client, server)
    client.close()
    await server.close_frame()
    server.close()
    await client.close_frame()
    await draining
    outcomes = {line["id"][-2:]: line["outcome"] for line in await running.settled(4)}
    assert (outcomes[".1"], outcomes[".2"], outcomes[".3"]) == ("ok", "refused", "refused")


async def test_drain_timeout_ends_a_turn_in_flight(realtime: OpenSocket) -> None:
    running, client, server = await realtime(DRAIN_TIMEOUT=0)
    client.send(create())
    await next_event(server)
    draining = asyncio.create_task(running.daemon.drain())
    for side in (client, server):
        assert (await side.close_frame()).code == 1001
        side.close(1001)
        side.wire.close()
    await draining
    turn, socket = await running.settled(2)
    for line in (turn, socket):
        assert (line["outcome"], line["reason"]) == ("aborted", "draining")


@pytest.fixture
def clients(tmp_path: Path) -> Path:
    """A clients file with one client, who may use one model."""
    path = tmp_path / "clients.toml"
    path.write_text(f'{CLIENT}models = ["gpt-5"]\ntokens_per_minute = 5000\n')
    return path


async def test_model_of_each_turn_is_checked(responses: OpenSocket, clients: Path) -> None:
    _, client, server = await responses(CLIENTS_FILE=clients)
    client.send(create_response(model="gpt-4o"))
    event = await next_event(client)
    assert (event["status"], event["error"]["code"]) == (403, "model_not_allowed")
    client.send(create_response())
    assert (await next_event(server))["model"] == "gpt-5"


@pytest.mark.parametrize(
    "fields",
    [
        b'"model":"gpt-5","model":"gpt-4o"',
        b'"model":"gpt-5","Model":"gpt-4o"',
        b'"model":"gpt-4o","response":{"model":"gpt-5"}',
    ],
    ids=["twice", "other case", "two places"],
)
async def test_turn_whose_model_readers_may_differ_about_is_refused(
    responses: OpenSocket, clients: Path, fields: bytes
) -> None:
    _, client, server = await responses(CLIENTS_FILE=clients)
    client.send(b'{"type":"response.create","input":"Hi",%b}' % fields)
    event = await next_event(client)
    assert (event["status"], event["error"]["code"]) == (403, "model_not_allowed")
    assert "cannot tell which model" in event["error"]["message"]
    client.send(b'{"type":"response.create","model":"gpt-5","response":{"model":"gpt-5"}}')
    assert (await next_event(server))["model"] == "gpt-5"


async def test_message_of_two_types_is_checked_like_a_turn(
    responses: OpenSocket, clients: Path
) -> None:
    _, client, server = await responses(CLIENTS_FILE=clients)
    client.send(b'{"type":"response.cancel","type":"response.create","model":"gpt-4o"}')
    event = await next_event(client)
    assert (event["status"], event["error"]["code"]) == (403, "model_not_allowed")
    client.send(b'{"type":"response.cancel","response_id":"r"}')
    assert (await next_event(server))["type"] == "response.cancel"


async def test_realtime_handshake_must_name_an_allowed_model(
    gate: StartGate, upstream: Upstream, clients: Path
) -> None:
    running = await gate(CLIENTS_FILE=clients)
    for target in ("/v1/realtime", "/v1/realtime?model=gpt-4o", "/v1/responses?model=gpt-4o"):
        got = await running.request(handshake(target=target))
        assert (got.status, got.reason) == (403, "model_not_allowed")


async def test_client_limits_apply_to_turns(responses: OpenSocket, clients: Path) -> None:
    _, client, server = await responses(CLIENTS_FILE=clients, RATE_LIMIT_TIMEOUT=1)
    for _ in range(3):
        client.send(create_response(max_output_tokens=2400))
    for _ in range(2):
        await next_event(server)
    assert "for client app" in (await next_event(client))["error"]["message"]


async def test_turn_of_a_removed_client_is_refused(responses: OpenSocket, clients: Path) -> None:
    running, client, _ = await responses(CLIENTS_FILE=clients)
    _rename_client(clients)
    running.daemon.reload()
    client.send(create_response())
    event = await next_event(client)
    assert (event["status"], event["error"]["code"]) == (401, "invalid_api_key")
    assert isinstance(running.daemon._control.auth, ClientAuth)


async def test_waiting_turn_of_a_removed_client_is_refused(
    realtime: OpenSocket, clients: Path
) -> None:
    _allow_all_models(clients)
    limits = ONE_SLOT | {"RATE_LIMIT": 0.001, "RATE_LIMIT_BURST": 2}
    running, client, server = await realtime(CLIENTS_FILE=clients, **limits)
    await hold_turn(running, client, server)
    _rename_client(clients)
    running.daemon.reload()
    await free_slot(client, server)
    event = await next_event(client)
    assert (event["error"]["code"], event["error"]["event_id"]) == ("invalid_api_key", "held")
    await running.wait_until(in_flight=0, waiters=0)
    # What it was granted is there for the next one.
    _allow_all_models(clients)
    running.daemon.reload()
    client.send(create("next"))
    assert (await next_event(server))["event_id"] == "next"


def _allow_all_models(clients: Path) -> None:
    clients.write_text(CLIENT)


def _rename_client(clients: Path) -> None:
    clients.write_text(clients.read_text().replace("client.app", "client.other"))
