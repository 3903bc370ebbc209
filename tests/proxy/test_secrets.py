"""No key ever shows: a gate as a process, driven through whatever can go wrong, and every byte it
wrote searched for every secret it was told.

Upstream repeats the gate's key wherever it can. What it answers is passed as sent, by contract;
all else that the gate writes, its log and its own answers, must hold no key in any form.
"""

import asyncio
import os
import re
import signal
import sys
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import pytest

from rustygate.config import Settings
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
    IMPATIENT,
    KEY,
    PROTOCOL,
    QUERY,
    ask,
    found_in,
    head,
    metrics,
    opening,
    played,
)
from tests.support.http import EVENT_STREAM, chunk
from tests.support.upstream import Upstream, loopback_socket, url_of
from tests.support.waiting import until
from tests.support.websocket import CLIENT_NONCE, frame
from tests.support.wire import Wire

ROOT = Path(__file__).parents[2]

# A machine under load may take this long to start or to end a process.
PATIENCE_S = 30.0

# A gate with defects: a body that asks for it meets all ways in which Python reports a failure.
DEFECTIVE = """
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

def defective(body, path=None):
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

real, proxy.read_request_facts = proxy.read_request_facts, defective
# And little patience.
body.BODY_TIMEOUT_S = 0.5
sys.exit(cli.main())
"""
REPORTED = (
    "Exception in callback",
    "Task exception was never retrieved",
    "Future exception was never retrieved",
    "exception in a finalizer",
    "exception in a thread",
    "KeyError",
    "RuntimeError",
)
REPORTED_IN_DEBUG = ("ResourceWarning: unclosed", "was never awaited", "Executing")

# Every reason of the gate's own errors.
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


