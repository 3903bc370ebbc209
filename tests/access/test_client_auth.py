"""Client keys: who is served, under which name, and within which limits."""

import gzip
import json
import os
from pathlib import Path

import pytest

from rustygate import retry
from rustygate.access.client_auth import ClientAuth
from rustygate.cli import main
from rustygate.core.clients import ClientsError, Limits, hash_key
from tests.conftest import StartGate
from tests.support.gate import also_with_workers
from tests.support.http import CONTINUE, UPSTREAM_KEY, chat, post, request, response
from tests.support.upstream import Upstream

KEYS = {name: f"rg-{name}-canary-key" for name in ("search", "batch", "other")}


def table(**lines: str) -> str:
    """A clients file: the clients, each with further lines."""
    return "\n".join(
        f'[client.{name}]\nkey_sha256 = "{hash_key(KEYS[name])}"\n{more}\n'
        for name, more in lines.items()
    )


def write(path: Path, text: str) -> None:
    path.write_text(text)


def remove(path: Path) -> None:
    path.unlink()


def key_of(name: str) -> str:
    return f"Authorization: Bearer {KEYS[name]}"


def request_of(name: str, target: str = "/v1/models", *lines: str) -> bytes:
    head = f"GET {target} HTTP/1.1\r\nHost: gate\r\n{key_of(name)}\r\n"
    return "".join([head, *(f"{line}\r\n" for line in lines), "\r\n"]).encode()


def form_with(model: str) -> bytes:
    """A form with a file and a model; its boundary is `x`."""
    file = b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\ndata\r\n'
    field = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\n%b\r\n'
    return file + field % model.encode() + b"--x--\r\n"


@pytest.fixture
def clients(tmp_path: Path) -> Path:
    path = tmp_path / "clients.toml"
    path.write_text(table(search="", batch='priority = "batch"'))
    return path


async def test_client_has_the_name_of_its_key(
    gate: StartGate, upstream: Upstream, clients: Path
) -> None:
    upstream.reply = response()
    running = await gate(CLIENTS_FILE=clients)
    got = await running.request(
        request_of("search", "/v1/models", "X-RustyGate-Client: another-client")
    )
    assert got.status == 200
    assert (await running.settled())[0]["client"] == "search"
    assert upstream.calls[0].head["authorization"] == f"Bearer {UPSTREAM_KEY}"
    assert KEYS["search"] not in running.log.text


@pytest.mark.parametrize(
    "lines",
    [
        [f"api-key: {KEYS['search']}"],
        [f"X-API-KEY: {KEYS['search']}"],
        [f"x-api-key:{KEYS['search']}", key_of("search")],
        [f"Api-Key: {KEYS['search']}", "Authorization: Basic eDp5", "X-Api-Key:"],
        [f"api-key: {KEYS['search']}", "Connection: api-key"],
        [f"X-Goog-API-Key: {KEYS['search']}"],
        [f"x-goog-api-key: {KEYS['search']}", "Connection: x-goog-api-key"],
        [f"x-goog-api-key: {KEYS['search']}", f"x-api-key: {KEYS['search']}"],
    ],
)
async def test_client_key_may_come_in_the_headers_of_other_apis(
    gate: StartGate, upstream: Upstream, clients: Path, lines: list[str]
) -> None:
    upstream.reply = response()
    running = await gate(CLIENTS_FILE=clients)
    head = "\r\n".join(["GET /v1/models HTTP/1.1", "Host: gate", *lines, "", ""])
    assert (await running.request(head.encode())).status == 200
    assert (await running.settled())[0]["client"] == "search"
    assert upstream.calls[0].head["authorization"] == f"Bearer {UPSTREAM_KEY}"
    assert KEYS["search"].encode() not in upstream.wires[0].received
    assert KEYS["search"] not in running.log.text


