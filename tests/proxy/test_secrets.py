"""No key ever appears in the log or in the gate's own responses.

A gate process is driven through everything that can go wrong, and every byte it wrote is searched
for every secret. Upstream repeats the gate's key wherever it can. Its responses are forwarded
unchanged; everything else that the gate writes must not contain a key in any form.
"""

import asyncio
import os
import re
import signal
import sys
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest

from rustygate.admission.group.redis_store import RedisStore
from rustygate.config import Settings
from rustygate.config.redis_url import parse_redis_url
from rustygate.core.headers import Credentials, request_headers
from rustygate.core.websocket_handshake import WebSocketHandshake
from rustygate.downstream.request_body import RequestBody
from rustygate.exchange import Exchange
from rustygate.proxy import UpstreamRequest
from rustygate.retry import FailedAttempt
from tests.support.canaries import (
    ADMIN,
    BODY,
    BROKEN,
    CANARIES,
    CHUNKED,
    CLIENTS,
    COLLECTOR,
    HOSTILE,
    KEY,
    PROTOCOL,
    QUERY,
    REDIS_PASSWORD,
    REDIS_USER,
    SHORT_TIMEOUT,
    build_handshake,
    build_head,
    build_request,
    build_scrape,
    found_in,
    scripted,
)
from tests.support.http import EVENT_STREAM, chunk
from tests.support.upstream import Upstream, loopback_socket, url_of
from tests.support.waiting import until
from tests.support.websocket import CLIENT_NONCE, frame
from tests.support.wire import Wire

ROOT = Path(__file__).parents[2]

# A busy machine may take this long to start or end a process.
PROCESS_TIMEOUT_S = 30.0

# A gate with defects: a body that contains "provoke" triggers every way in which Python reports a
# failure.
FAULTY_GATE = """
import asyncio, sys, threading, time, warnings
from rustygate import cli, proxy
from rustygate.downstream import request_body as body

class Broken:
    def __init__(self, secret):
        self.secret = secret
    def __del__(self):
        raise ValueError(self.secret)

async def fail_later(secret):
    raise ValueError(secret)

def fail(secret):
    raise KeyError(secret)

def faulty(body, path=None):
    if b'"provoke"' not in body:
        return real(body, path)
    secret = body.decode()
    loop = asyncio.get_running_loop()
    loop.call_soon(fail, secret)
    loop.create_task(fail_later(secret))
    loop.create_future().set_exception(ValueError(secret))
    fail_later(secret)
    Broken(secret)
    threading.Thread(target=fail, args=(secret,)).start()
    warnings.warn(f"unclosed <{secret}>", ResourceWarning)
    time.sleep(0.2)
    raise RuntimeError(secret)

real, proxy.read_request_facts = proxy.read_request_facts, faulty
# With a short timeout.
body.BODY_TIMEOUT_S = 0.5
sys.exit(cli.main())
"""
REPORTS = (
    "Exception in callback",
    "Task exception was never retrieved",
    "Future exception was never retrieved",
    "exception in a finalizer",
    "exception in a thread",
    "KeyError",
    "RuntimeError",
)
DEBUG_REPORTS = ("ResourceWarning: unclosed", "was never awaited", "Executing")

# Every reason in X-RustyGate-Error.
REASONS = {
    "admin_only",
    "bad_request",
    "body_too_large",
    "draining",
    "internal_error",
    "invalid_admin_key",
    "invalid_api_key",
    "method_not_allowed",
    "model_not_allowed",
    "not_found",
    "origin_not_allowed",
    "queue_full",
    "queue_timeout",
    "request_timeout",
    "request_too_large",
    "too_many_connections",
    "upstream_disconnected",
    "upstream_timeout",
    "upstream_unreachable",
}


