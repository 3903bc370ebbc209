"""Compressing a request body and reading it again."""

import asyncio
from base64 import b64encode
from mmap import mmap
from random import Random

import pytest

from rustygate.downstream.compressed_body import PIECE_BYTES, compress, map_memory
from tests.support.texts import prose

BASE64 = b64encode(Random(1).randbytes(600_000))
RANDOM = Random(2).randbytes(800_000)


def in_memory(body: bytes) -> mmap:
    memory = map_memory(len(body))
    memory.write(body)
    return memory


@pytest.mark.parametrize(
    ("body", "low", "high"),
    [(prose(800_000), 0.1, 0.45), (BASE64, 0.74, 0.76), (b"x" * 800_000, 0.0, 0.001)],
    ids=["text", "base64", "one letter"],
)
async def test_body_shrinks_and_comes_back_in_pieces(body: bytes, low: float, high: float) -> None:
    compressed = await compress(in_memory(body))
    assert compressed is not None
    assert low < compressed.size / len(body) < high
    for _ in range(2):
        pieces = list(compressed)
        assert b"".join(pieces) == body
        assert {len(piece) for piece in pieces[:-1]} == {PIECE_BYTES}


@pytest.mark.parametrize("size", [1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1])
async def test_body_of_any_size_comes_back(size: int) -> None:
    compressed = await compress(in_memory(b"a" * 100 + BASE64[:size]))
    assert compressed is not None
    assert b"".join(compressed) == b"a" * 100 + BASE64[:size]


async def test_other_tasks_run_between_the_pieces() -> None:
    compressing = asyncio.create_task(compress(in_memory(b"x" * 5 * PIECE_BYTES)))
    turns = 0
    while not compressing.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns >= 5


@pytest.mark.parametrize("text", [b"", prose(PIECE_BYTES)], ids=["at once", "after some text"])
async def test_body_that_hardly_shrinks_is_not_compressed(text: bytes) -> None:
    assert await compress(in_memory(text + RANDOM)) is None