@pytest.mark.parametrize(
    "line",
    [
        "X-None: 1",
        "Authorization: Bearer rg-wrong",
        "Authorization: Bearer ",
        "Authorization: Basic cmctc2VhcmNo",
        f"Authorization: {KEYS['search']}",
        f"Authorization: Bearer {hash_key(KEYS['search'])}",
        f"X-Goog-API-Key: Bearer {KEYS['search']}",
        f"Ocp-Apim-Subscription-Key: {KEYS['search']}",
        f"{key_of('search')}\r\nX-Goog-API-Key: {KEYS['batch']}",
        f"api-key: Bearer {KEYS['search']}",
        f"Api_Key: {KEYS['search']}",
        f"{key_of('search')}\r\nX-Api-Key: {KEYS['batch']}",
        f"{key_of('search')}\r\nAuthorization: Bearer {KEYS['batch']}",
        f"api-key: {KEYS['search']}\r\napi-key: rg-wrong",
        f"{key_of('search')}\r\nX-Api-Key: rg-wrong",
    ],
)
async def test_request_without_a_valid_key_is_refused(
    gate: StartGate, upstream: Upstream, clients: Path, line: str
) -> None:
    """The refusal comes before the body is read and before the queue."""
    running = await gate(CLIENTS_FILE=clients)
    head = f"POST /v1/files HTTP/1.1\r\nHost: gate\r\n{line}\r\nContent-Length: 1000000\r\n\r\n"
    client = await running.send(head.encode())
    got = await client.response()
    assert (got.status, got.reason) == (401, "invalid_api_key")
    assert (got.error["type"], got.error["code"]) == ("invalid_request_error", "invalid_api_key")
    assert got.head["www-authenticate"] == "Bearer"
    assert b"rg-wrong" not in got.body
    assert upstream.calls == []


async def test_refused_request_is_not_logged_under_a_client_name(
    gate: StartGate, upstream: Upstream, clients: Path
) -> None:
    running = await gate(CLIENTS_FILE=clients)
    name = "X-RustyGate-Client: search"
    await running.request(request_of("other", "/v1/models", name))
    await running.request(request_of("search", "/v1/models", name, "Origin: https://evil.example"))
    assert [line["client"] for line in await running.settled(2)] == ["127.0.0.1"] * 2


async def test_health_needs_no_key(gate: StartGate, clients: Path) -> None:
    running = await gate(CLIENTS_FILE=clients)
    for path in ("/health", "/ready"):
        assert (
            await running.request(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        ).status == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"model": "gpt-4o-mini"}', 200),
        (b'{"model": "o1"}', 403),
        (b'{"input": "no model"}', 200),
        (b'{"model": "o1", "x": "\\ud800"}', 403),
        (b"[" * 20_000, 403),
        (b"not JSON", 403),
        (b'{"model": "gpt-4o", "model": "o1"}', 403),
        (b'{"model": "o1", "model": "gpt-4o"}', 403),
        (b'{"model": "gpt-4o", "Model": "o1"}', 403),
        (b'{"MODEL": "o1"}', 403),
        (b'{"model": "gpt-4o", "tools": [{"model": {}, "Model": {}}]}', 200),
        (b'{"model": "/models/%b/o1"}' % (b"x" * 128), 403),
    ],
    ids=[
        "allowed",
        "other",
        "none",
        "unreadable",
        "deep",
        "not JSON",
        "other last",
        "other first",
        "in another case",
        "only in another case",
        "in a tool",
        "long name",
    ],
)
async def test_models_are_restricted(
    gate: StartGate, upstream: Upstream, clients: Path, body: bytes, status: int
) -> None:
    write(clients, table(search='models = ["gpt-4o*"]'))
    upstream.reply = response()
    running = await gate(CLIENTS_FILE=clients)
    sent = post(body).replace(b"sk-client-canary-9d7c5b3a1f2e", KEYS["search"].encode())
    got = await running.request(sent)
    assert got.status == status
    assert len(upstream.calls) == (status == 200)
    if status == 403:
        assert (got.reason, "gpt-4o*" in got.error["message"]) == ("model_not_allowed", True)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/batches", 403),
        ("/v1//b%61tches/", 403),
        ("/v1/batches/batch_1/cancel", 200),
        ("/v1/realtime/client_secrets", 403),
        ("/v1/evals/eval_1/runs", 403),
        ("/v1/deployments/o1/chat/completions", 403),
        ("/v1/engines/o1/completions", 403),
        ("/v1/models/o1:generateContent", 403),
        ("/v1/vector_stores", 200),
    ],
)
async def test_path_that_hides_its_models_is_refused(
    gate: StartGate, upstream: Upstream, clients: Path, path: str, status: int
) -> None:
    write(clients, table(search='models = ["gpt-4o*"]'))
    upstream.reply = response()
    body = b'{"model": "gpt-4o", "input_file_id": "file_1", "session": {"model": "o1"}}'
    sent = request("POST", path, "Content-Type: application/json", body=body)
    sent = sent.replace(b"sk-client-canary-9d7c5b3a1f2e", KEYS["search"].encode())
    assert (await (await gate(CLIENTS_FILE=clients)).request(sent)).status == status