class GateProcess:
    """A gate process, and everything that it wrote itself."""

    def __init__(self, directory: Path, process: asyncio.subprocess.Process) -> None:
        self._directory = directory
        self._process = process
        self.url = ""
        self.own_responses = b""
        self._wires: list[Wire] = []

    @property
    def written(self) -> bytes:
        return b"".join((self._directory / name).read_bytes() for name in ("stdout", "stderr"))

    @property
    def everything(self) -> bytes:
        return self.written + self.own_responses

    @property
    def reasons(self) -> set[str]:
        found = re.findall(rb"^X-RustyGate-Error: (\w+)", self.own_responses, re.M | re.I)
        return {reason.decode() for reason in found}

    async def wait_until_listening(self) -> None:
        listening = re.compile(rb"listening.*?(http://[\d.:]+)")
        await until(lambda: bool(listening.search(self.written)), PROCESS_TIMEOUT_S)
        found = listening.search(self.written)
        assert found
        self.url = found[1].decode()

    async def send(self, data: bytes) -> Wire:
        wire = await Wire.connect(self.url)
        self._wires.append(wire)
        wire.send(data)
        return wire

    async def request(self, data: bytes, *, own: bool = False) -> bytes:
        """Everything received until the connection ended; kept if the gate responded itself."""
        wire = await self.send(data)
        async with asyncio.timeout(PROCESS_TIMEOUT_S):
            await wire.ended()
        return self.keep(wire, own=own)

    def keep(self, wire: Wire, *, own: bool = False) -> bytes:
        received = bytes(wire.received)
        if own or b"X-RustyGate-Error:" in received:
            self.own_responses += received
        return received

    async def fill_queue(self) -> None:
        """Take the only slot and the only place in the queue; a request then gets `queue_full`."""
        await self.hold_slot()
        self.waiter = await self.send(build_request("slow"))
        while b"queue_full" not in await self.request(build_request("slow", SHORT_TIMEOUT)):
            if self.waiter.end is not None:
                self.waiter = await self.send(build_request("slow"))

    async def hold_slot(self) -> Wire:
        """Take the only slot. The gate may not have noticed yet that the clients before have left,
        and refuse a request because of them."""
        while True:
            holder = await self.send(build_request("slow", stream=True))
            await until(partial(_is_answered, holder))
            if b"data:" in holder.received:
                return holder

    def disconnect(self) -> None:
        for wire in self._wires:
            wire.abort()

    async def stop(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PROCESS_TIMEOUT_S):
            return await self._process.wait()


def _is_answered(wire: Wire) -> bool:
    return b"data:" in wire.received or b" 429 " in wire.received


def _write_script(directory: Path) -> str:
    directory.mkdir()
    script = directory / "faulty_gate.py"
    script.write_text(FAULTY_GATE)
    return str(script)


@asynccontextmanager
async def running_gate(
    directory: Path, base_url: str, **environ: str
) -> AsyncIterator[GateProcess]:
    script = _write_script(directory)
    given = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": base_url,
        "PORT": "0",
        "RUST_LOG": "trace",
        "RATE_LIMIT": "auto",
        "RATE_LIMIT_TIMEOUT": "2",
        "CONCURRENCY_LIMIT": "1",
        "TOKENS_PER_MINUTE": "1000000",
        "QUEUE_LIMIT": "1",
        "MAX_BODY_SIZE": "100000",
        "UPSTREAM_READ_TIMEOUT": "1",
        "UPSTREAM_RETRIES": "1",
        "DRAIN_TIMEOUT": "0.2",
        "ADMIN_KEY": ADMIN,
    } | environ
    with (directory / "stdout").open("wb") as stdout, (directory / "stderr").open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            sys.executable, script, cwd=directory, env=given, stdout=stdout, stderr=stderr
        )
    gate = GateProcess(directory, process)
    try:
        await gate.wait_until_listening()
        yield gate
    finally:
        gate.disconnect()
        if process.returncode is None:
            process.kill()
        await process.wait()


async def disconnect_at_each_step(gate: GateProcess, upstream: Upstream) -> None:
    """Disconnect while upstream is silent, during a stream, and during an upload."""
    calls = len(upstream.calls)
    silent = await gate.send(build_request("silent"))
    await until(lambda: len(upstream.calls) > calls)
    silent.abort()
    stream = await gate.hold_slot()
    stream.reset()
    calls = len(upstream.calls)
    # A body that is not held.
    lines = [CHUNKED, "Content-Type: multipart/form-data; boundary=x", "Expect: 100-continue"]
    upload = await gate.send(build_head("POST", "/v1/silent/x", *lines))
    upload.send(chunk(BODY.encode()))
    await until(lambda: len(upstream.calls) > calls)
    upload.abort()


