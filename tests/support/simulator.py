"""A running simulator, and a raw client of it that takes each answer apart."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import openai
import pytest
from aiohttp import web
from hypothesis import settings
from openai.types.chat import ChatCompletionMessageParam

from rustygate.simulator import Options, make_app
from rustygate.simulator.endpoints.images import png

KEY = "sk-simulated-key-1234"

# Whatever a test waits for comes at once; this only turns a hang into a failure.
SOON_S = 5.0


HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello, who is there?"}]
CHAT = {"model": "gpt-4o", "messages": HELLO, "max_tokens": 4}
# A law that takes its time on a busy machine is no less true.
unhurried = settings(deadline=None)
# Every byte that there is, more than one piece of it, and no whole number of pieces.
BYTES = bytes(range(256)) * 700 + b"end"
SOUND = ("speech.mp3", bytes(48_000), "audio/mpeg")
# The SDK says so of some of its functions; they are there for apps that are not new.
deprecated = pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
PICTURE = ("picture.png", png("ff0000"), "image/png")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back on a raw connection; `whole` says whether the body ended as promised."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = json.loads(self.body)["error"]
        return error


@dataclass(frozen=True, slots=True)
class Site:
    """A running simulator."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def sdk(self, key: str = KEY) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(api_key=key, base_url=self.url, max_retries=0, timeout=SOON_S)

    async def send(self, raw: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(raw)
        return reader, writer

    async def ask(self, raw: bytes) -> Answer:
        async with asyncio.timeout(SOON_S):
            reader, writer = await self.send(raw)
            try:
                return parsed(await reader.read())
            finally:
                writer.close()

    async def post(self, path: str, body: object, **headers: str) -> Answer:
        return await self.ask(post(path, body, **headers))

    async def limits(self, **change: object) -> dict[str, Any]:
        """Change limits; what is in force then."""
        answer = await self.ask(request("POST", "/simulator/limits", change))
        limits: dict[str, Any] = json.loads(answer.body)
        return limits

    async def stats(self) -> dict[str, Any]:
        answer = await self.ask(request("GET", "/simulator/stats"))
        stats: dict[str, Any] = json.loads(answer.body)
        return stats

    async def stats_until(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The stats once they are as they will be."""
        async with asyncio.timeout(SOON_S):
            while not holds(stats := await self.stats()):
                pass
            return stats


def post(path: str, body: object, **headers: str) -> bytes:
    """A POST below /v1."""
    return request("POST", f"/v1{path}", body, **headers)


def request(method: str, target: str, body: object = b"", **headers: str) -> bytes:
    """A request's bytes; `simulate` is the header X-Simulate, bytes are sent as they are."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {
        "Host": "simulator",
        "Connection": "close",
        "Content-Length": str(len(content)),
        "Authorization": f"Bearer {KEY}",
    }
    fields |= {"X-Simulate" if name == "simulate" else name: v for name, v in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode() + content


def form(target: str, **fields: object) -> bytes:
    """A POST of a form; a field that is a tuple is a file: its name, its bytes, its type."""
    parts = b"".join(part(name, value) for name, value in fields.items())
    body = parts + b"--limit--\r\n"
    return request("POST", target, body, **{"Content-Type": "multipart/form-data; boundary=limit"})


def part(name: str, value: Any) -> bytes:
    """A part of a form whose boundary is `limit`."""
    if isinstance(value, tuple):
        filename, content, kind = value
        head = f'name="{name}"; filename="{filename}"\r\nContent-Type: {kind}'
    else:
        content, head = str(value).encode(), f'name="{name}"'
    before = f"--limit\r\nContent-Disposition: form-data; {head}\r\n\r\n"
    return b"".join((before.encode(), content, b"\r\n"))


def parsed(raw: bytes) -> Answer:
    head, _, body = raw.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body, whole = dechunked(body)
    else:
        whole = len(body) == int(headers.get("content-length", 0))
    return Answer(int(status.split()[1]), headers, body, whole)


def dechunked(raw: bytes) -> tuple[bytes, bool]:
    body = b""
    while raw:
        size, _, raw = raw.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            return body, True
        body, raw = body + raw[:length], raw[length + 2 :]
    return body, False


@asynccontextmanager
async def running(options: Options) -> AsyncIterator[Site]:
    runner = web.AppRunner(make_app(options), access_log=None, shutdown_timeout=0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield Site(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def plain_text(body: bytes) -> str:
    text: str = json.loads(body)["choices"][0]["message"]["content"]
    return text