@pytest.mark.parametrize(("path", "status"), [("/v1/files", 200), ("/v1/audio/translations", 403)])
async def test_streamed_body_does_not_show_its_model(
    gate: StartGate, upstream: Upstream, clients: Path, path: str, status: int
) -> None:
    write(clients, table(search='models = ["gpt-4o*"]'))
    upstream.reply = response()
    body = form_with("gpt-4o")
    sent = request("POST", path, "Content-Type: multipart/form-data; boundary=x", body=body)
    sent = sent.replace(b"sk-client-canary-9d7c5b3a1f2e", KEYS["search"].encode())
    running = await gate(CLIENTS_FILE=clients, MAX_BUFFERED_BODY=(len(body) - 1) // 2)
    assert (await running.request(sent)).status == status


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (form_with("gpt-4o"), 200),
        (form_with("o1"), 403),
        (form_with("gpt-4o").replace(b'"model"', b'"voice"'), 200),
        (form_with("gpt-4o") + form_with("o1"), 403),
        (form_with("gpt-4o").replace(b"--x--", b""), 403),
        (form_with("gpt-4o").replace(b"\r\n", b"\n"), 403),
        (b"model=gpt-4o", 403),
    ],
    ids=["allowed", "other", "none", "two forms", "no end", "line feeds", "not multipart"],
)
async def test_form_shows_its_model(
    gate: StartGate, upstream: Upstream, clients: Path, body: bytes, status: int
) -> None:
    write(clients, table(search='models = ["gpt-4o*"]'))
    upstream.reply = response()
    lines = ["Content-Type: multipart/form-data; boundary=x"]
    sent = request("POST", "/v1/images/edits", *lines, body=body)
    sent = sent.replace(b"sk-client-canary-9d7c5b3a1f2e", KEYS["search"].encode())
    got = await (await gate(CLIENTS_FILE=clients)).request(sent)
    assert (got.status, len(upstream.calls)) == (status, status == 200)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (gzip.compress(b'{"model": "gpt-4o-mini"}'), 200),
        (gzip.compress(b'{"model": "o1"}'), 403),
        (gzip.compress(b'{"model": "o1", "model": "gpt-4o"}'), 403),
        (gzip.compress(b'{"model": "gpt-4o-mini"}') + gzip.compress(b" "), 200),
        (gzip.compress(b'{"model": "gpt-4o-mini"}') + b"\x00", 403),
        (gzip.compress(b'{"model": "gpt-4o-mini"}')[:-1], 403),
        (gzip.compress(b'{"model": "gpt-4o-mini", "x": "%b"}' % bytes(1 << 20)), 403),
        (b'{"model": "gpt-4o-mini"}', 403),
    ],
    ids=[
        "allowed",
        "other",
        "named twice",
        "two members",
        "more data",
        "incomplete",
        "bomb",
        "not compressed",
    ],
)
async def test_compressed_body_shows_its_model(
    gate: StartGate, upstream: Upstream, clients: Path, body: bytes, status: int
) -> None:
    write(clients, table(search='models = ["gpt-4o*"]'))
    upstream.reply = response()
    sent = post(body, "Content-Encoding: gzip")
    sent = sent.replace(b"sk-client-canary-9d7c5b3a1f2e", KEYS["search"].encode())
    running = await gate(CLIENTS_FILE=clients, MAX_BUFFERED_BODY=100_000)
    got = await running.request(sent)
    assert (got.status, len(upstream.calls)) == (status, status == 200)