async def provoke_failures(gate: GateProcess, upstream: Upstream) -> None:
    """Provoke every failure except those at the end of the process."""
    for data in HOSTILE.values():
        await gate.request(data, own=True)
    for path in ("/health", "/ready"):
        await gate.request(build_head("GET", f"{path}?key={QUERY}"), own=True)
    for name, (sent, _) in BROKEN.items():
        await gate.request(build_request(name, stream=sent.startswith(EVENT_STREAM)))
    for name in ("socket", "switches", "wrong-key", "closes"):
        await gate.request(build_handshake(name))
    await gate.request(build_handshake("socket") + frame(BODY.encode()))
    for key in (ADMIN, CLIENTS[0]):
        await gate.request(build_scrape(key), own=True)
    await gate.request(build_request("silent"))
    await gate.request(build_request("slow", max_output_tokens=2_000_000))
    await gate.request(build_request("slow", provoke=True))
    await disconnect_at_each_step(gate, upstream)
    await gate.fill_queue()
    gate.disconnect()
    await gate.hold_slot()
    await gate.request(build_request("slow", SHORT_TIMEOUT))
    gate.disconnect()


def clients_file(directory: Path) -> str:
    """A clients file with the first client, which may use one model."""
    digest = sha256(CLIENTS[0].encode()).hexdigest()
    path = directory / "clients.toml"
    path.write_text(f'[client.search]\nkey_sha256 = "{digest}"\nmodels = ["slow"]\n')
    return str(path)


RUNS = {
    "text": {},
    "json": {"LOG_FORMAT": "json"},
    # A group whose Redis is not there.
    "alone": {"REDIS_URL": f"redis://{REDIS_USER}:{REDIS_PASSWORD}@127.0.0.1:1"},
    "debug": {
        "PYTHONASYNCIODEBUG": "1",
        "PYTHONWARNINGS": "always",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{COLLECTOR}",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    },
}


@pytest.mark.parametrize("run", RUNS)
async def test_gate_writes_no_secret(upstream: Upstream, tmp_path: Path, run: str) -> None:
    environ = RUNS[run]
    async with (
        scripted(upstream),
        running_gate(tmp_path / "gate", upstream.url, **environ) as gate,
    ):
        await provoke_failures(gate, upstream)
        await gate.fill_queue()
        assert await gate.stop() == 0
        gate.keep(gate.waiter)
    restricted = environ | {
        "ADMIN_KEY": "",
        "CONNECTION_LIMIT": "3",
        "UPSTREAM_CONNECT_TIMEOUT": "0.2",
    }
    restricted["CLIENTS_FILE"] = clients_file(tmp_path)
    with loopback_socket() as refusing_socket:
        async with running_gate(
            tmp_path / "second", url_of(refusing_socket), **restricted
        ) as second_gate:
            assert b"upstream_unreachable" in await second_gate.request(build_request("slow"))
            await second_gate.request(build_request("other"))
            await second_gate.request(
                build_request("slow").replace(CLIENTS[0].encode(), CLIENTS[1].encode())
            )
            await second_gate.request(build_scrape(CLIENTS[0]))
            for _ in range(3):
                await second_gate.send(b"GET")
            await second_gate.request(build_request("slow"))
            assert await second_gate.stop() == 0
    assert gate.reasons | second_gate.reasons == REASONS
    for report in REPORTS + (DEBUG_REPORTS if run == "debug" else ()):
        assert report.encode() in gate.written
    assert found_in(gate.everything + second_gate.everything) == []


def test_no_repr_contains_a_secret() -> None:
    url = f"redis://{REDIS_USER}:{REDIS_PASSWORD}@127.0.0.1/1?password={REDIS_PASSWORD}"
    settings = Settings(openai_api_key=KEY, redis_url=url)
    credentials = Credentials.for_account(KEY, None, None)
    headers = request_headers([(b"X-Key", BODY.encode())], credentials, streaming=False)
    exchange = Exchange("search", "GET", "/v1/x")
    body = RequestBody.__new__(RequestBody)
    upstream_request = UpstreamRequest(exchange, f"/v1/x?key={QUERY}", headers, body)
    handshake = WebSocketHandshake(CLIENT_NONCE, (f"openai-insecure-api-key.{PROTOCOL}",), ())
    failed = FailedAttempt(body_start=BODY.encode())
    store = RedisStore(parse_redis_url(url), "group", b"")
    values = (settings, credentials, exchange, upstream_request, handshake, failed, store)
    assert found_in(repr(values).encode()) == []


def test_search_finds_secrets_in_any_form() -> None:
    """Without this, the other tests would prove nothing."""
    for secret in CANARIES:
        for before in (b"", b"x", b"xy", b"Bearer "):
            data = before + secret.encode() + b":"
            assert found_in(data) == [secret]
            assert found_in(b64encode(data)) == [secret]
