"""Secrets in every place that a client or upstream may put them, and the search for them."""

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tests.support.http import EVENT_STREAM, chunk, response
from tests.support.upstream import Call, Upstream
from tests.support.waiting import in_background
from tests.support.websocket import CLIENT_NONCE, frame, handshake_response

KEY = "sk-canary-upstream-4c1f9a7e"
CLIENTS = ("rg-canary-client-one-83d2", "rg-canary-client-two-5b07")
QUERY = "canary-query-e9a41c"
BODY = "canary-body-71f3d8"
PROTOCOL = "sk-canary-protocol-2d6b0e"
COOKIE = "canary-cookie-b8c5f2"
COLLECTOR = "canary-collector-a60d93"
ADMIN = "canary-admin-57e2c9"
CANARIES = (KEY, *CLIENTS, QUERY, BODY, PROTOCOL, COOKIE, COLLECTOR, ADMIN)


# What a client sends.


def head(method: str, target: str, *lines: str) -> bytes:
    """A request that shows its secrets everywhere, and wants the connection closed after it."""
    fields = [
        f"{method} {target} HTTP/1.1",
        "Host: gate",
        f"Authorization: Bearer {CLIENTS[0]}",
        f"Proxy-Authorization: Basic {b64encode(f'x:{CLIENTS[1]}'.encode()).decode()}",
        f"Cookie: session={COOKIE}",
        f"Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.{PROTOCOL}",
        "Connection: close",
    ]
    return "\r\n".join([*fields, *lines, "", ""]).encode("latin-1")


def ask(name: str, *lines: str, **said: object) -> bytes:
    """A request that upstream answers as the name says."""
    body = json.dumps({"model": name, "input": f"my key is {BODY}", "user": BODY, **said}).encode()
    target = f"/v1/{name}/responses?api_key={QUERY}"
    typed = "Content-Type: application/json"
    return head("POST", target, typed, *lines, f"Content-Length: {len(body)}") + body


def opening(name: str, *lines: str) -> bytes:
    """What opens a WebSocket that upstream answers as the name says."""
    nonce = () if lines else (f"Sec-WebSocket-Key: {CLIENT_NONCE}",)
    usual = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", *nonce)
    return head("GET", f"/v1/{name}/realtime?model=m&api_key={QUERY}", *usual, *lines)


def metrics(key: str) -> bytes:
    """A request for a page about the gate."""
    basic = b64encode(f"admin:{key}".encode()).decode()
    return (
        f"GET /metrics?key={QUERY} HTTP/1.1\r\nHost: gate\r\n"
        f"Authorization: Basic {basic}\r\nConnection: close\r\n\r\n"
    ).encode()


IMPATIENT = "x-stainless-read-timeout: 0.2"
CHUNKED = "Transfer-Encoding: chunked"
HOSTILE = {
    "a word": CLIENTS[0].encode() + b"\r\n\r\n",
    "a word of HTTP": f"GET {CLIENTS[0]}\r\n\r\n".encode(),
    "no colon": head("GET", "/v1/x", CLIENTS[0]),
    "long header": head("GET", "/v1/x", f"X-Key: {CLIENTS[0] * 2000}"),
    "control": head("GET", "/v1/x", f"X-Key: {CLIENTS[0]}\x00"),
    "not UTF-8": head("GET", "/v1/x", f"X-Key: {CLIENTS[0]}\xe9"),
    "folded": head("GET", "/v1/x", f"X-Key: a\r\n {CLIENTS[0]}"),
    "body that stops": head("POST", "/v1/x", "Content-Length: 99") + BODY.encode(),
    "length": head("POST", "/v1/x", f"Content-Length: {CLIENTS[0]}"),
    "lengths": head("POST", "/v1/x", "Content-Length: 9", "Content-Length: 8") + BODY.encode(),
    "coding": head("POST", "/v1/x", f"Transfer-Encoding: {CLIENTS[0]}"),
    "chunk size": head("POST", "/v1/x", CHUNKED) + f"{BODY}\r\n".encode(),
    "chunk end": head("POST", "/v1/x", CHUNKED) + b"3\r\nabc" + BODY.encode() + b"\r\n",
    "version": f"GET /v1/x?key={QUERY} HTTP/{CLIENTS[0]}\r\n\r\n".encode(),
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + CLIENTS[0].encode(),
    "tls": b"\x16\x03\x01\x02\x00\x01" + CLIENTS[0].encode() + b"\r\n\r\n",
    "method": head("TRACE", f"/v1/x?key={QUERY}"),
    "tunnel": head("CONNECT", "gate:443"),
    "path": head("GET", f"/v2/x?key={QUERY}"),
    "dots": head("GET", f"/v1/../x?key={QUERY}"),
    "unsafe": head("GET", f"/v1/x?key={QUERY}#x"),
    "odd query": head("GET", f"/v1/x?key={QUERY}\\"),
    "absolute": head("GET", f"http://user:{CLIENTS[0]}@gate/v2/x?key={QUERY}"),
    "absolute without a path": head("GET", f"http://gate?key=/{QUERY}"),
    "priority": head("GET", f"/v1/x?key={QUERY}", "X-RustyGate-Priority: first"),
    "page": head("GET", f"/v1/x?key={QUERY}", "Origin: https://elsewhere.example"),
    "upgrade": head("GET", f"/health?key={QUERY}", "Upgrade: websocket"),
    "nonce": opening("x", f"Sec-WebSocket-Key: {PROTOCOL}"),
    "protocols": opening("x", f"Sec-WebSocket-Protocol: {PROTOCOL} {PROTOCOL}"),
    "large": head("POST", f"/v1/x?key={QUERY}", "Content-Length: 200000") + bytes(200_000),
}