@pytest.mark.parametrize(("model", "status"), [("gpt-4o", 200), ("o1", 403)])
async def test_form_is_asked_for_if_it_must_show_its_model(
    gate: StartGate, upstream: Upstream, clients: Path, model: str, status: int
) -> None:
    """curl waits for a 100 before it sends a large form."""
    write(clients, table(search='models = ["gpt-4o*"]'))
    upstream.reply = response()
    body = form_with(model)
    lines = [
        "Content-Type: multipart/form-data; boundary=x",
        "Expect: 100-continue",
        f"Content-Length: {len(body)}",
    ]
    sent = request("POST", "/v1/images/edits", *lines)
    sent = sent.replace(b"sk-client-canary-9d7c5b3a1f2e", KEYS["search"].encode())
    client = await (await gate(CLIENTS_FILE=clients)).send(sent)
    assert (await client.head()).raw == CONTINUE
    client.send(body)
    assert (await client.response()).status == status
    assert len(upstream.calls) == (status == 200)


LARGE = 100_000
LARGE_BODIES = {
    "JSON": (b'{"model": "gpt-4o", "x": "%b"}', ["Content-Type: application/json"]),
    "model at the end": (b'{"x": "%b", "model": "gpt-4o"}', ["Content-Type: application/json"]),
    "other model": (b'{"model": "o1", "x": "%b"}', ["Content-Type: application/json"]),
    "form": (
        form_with("gpt-4o").replace(
            b"--x--", b'--x\r\nContent-Disposition: form-data; name="f"\r\n\r\n%b\r\n--x--'
        ),
        ["Content-Type: multipart/form-data; boundary=x"],
    ),
}


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize("kind", LARGE_BODIES)
async def test_as_much_is_read_of_a_plain_body_as_of_a_compressed_one(
    gate: StartGate, upstream: Upstream, clients: Path, kind: str, more: int, compressed: bool
) -> None:
    """Twice MAX_BUFFERED_BODY."""
    write(clients, table(search='models = ["gpt-4o*"]'))
    upstream.reply = response()
    template, lines = LARGE_BODIES[kind]
    body = template % (b"x" * (2 * LARGE + more + len(b"%b") - len(template)))
    assert len(body) == 2 * LARGE + more
    if compressed:
        body, lines = gzip.compress(body), [*lines, "Content-Encoding: gzip"]
    sent = request("POST", "/v1/images/edits", *lines, body=body)
    sent = sent.replace(b"sk-client-canary-9d7c5b3a1f2e", KEYS["search"].encode())
    running = await gate(CLIENTS_FILE=clients, MAX_BUFFERED_BODY=LARGE)
    status = 403 if more or kind == "other model" else 200
    assert (await running.request(sent)).status == status
    assert [wire.received.endswith(body) for wire in upstream.wires] == [True] * (status == 200)


async def test_large_body_may_name_another_model_later(
    gate: StartGate, upstream: Upstream, clients: Path
) -> None:
    write(clients, table(search='models = ["gpt-4o*"]'))
    body = b'{"model": "gpt-4o", "x": "%b", "model": "o1"}' % (b"x" * 200_000)
    sent = post(body).replace(b"sk-client-canary-9d7c5b3a1f2e", KEYS["search"].encode())
    running = await gate(CLIENTS_FILE=clients, MAX_BUFFERED_BODY=1000)
    got = await running.request(sent)
    assert (got.status, got.reason) == (403, "model_not_allowed")
    assert upstream.calls == []


@pytest.mark.parametrize(
    "limit", ["requests_per_second = 2\nburst = 1", "concurrency = 1"], ids=["rate", "slots"]
)
async def test_client_at_its_own_limit_does_not_delay_others(
    gate: StartGate, upstream: Upstream, clients: Path, limit: str
) -> None:
    write(clients, table(search=limit, other=""))
    running = await gate(CLIENTS_FILE=clients)
    first = await running.send(request_of("search"))
    call = await upstream.call()
    others = [await running.send(request_of("search")) for _ in range(2)]
    await running.wait_until(waiters=2)
    free = await running.send(request_of("other", "/v1/free"))
    while (other := await upstream.call()).target != "/v1/free":
        await other.respond(response())
    await other.respond(response())
    # Behind the others' limit, it would wait for half a second or for ever.
    assert (await free.response()).head["x-rustygate-queued-ms"] == "0"
    upstream.reply = response()
    await call.respond(response())
    assert [(await client.response()).status for client in (first, *others)] == [200] * 3


