"""Secrets in every place where a client or upstream can put them, and the search for them."""

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
REDIS_USER, REDIS_PASSWORD = "canary-redis-user-0d84b1", "canary-redis-password-c3e97f"
REDIS = (REDIS_USER, REDIS_PASSWORD)
CANARIES = (KEY, *CLIENTS, QUERY, BODY, PROTOCOL, COOKIE, COLLECTOR, ADMIN, *REDIS)


# Client requests.


def build_head(method: str, target: str, *lines: str) -> bytes:
    """A request head with secrets everywhere; the connection is closed after it."""
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


def build_request(name: str, *lines: str, **fields: object) -> bytes:
    """A request to which upstream responds as `name` says."""
    body = json.dumps(
        {"model": name, "input": f"my key is {BODY}", "user": BODY, **fields}
    ).encode()
    target = f"/v1/{name}/responses?api_key={QUERY}"
    content_type = "Content-Type: application/json"
    return build_head("POST", target, content_type, *lines, f"Content-Length: {len(body)}") + body


def build_handshake(name: str, *lines: str) -> bytes:
    """A WebSocket handshake to which upstream responds as `name` says."""
    nonce = () if lines else (f"Sec-WebSocket-Key: {CLIENT_NONCE}",)
    defaults = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", *nonce)
    return build_head("GET", f"/v1/{name}/realtime?model=m&api_key={QUERY}", *defaults, *lines)


def build_scrape(key: str) -> bytes:
    """A request for /metrics with an admin key."""
    basic = b64encode(f"admin:{key}".encode()).decode()
    return (
        f"GET /metrics?key={QUERY} HTTP/1.1\r\nHost: gate\r\n"
        f"Authorization: Basic {basic}\r\nConnection: close\r\n\r\n"
    ).encode()


SHORT_TIMEOUT = "x-stainless-read-timeout: 0.2"
CHUNKED = "Transfer-Encoding: chunked"
HOSTILE = {
    "one word": CLIENTS[0].encode() + b"\r\n\r\n",
    "one word after the method": f"GET {CLIENTS[0]}\r\n\r\n".encode(),
    "no colon": build_head("GET", "/v1/x", CLIENTS[0]),
    "long header": build_head("GET", "/v1/x", f"X-Key: {CLIENTS[0] * 2000}"),
    "control": build_head("GET", "/v1/x", f"X-Key: {CLIENTS[0]}\x00"),
    "not UTF-8": build_head("GET", "/v1/x", f"X-Key: {CLIENTS[0]}\xe9"),
    "folded": build_head("GET", "/v1/x", f"X-Key: a\r\n {CLIENTS[0]}"),
    "incomplete body": build_head("POST", "/v1/x", "Content-Length: 99") + BODY.encode(),
    "length": build_head("POST", "/v1/x", f"Content-Length: {CLIENTS[0]}"),
    "lengths": build_head("POST", "/v1/x", "Content-Length: 9", "Content-Length: 8")
    + BODY.encode(),
    "coding": build_head("POST", "/v1/x", f"Transfer-Encoding: {CLIENTS[0]}"),
    "chunk size": build_head("POST", "/v1/x", CHUNKED) + f"{BODY}\r\n".encode(),
    "chunk end": build_head("POST", "/v1/x", CHUNKED) + b"3\r\nabc" + BODY.encode() + b"\r\n",
    "version": f"GET /v1/x?key={QUERY} HTTP/{CLIENTS[0]}\r\n\r\n".encode(),
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + CLIENTS[0].encode(),
    "tls": b"\x16\x03\x01\x02\x00\x01" + CLIENTS[0].encode() + b"\r\n\r\n",
    "method": build_head("TRACE", f"/v1/x?key={QUERY}"),
    "tunnel": build_head("CONNECT", "gate:443"),
    "path": build_head("GET", f"/v2/x?key={QUERY}"),
    "dots": build_head("GET", f"/v1/../x?key={QUERY}"),
    "unsafe": build_head("GET", f"/v1/x?key={QUERY}#x"),
    "backslash in the query": build_head("GET", f"/v1/x?key={QUERY}\\"),
    "absolute": build_head("GET", f"http://user:{CLIENTS[0]}@gate/v2/x?key={QUERY}"),
    "absolute without a path": build_head("GET", f"http://gate?key=/{QUERY}"),
    "priority": build_head("GET", f"/v1/x?key={QUERY}", "X-RustyGate-Priority: first"),
    "page": build_head("GET", f"/v1/x?key={QUERY}", "Origin: https://elsewhere.example"),
    "upgrade": build_head("GET", f"/health?key={QUERY}", "Upgrade: websocket"),
    "nonce": build_handshake("x", f"Sec-WebSocket-Key: {PROTOCOL}"),
    "protocols": build_handshake("x", f"Sec-WebSocket-Protocol: {PROTOCOL} {PROTOCOL}"),
    "large": build_head("POST", f"/v1/x?key={QUERY}", "Content-Length: 200000") + bytes(200_000),
}

# What upstream sends, and whether it keeps, closes or resets the connection after that.
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
    "unrequested": (response(b"{}") + f"HTTP/1.1 200 {KEY}\r\n".encode(), "keep"),
    "usage": (
        response(
            b'{"usage": {"prompt_tokens": "' + KEY.encode() + b'"}}', "Content-Type: text/json"
        ),
        "keep",
    ),
}


@asynccontextmanager
async def scripted(upstream: Upstream) -> AsyncIterator[None]:
    """Play upstream: `slow` streams until the gate disconnects, `silent` never responds."""

    async def respond_to_calls() -> None:
        async with asyncio.TaskGroup() as tasks:
            while True:
                with suppress(TimeoutError):
                    tasks.create_task(_respond(await upstream.call()))

    async with in_background(respond_to_calls()):
        yield


async def _respond(call: Call) -> None:
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


def encodings(secret: str) -> list[bytes]:
    """A secret as it is, and in base64, for each position it may have in the encoded data."""
    found = [secret.encode()]
    for before in range(3):
        encoded = b64encode(b"\0" * before + secret.encode())
        found.append(encoded[(0, 2, 3)[before] : len(encoded) // 4 * 4 - 4])
    return found


def found_in(data: bytes) -> list[str]:
    return [secret for secret in CANARIES if any(form in data for form in encodings(secret))]