# What upstream sends, and what it does then.
_TOO_MANY = json.dumps({"error": {"code": "rate_limit_exceeded", "message": KEY}}).encode()
_OVERLOADED = json.dumps({"error": {"code": "server_is_overloaded", "message": KEY}}).encode()
_EVENT = chunk(f"data: {KEY}\n\n".encode())
BROKEN = {
    "closes": (b"", "close"),
    "resets": (b"", "reset"),
    "no-http": (f"SSH-2.0-{KEY}\r\n".encode(), "close"),
    "status": (f"HTTP/1.1 {KEY} {KEY}\r\n\r\n".encode(), "close"),
    "reason": (response(status=f"200 {KEY}"), "keep"),
    "header": (response(b"", KEY), "close"),
    "control": (response(b"", f"X-Key: {KEY}\x01"), "close"),
    "long-header": (response(b"", f"X-Key: {KEY * 9000}"), "close"),
    "cut-head": (f"HTTP/1.1 200 OK\r\nX-Key: {KEY}".encode(), "reset"),
    "length": (f"HTTP/1.1 200 OK\r\nContent-Length: {KEY}\r\n\r\n".encode(), "close"),
    "chunk": (EVENT_STREAM + f"{KEY}\r\n".encode(), "close"),
    "later-chunk": (EVENT_STREAM + _EVENT + f"{KEY}\r\n".encode(), "close"),
    "cut-body": (response(b"x" * 99)[:-9], "reset"),
    "cut-event": (EVENT_STREAM + chunk(f"data: {KEY}".encode()), "reset"),
    "cut-stream": (EVENT_STREAM + _EVENT, "reset"),
    "gzip": (
        response(KEY.encode(), "Content-Type: application/json", "Content-Encoding: gzip"),
        "keep",
    ),
    "coding": (response(b"{}", f"Content-Encoding: {KEY}", f"Content-Type: {KEY}"), "keep"),
    "wrong-key": (
        response(_TOO_MANY, f"X-Key: {KEY}", f"Set-Cookie: k={KEY}", status="401 Unauthorized"),
        "keep",
    ),
    "too-many": (
        response(_TOO_MANY, "retry-after-ms: 1", status="429 Too Many Requests"),
        "keep",
    ),
    "odd-limits": (
        response(
            _TOO_MANY,
            f"Retry-After: {KEY}",
            f"retry-after-ms: {KEY}",
            f"x-ratelimit-limit-tokens: {KEY}",
            f"x-ratelimit-reset-tokens: {KEY}",
            status="429 Too Many Requests",
        ),
        "keep",
    ),
    "overloaded": (
        response(_OVERLOADED, "retry-after-ms: 1", status="503 Service Unavailable"),
        "keep",
    ),
    "fails": (response(KEY.encode(), status="500 Internal Server Error"), "close"),
    "redirects": (response(b"", f"Location: http://x/?k={KEY}", status="302 Found"), "keep"),
    "switches": (
        f"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Protocol: {KEY}\r\n\r\n".encode(),
        "close",
    ),
    "unasked": (response(b"{}") + f"HTTP/1.1 200 {KEY}\r\n".encode(), "keep"),
    "usage": (
        response(
            b'{"usage": {"prompt_tokens": "' + KEY.encode() + b'"}}', "Content-Type: text/json"
        ),
        "keep",
    ),
}


@asynccontextmanager
async def played(upstream: Upstream) -> AsyncIterator[None]:
    """Upstream's part: `slow` streams for as long as somebody listens, `silent` says nothing."""

    async def play() -> None:
        async with asyncio.TaskGroup() as parts:
            while True:
                with suppress(TimeoutError):
                    parts.create_task(_play(await upstream.call()))

    async with in_background(play()):
        yield


async def _play(call: Call) -> None:
    name = call.target.split("/")[2]
    if name == "slow":
        call.send(EVENT_STREAM)
        while call.wire.end is None:
            call.send(_EVENT)
            await asyncio.sleep(0.1)
    elif name == "socket":
        protocol = f"Sec-WebSocket-Protocol: openai-insecure-api-key.{KEY}"
        call.send(handshake_response(call.head, protocol))
        call.send(frame(KEY.encode()), frame(KEY.encode(), reserved=7))
    elif name in BROKEN:
        sent, then = BROKEN[name]
        with suppress(Exception):
            await call.read_rest()
        call.send(sent)
        {"keep": call.done.set, "close": call.close, "reset": call.reset}[then]()


def forms(secret: str) -> list[bytes]:
    """A secret as it is, and as base64 shows it, wherever in what was encoded it stands."""
    shown = [secret.encode()]
    for before in range(3):
        encoded = b64encode(b"\0" * before + secret.encode())
        shown.append(encoded[(0, 2, 3)[before] : len(encoded) // 4 * 4 - 4])
    return shown


def found_in(data: bytes) -> list[str]:
    return [secret for secret in CANARIES if any(form in data for form in forms(secret))]
