"""Large request bodies are compressed while they wait, and go upstream unchanged."""

import asyncio
import errno
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from mmap import mmap
from random import Random
from weakref import ref

import pytest

from rustygate.downstream import compressed_body, request_body
from rustygate.downstream.compressed_body import map_memory
from rustygate.downstream.request_body import LARGE_BODY
from tests.conftest import StartGate
from tests.support.gate import IDLE, also_with_workers
from tests.support.http import EVENT_STREAM, LAST_CHUNK, chunk, get, post, response
from tests.support.phases import Scene, check_next_request, queued
from tests.support.texts import prose
from tests.support.upstream import Upstream
from tests.support.waiting import until

PICTURE = b'{"image": "%b"}' % b64encode(Random(1).randbytes(900_000))
TEXT = b'{"model": "m-1", "input": "%b"}' % prose(LARGE_BODY)
RECORDING = Random(2).randbytes(LARGE_BODY)
LIMITED = response(b"{}", "retry-after-ms: 1", status="429 Too Many Requests")


class Memory:
    """The memory of large bodies: that of a body as it is, then that of its compressed form."""

    def __init__(self) -> None:
        self._all: list[ref[mmap]] = []

    def map(self, size: int) -> mmap:
        memory = map_memory(size)
        self._all.append(ref(memory))
        return memory

    @property
    def in_use(self) -> list[bool]:
        """Whether each is still in use."""
        return [each() is not None for each in self._all]

    async def until_compressed(self) -> None:
        await until(lambda: self.in_use == [False, True])

    async def until_freed(self) -> None:
        await until(lambda: not any(self.in_use))


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    """Bodies are compressed as soon as their requests wait."""
    memory = Memory()
    monkeypatch.setattr(request_body, "COMPRESS_AFTER_S", 0.0)
    monkeypatch.setattr(request_body, "map_memory", memory.map)
    monkeypatch.setattr(compressed_body, "map_memory", memory.map)
    return memory


@asynccontextmanager
async def finished(scene: Scene, memory: Memory) -> AsyncIterator[None]:
    """Let the exchange be admitted; in the block, upstream gets it."""
    assert scene.holder is not None
    await scene.holder.respond(response())
    yield
    assert (await scene.client.response()).status == 200
    await scene.gate.wait_until(**IDLE)
    await memory.until_freed()


async def is_forwarded_unchanged(upstream: Upstream, body: bytes, reply: bytes) -> None:
    call = await upstream.call()
    assert await call.read_rest() == body
    assert call.head["content-length"] == str(len(body))
    await call.respond(reply)


@also_with_workers
@pytest.mark.parametrize("body", [PICTURE, TEXT], ids=["base64", "text"])
async def test_waiting_body_is_compressed_and_forwarded_unchanged(
    gate: StartGate, upstream: Upstream, memory: Memory, body: bytes
) -> None:
    scene = await queued(gate, upstream, post(body))
    await memory.until_compressed()
    assert scene.gate.snapshot()["held_bytes"] == len(body)
    async with finished(scene, memory):
        await is_forwarded_unchanged(upstream, body, response())


async def test_compressed_body_is_sent_again(
    gate: StartGate, upstream: Upstream, memory: Memory
) -> None:
    scene = await queued(gate, upstream, post(PICTURE))
    await memory.until_compressed()
    async with finished(scene, memory):
        await is_forwarded_unchanged(upstream, PICTURE, LIMITED)
        await is_forwarded_unchanged(upstream, PICTURE, response())


async def test_body_that_waits_for_a_retry_is_compressed(
    gate: StartGate, upstream: Upstream, memory: Memory
) -> None:
    running = await gate()
    client = await running.send(post(PICTURE))
    limited = response(b"{}", "retry-after: 20", status="429 Too Many Requests")
    await is_forwarded_unchanged(upstream, PICTURE, limited)
    await memory.until_compressed()
    client.disconnect()
    await memory.until_freed()


async def test_body_that_hardly_shrinks_is_forwarded_unchanged(
    gate: StartGate, upstream: Upstream, memory: Memory
) -> None:
    scene = await queued(gate, upstream, post(RECORDING))
    # The compression has begun, and was given up.
    await until(lambda: memory.in_use == [True, False])
    async with finished(scene, memory):
        await is_forwarded_unchanged(upstream, RECORDING, response())