class Gate:
    """A gate as a process, and all that it wrote by itself."""

    def __init__(self, directory: Path, process: asyncio.subprocess.Process) -> None:
        self._directory = directory
        self._process = process
        self.url = ""
        self.pages = b""
        self._wires: list[Wire] = []

    @property
    def written(self) -> bytes:
        return b"".join((self._directory / name).read_bytes() for name in ("stdout", "stderr"))

    @property
    def everything(self) -> bytes:
        return self.written + self.pages

    @property
    def reasons(self) -> set[str]:
        found = re.findall(rb"^X-RustyGate-Error: (\w+)", self.pages, re.M | re.I)
        return {reason.decode() for reason in found}

    async def listens(self) -> None:
        listening = re.compile(rb"listening.*?(http://[\d.:]+)")
        await until(lambda: bool(listening.search(self.written)), PATIENCE_S)
        found = listening.search(self.written)
        assert found
        self.url = found[1].decode()

    async def send(self, data: bytes) -> Wire:
        wire = await Wire.connect(self.url)
        self._wires.append(wire)
        wire.send(data)
        return wire

    async def request(self, data: bytes, *, own: bool = False) -> bytes:
        """What came, once the connection has ended; kept if it is the gate's own."""
        wire = await self.send(data)
        async with asyncio.timeout(PATIENCE_S):
            await wire.ended()
        return self.keep(wire, own=own)

    def keep(self, wire: Wire, *, own: bool = False) -> bytes:
        received = bytes(wire.received)
        if own or b"X-RustyGate-Error:" in received:
            self.pages += received
        return received

    async def fills_up(self) -> None:
        """Take the only slot and the only place in the queue; `queue_full` says that it is so."""
        holder = await self.send(ask("slow", stream=True))
        await until(lambda: b"data:" in holder.received)
        self.waiter = await self.send(ask("slow"))
        while b"queue_full" not in await self.request(ask("slow", IMPATIENT)):
            if self.waiter.end is not None:
                self.waiter = await self.send(ask("slow"))

    def disconnect(self) -> None:
        for wire in self._wires:
            wire.transport.abort()

    async def ends(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            return await self._process.wait()


def _defective(directory: Path) -> str:
    directory.mkdir()
    script = directory / "defective.py"
    script.write_text(DEFECTIVE)
    return str(script)


@asynccontextmanager
async def running(directory: Path, base_url: str, **environ: str) -> AsyncIterator[Gate]:
    script = _defective(directory)
    given = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": base_url,
        "PORT": "0",
        "RUST_LOG": "trace",
        "RATE_LIMIT": "auto",
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
    gate = Gate(directory, process)
    try:
        await gate.listens()
        yield gate
    finally:
        gate.disconnect()
        if process.returncode is None:
            process.kill()
        await process.wait()


async def leave_at_each_step(gate: Gate, upstream: Upstream) -> None:
    """While upstream is silent, in the middle of a stream, and in the middle of a body."""
    asked = len(upstream.calls)
    silent = await gate.send(ask("silent"))
    await until(lambda: len(upstream.calls) > asked)
    silent.transport.abort()
    stream = await gate.send(ask("slow", stream=True))
    await until(lambda: b"data:" in stream.received)
    stream.reset()
    asked = len(upstream.calls)
    multipart = "Content-Type: multipart/form-data; boundary=x"
    upload = await gate.send(head("POST", "/v1/silent/x", CHUNKED, multipart))
    upload.send(chunk(BODY.encode()))
    await until(lambda: len(upstream.calls) > asked)
    upload.transport.abort()


async def go_wrong(gate: Gate, upstream: Upstream) -> None:
    """All that can go wrong but for the end."""
    for data in HOSTILE.values():
        await gate.request(data, own=True)
    for path in ("/health", "/ready"):
        await gate.request(head("GET", f"{path}?key={QUERY}"), own=True)
    for name, (sent, _) in BROKEN.items():
        await gate.request(ask(name, stream=sent.startswith(EVENT_STREAM)))
    for name in ("socket", "switches", "wrong-key", "closes"):
        await gate.request(opening(name))
    await gate.request(opening("socket") + frame(BODY.encode()))
    for key in (ADMIN, CLIENTS[0]):
        await gate.request(metrics(key), own=True)
    await gate.request(ask("silent"))
    await gate.request(ask("slow", max_output_tokens=2_000_000))
    await gate.request(ask("slow", provoke=True))
    await leave_at_each_step(gate, upstream)
    await gate.fills_up()
    gate.disconnect()
    holder = await gate.send(ask("slow", stream=True))
    await until(lambda: b"data:" in holder.received)
    await gate.request(ask("slow", IMPATIENT))
    gate.disconnect()


def clients_file(directory: Path) -> str:
    """One client, the first, which may use one model."""
    digest = sha256(CLIENTS[0].encode()).hexdigest()
    path = directory / "clients.toml"
    path.write_text(f'[client.search]\nkey_sha256 = "{digest}"\nmodels = ["slow"]\n')
    return str(path)


RUNS = {
    "text": {},
    "json": {"LOG_FORMAT": "json"},
    "debug": {
        "PYTHONASYNCIODEBUG": "1",
        "PYTHONWARNINGS": "always",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{COLLECTOR}",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    },
}


@pytest.mark.parametrize("run", RUNS)
async def test_no_secret_shows_in_anything_the_gate_writes(
    upstream: Upstream, tmp_path: Path, run: str
) -> None:
    environ = RUNS[run]
    async with played(upstream), running(tmp_path / "gate", upstream.url, **environ) as gate:
        await go_wrong(gate, upstream)
        await gate.fills_up()
        assert await gate.ends() == 0
        gate.keep(gate.waiter)
    guarded = environ | {"ADMIN_KEY": "", "CONNECTION_LIMIT": "3"}
    guarded["CLIENTS_FILE"] = clients_file(tmp_path)
    with loopback_socket() as nobody:
        async with running(tmp_path / "lonely", url_of(nobody), **guarded) as lonely:
            await lonely.request(ask("slow"))
            await lonely.request(ask("other"))
            await lonely.request(ask("slow").replace(CLIENTS[0].encode(), CLIENTS[1].encode()))
            await lonely.request(metrics(CLIENTS[0]))
            for _ in range(3):
                await lonely.send(b"GET")
            await lonely.request(ask("slow"))
            assert await lonely.ends() == 0
    assert gate.reasons | lonely.reasons == REASONS
    for report in REPORTED + (REPORTED_IN_DEBUG if run == "debug" else ()):
        assert report.encode() in gate.written
    assert found_in(gate.everything + lonely.everything) == []


def test_no_repr_shows_a_secret() -> None:
    settings = Settings(openai_api_key=KEY)
    credentials = Credentials.for_account(KEY, None, None)
    headers = request_headers([(b"X-Key", BODY.encode())], credentials, streaming=False)
    exchange = Exchange("search", "GET", "/v1/x")
    body = RequestBody.__new__(RequestBody)
    upstream_request = UpstreamRequest(exchange, f"/v1/x?key={QUERY}", headers, body)
    handshake = WebSocketHandshake(CLIENT_NONCE, (f"openai-insecure-api-key.{PROTOCOL}",), ())
    failed = FailedAttempt(body_start=BODY.encode())
    shown = (settings, credentials, exchange, upstream_request, handshake, failed)
    assert found_in(repr(shown).encode()) == []


def test_secret_is_found_in_any_form() -> None:
    """The search itself, or all of this would prove nothing."""
    for secret in CANARIES:
        for before in (b"", b"x", b"xy", b"Bearer "):
            data = before + secret.encode() + b":"
            assert found_in(data) == [secret]
            assert found_in(b64encode(data)) == [secret]
