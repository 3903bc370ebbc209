"""A running simulator, a raw HTTP client for it, and test data for its endpoints."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import openai
import pytest
from aiohttp import web
from openai.types.chat import ChatCompletionMessageParam

from rustygate.simulator import Options, make_app
from rustygate.simulator.endpoints.images import png
from tests.support.waiting import SOON_S, soon

KEY = "sk-simulated-key-1234"


MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello, who is there?"}]
CHAT_BODY = {"model": "gpt-4o", "messages": MESSAGES, "max_tokens": 4}

# All byte values, and a size that is not a multiple of the chunk size.
FILE_BYTES = bytes(range(256)) * 700 + b"end"
AUDIO = ("speech.mp3", bytes(48_000), "audio/mpeg")
IMAGE = ("picture.png", png("ff0000"), "image/png")

# The SDK deprecates functions that existing apps still use.
ignore_deprecation = pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")


@dataclass(frozen=True, slots=True)
class RawResponse:
    """A response read from a raw connection; `complete` if its body was not truncated."""

    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = json.loads(self.body)["error"]
        return error


@dataclass(frozen=True, slots=True)
class Simulator:
    """A running simulator on 127.0.0.1."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def sdk(self, key: str = KEY) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(api_key=key, base_url=self.url, max_retries=0, timeout=SOON_S)

    async def open(self, raw: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection, and send bytes on it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(raw)
        return reader, writer

    async def send(self, raw: bytes) -> RawResponse:
        """Send a request on a connection of its own, and read the response to its end."""
        async with soon():
            reader, writer = await self.open(raw)
            try:
                return parse_response(await reader.read())
            finally:
                writer.close()

    async def post(self, path: str, body: object, **headers: str) -> RawResponse:
        return await self.send(post(path, body, **headers))

    async def change_limits(self, **change: object) -> dict[str, Any]:
        """Change limits; return all limits then in force."""
        response = await self.send(build_request("POST", "/simulator/limits", change))
        limits: dict[str, Any] = json.loads(response.body)
        return limits

    async def stats(self) -> dict[str, Any]:
        response = await self.send(build_request("GET", "/simulator/stats"))
        stats: dict[str, Any] = json.loads(response.body)
        return stats

    async def wait_for_stats(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until the stats meet a condition, and return them."""
        async with soon():
            while not condition(stats := await self.stats()):
                pass
            return stats


def post(path: str, body: object, **headers: str) -> bytes:
    """The bytes of a POST request below /v1."""
    return build_request("POST", f"/v1{path}", body, **headers)


def build_request(method: str, target: str, body: object = b"", **headers: str) -> bytes:
    """The bytes of a request; `simulate` sets X-Simulate, and a body that is bytes is not JSON."""
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


def build_form(target: str, **fields: object) -> bytes:
    """The bytes of a form request; a tuple is a file: its name, content and media type."""
    parts = b"".join(build_part(name, value) for name, value in fields.items())
    body = parts + b"--limit--\r\n"
    return build_request(
        "POST", target, body, **{"Content-Type": "multipart/form-data; boundary=limit"}
    )


def build_part(name: str, value: Any) -> bytes:
    """The bytes of a form's part; the boundary is `limit`."""
    if isinstance(value, tuple):
        filename, content, kind = value
        head = f'name="{name}"; filename="{filename}"\r\nContent-Type: {kind}'
    else:
        content, head = str(value).encode(), f'name="{name}"'
    before = f"--limit\r\nContent-Disposition: form-data; {head}\r\n\r\n"
    return b"".join((before.encode(), content, b"\r\n"))


def parse_response(raw: bytes) -> RawResponse:
    head, _, body = raw.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body, complete = decode_chunks(body)
    else:
        complete = len(body) == int(headers.get("content-length", 0))
    return RawResponse(int(status.split()[1]), headers, body, complete)


def decode_chunks(raw: bytes) -> tuple[bytes, bool]:
    body = b""
    while raw:
        size, _, raw = raw.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            return body, True
        body, raw = body + raw[:length], raw[length + 2 :]
    return body, False


@asynccontextmanager
async def running_simulator(options: Options) -> AsyncIterator[Simulator]:
    runner = web.AppRunner(make_app(options), access_log=None, shutdown_timeout=0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield Simulator(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def chat_text(body: bytes) -> str:
    text: str = json.loads(body)["choices"][0]["message"]["content"]
    return text