async def test_tokens_of_a_client_limit_are_settled(
    gate: StartGate, upstream: Upstream, clients: Path
) -> None:
    write(clients, table(search="tokens_per_minute = 6000"))
    usage = {"prompt_tokens": 0, "completion_tokens": 5950, "total_tokens": 5950}
    body = json.dumps({"usage": usage}).encode()
    upstream.reply = response(body, "Content-Type: application/json")
    running = await gate(CLIENTS_FILE=clients)
    sent = chat().replace(b"sk-client-canary-9d7c5b3a1f2e", KEYS["search"].encode())
    assert (await running.request(sent)).head["x-rustygate-queued-ms"] == "0"
    refused = await running.request(
        sent.replace(b"\r\n\r\n", b"\r\nx-stainless-timeout: 1\r\n\r\n", 1)
    )
    assert (refused.status, refused.error["type"]) == (429, "tokens")


async def test_clients_share_by_weight(gate: StartGate, upstream: Upstream, clients: Path) -> None:
    write(clients, table(search="weight = 3", other=""))
    running = await gate(CLIENTS_FILE=clients, CONCURRENCY_LIMIT=1)
    await running.send(request_of("other", "/v1/holder"))
    call = await upstream.call()
    for name in ("other", "search") * 8:
        await running.send(request_of(name, f"/v1/{name}"))
    await running.wait_until(waiters=16)
    order = []
    for _ in range(8):
        await call.respond(response())
        call = await upstream.call()
        order.append(call.target.removeprefix("/v1/"))
    assert order.count("search") in (5, 6, 7)


async def test_reload_adds_and_removes_clients(
    gate: StartGate, upstream: Upstream, clients: Path
) -> None:
    upstream.reply = response()
    running = await gate(CLIENTS_FILE=clients)
    assert (await running.request(request_of("other"))).status == 401
    write(clients, table(other=""))
    assert running.daemon.reload() == (1, 0, 2)
    assert running.daemon.reload() == (0, 0, 0)
    assert (await running.request(request_of("other"))).status == 200
    assert (await running.request(request_of("search"))).status == 401


@pytest.mark.parametrize("text", ["[client.x", "[client.search]\nkey_sha256 = 'short'"])
async def test_invalid_file_leaves_the_clients_in_force(
    gate: StartGate, upstream: Upstream, clients: Path, text: str
) -> None:
    upstream.reply = response()
    running = await gate(CLIENTS_FILE=clients)
    write(clients, text)
    with pytest.raises(ClientsError):
        running.daemon.reload()
    remove(clients)
    with pytest.raises(ClientsError, match="No such file"):
        running.daemon.reload()
    assert (await running.request(request_of("search"))).status == 200


def test_limits_include_clients_without_limits(clients: Path) -> None:
    """Otherwise limits added on a reload would not apply to requests that wait already."""
    write(clients, table(search=""))
    assert ClientAuth(str(clients)).limits["search"] == Limits()


async def test_new_limits_apply_to_waiting_requests(
    gate: StartGate, upstream: Upstream, clients: Path
) -> None:
    write(clients, table(search="concurrency = 1"))
    running = await gate(CLIENTS_FILE=clients)
    sent = [await running.send(request_of("search")) for _ in range(3)]
    first = await upstream.call()
    await running.wait_until(waiters=2)
    write(clients, table(search=""))
    running.daemon.reload()
    calls = [first, await upstream.call(), await upstream.call()]
    for call in calls:
        await call.respond(response())
    assert [(await client.response()).status for client in sent] == [200] * 3