async def test_short_wait_compresses_nothing(
    gate: StartGate, upstream: Upstream, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_body, "COMPRESS_AFTER_S", 3600.0)
    scene = await queued(gate, upstream, post(PICTURE))
    async with finished(scene, memory):
        await is_forwarded_unchanged(upstream, PICTURE, response())
        assert memory.in_use == [True]


@pytest.mark.parametrize(
    ("request_bytes", "mappings"),
    [(post(TEXT[: LARGE_BODY - 1]), 0), (post(PICTURE, "Content-Encoding: zstd"), 1)],
    ids=["smaller", "already compressed"],
)
async def test_other_bodies_stay_as_they_are(
    gate: StartGate, upstream: Upstream, memory: Memory, request_bytes: bytes, mappings: int
) -> None:
    scene = await queued(gate, upstream, request_bytes)
    async with finished(scene, memory):
        await (await upstream.call()).respond(response())
    assert len(memory.in_use) == mappings


async def test_body_that_cannot_be_compressed_is_forwarded_unchanged(
    gate: StartGate, upstream: Upstream, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(size: int) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(compressed_body, "map_memory", fail)
    scene = await queued(gate, upstream, post(PICTURE))
    log = scene.gate.log
    await until(lambda: len(log.errors) == 1)
    assert "compressing a body failed" in log.errors.pop()
    async with finished(scene, memory):
        await is_forwarded_unchanged(upstream, PICTURE, response())


# A wait that ends while the body is compressed.


class Compression:
    """Stands for a compression that takes long."""

    def __init__(self) -> None:
        self.started, self.cancelled = asyncio.Event(), asyncio.Event()

    async def __call__(self, body: object) -> None:
        self.started.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Compression:
    compression = Compression()
    monkeypatch.setattr(request_body, "compress", compression)
    return compression


async def disconnect(scene: Scene) -> None:
    scene.client.disconnect()
    await scene.gate.wait_until(**scene.snapshot_after)


async def drain(scene: Scene) -> None:
    await scene.gate.daemon.stop()


End = Callable[[Scene], Awaitable[None]]
in_both_ways = pytest.mark.parametrize("end", [disconnect, drain], ids=lambda end: end.__name__)


@in_both_ways
async def test_end_of_the_wait_cancels_the_compression(
    gate: StartGate, upstream: Upstream, memory: Memory, slow: Compression, end: End
) -> None:
    scene = await queued(gate, upstream, post(PICTURE))
    await slow.started.wait()
    await end(scene)
    await slow.cancelled.wait()
    await memory.until_freed()


@in_both_ways
async def test_end_of_the_wait_frees_a_compressed_body(
    gate: StartGate, upstream: Upstream, memory: Memory, end: End
) -> None:
    scene = await queued(gate, upstream, post(PICTURE))
    await memory.until_compressed()
    await end(scene)
    await memory.until_freed()


async def test_admission_cancels_the_compression(
    gate: StartGate, upstream: Upstream, memory: Memory, slow: Compression
) -> None:
    scene = await queued(gate, upstream, post(PICTURE))
    await slow.started.wait()
    async with finished(scene, memory):
        await is_forwarded_unchanged(upstream, PICTURE, response())
        assert slow.cancelled.is_set()
    await check_next_request(scene.gate, upstream)


async def test_deadline_frees_a_compressed_body(
    gate: StartGate, upstream: Upstream, memory: Memory
) -> None:
    running = await gate(CONCURRENCY_LIMIT=1)
    await running.send(get("/v1/holder"))
    await upstream.call()
    client = await running.send(post(PICTURE, "x-stainless-read-timeout: 0.3"))
    assert (await client.response()).reason == "queue_timeout"
    await running.wait_until(**IDLE | {"in_flight": 1})
    await memory.until_freed()


async def test_body_is_freed_when_the_response_begins(
    gate: StartGate, upstream: Upstream, memory: Memory
) -> None:
    running = await gate()
    client = await running.send(post(PICTURE))
    call = await upstream.call()
    assert await call.read_rest() == PICTURE
    assert (memory.in_use, running.snapshot()["held_bytes"]) == ([True], len(PICTURE))
    call.send(EVENT_STREAM, chunk(b"data: x\n\n"))
    await client.head()
    await memory.until_freed()
    await running.wait_until(in_flight=1, held_bytes=0)
    await call.respond(LAST_CHUNK)
    assert await client.read_rest() == b"data: x\n\n"