@also_with_workers
async def test_waiting_request_of_a_removed_client_is_refused_at_its_turn(
    gate: StartGate, upstream: Upstream, clients: Path
) -> None:
    # Two requests at once, and no more: what the refused one was granted is given back.
    slow = {"RATE_LIMIT": 0.001, "RATE_LIMIT_BURST": 2, "CONCURRENCY_LIMIT": 1}
    running = await gate(CLIENTS_FILE=clients, **slow)
    holder = await running.send(request_of("search"))
    call = await upstream.call()
    waiter = await running.send(request_of("batch"))
    await running.wait_until(waiters=1)
    write(clients, table(search=""))
    running.daemon.reload()
    await call.respond(response())
    assert (await holder.response()).status == 200
    got = await waiter.response()
    assert (got.status, got.reason) == (401, "invalid_api_key")
    upstream.reply = response()
    assert (await running.request(request_of("search"))).status == 200
    assert len(upstream.calls) == 2


async def test_removed_client_gets_no_retry(
    gate: StartGate, upstream: Upstream, clients: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "RETRY_PAUSE_S", 2.0)
    running = await gate(CLIENTS_FILE=clients)
    client = await running.send(request_of("batch"))
    (await upstream.call()).reset()
    await running.wait_until(in_flight=0)
    write(clients, table(search=""))
    running.daemon.reload()
    assert (await client.response()).reason == "invalid_api_key"
    assert len(upstream.calls) == 1
    metrics = await running.request(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert metrics.status == 200
    assert b"rustygate_retries_total{" not in metrics.body


HANDSHAKE = (
    "GET {} HTTP/1.1\r\nHost: gate\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    "Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.{}\r\n\r\n"
)


@pytest.mark.parametrize(
    ("target", "key", "status"),
    [
        ("/v1/realtime?model=gpt-4o-realtime", KEYS["search"], 200),
        ("/v1/realtime?model=gpt-4o-realtime", "rg-wrong", 401),
        ("/v1/realtime?model=o1", KEYS["search"], 403),
        ("/v1/realtime?model=gpt-4o-realtime&model=o1", KEYS["search"], 403),
        ("/v1/responses", KEYS["search"], 200),
        ("/v1/realtime", KEYS["search"], 403),
    ],
    ids=["allowed", "wrong key", "other model", "two models", "model in each turn", "no model"],
)
async def test_websocket_key_can_be_a_subprotocol(
    gate: StartGate, upstream: Upstream, clients: Path, target: str, key: str, status: int
) -> None:
    write(clients, table(search='models = ["gpt-4o*"]'))
    upstream.reply = response()
    got = await (await gate(CLIENTS_FILE=clients)).request(HANDSHAKE.format(target, key).encode())
    assert got.status == status
    for call in upstream.calls:
        assert KEYS["search"].encode() not in call.head.raw


def test_key_command_prints_a_key_and_its_table(
    capsys: pytest.CaptureFixture[str], clients: Path
) -> None:
    assert main(["key", "new.one"]) == 0
    out = capsys.readouterr().out
    [key] = [line for line in out.splitlines() if line.startswith("rg-")]
    assert len(key) == 3 + 43
    assert f'[client."new.one"]\nkey_sha256 = "{hash_key(key)}"\n' in out
    main(["key", "new.one"])
    assert key not in capsys.readouterr().out


def test_key_command_rejects_an_invalid_name() -> None:
    with pytest.raises(SystemExit) as ended:
        main(["key", "a b"])
    assert ended.value.code == 2


def test_weights_and_version_follow_the_file(clients: Path) -> None:
    """In a group, the limits and weights of the newest file apply."""
    write(clients, table(search="weight = 2", other=""))
    os.utime(clients, ns=(0, 5_000_000))
    auth = ClientAuth(str(clients))
    assert (auth.weights, auth.version) == ({"search": 2.0, "other": 1.0}, 5_000)
    write(clients, table(search="weight = 3"))
    os.utime(clients, ns=(0, 7_000_000))
    auth.reload()
    assert (auth.weights, auth.version) == ({"search": 3.0}, 7_000)
    write(clients, "[client.x")
    with pytest.raises(ClientsError):
        auth.reload()
    assert auth.version == 7_000
    assert (ClientAuth(None).weights, ClientAuth(None).version) == ({}, 0)
