"""Inflating a copy of compressed messages, however they are cut."""

import os
import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.websocket_compression import MessageInflater, keeps_context
from tests.support.websocket_messages import Deflater

LIMIT = 1 << 20


def inflate(inflater: MessageInflater, data: bytes, *cuts: int) -> bytes | None:
    """A message, inflated in pieces."""
    edges = [0, *cuts, len(data)]
    pieces = [
        inflater.inflate(data[a:b], last=number == len(edges) - 2, limit=LIMIT)
        for number, (a, b) in enumerate(pairwise(edges))
    ]
    return None if None in pieces else b"".join(piece or b"" for piece in pieces)


@given(st.lists(st.binary(max_size=500)), st.data())
def test_messages_are_inflated_in_context(texts: list[bytes], data: st.DataObject) -> None:
    deflater, inflater = Deflater(), MessageInflater(keeps_context=True)
    for text in texts:
        wire = deflater.compress(text)
        cuts = data.draw(st.lists(st.integers(0, len(wire)), max_size=3).map(sorted))
        assert inflate(inflater, wire, *cuts) == text


def test_messages_without_context_are_inflated_alone() -> None:
    inflater = MessageInflater(keeps_context=False)
    for _ in range(3):
        assert inflate(inflater, Deflater().compress(b"hello hello")) == b"hello hello"


def test_message_with_a_final_block_is_read() -> None:
    inflater = MessageInflater(keeps_context=True)
    encoder = zlib.compressobj(wbits=-15)
    final = encoder.compress(b"hello") + encoder.flush()
    for _ in range(2):
        assert inflate(inflater, final) == b"hello"


def test_no_more_than_the_limit_is_inflated() -> None:
    wire = Deflater().compress(bytes(10_000))
    assert MessageInflater(keeps_context=True).inflate(wire, True, 100) == bytes(100)


def test_nothing_can_be_read_after_invalid_data() -> None:
    inflater = MessageInflater(keeps_context=True)
    assert inflate(inflater, b"\xff\xff") is None
    assert inflate(inflater, Deflater().compress(b"hello")) is None


@given(st.binary(max_size=200), st.booleans())
def test_random_bytes_never_raise(data: bytes, last: bool) -> None:
    MessageInflater(keeps_context=True).inflate(data, last, LIMIT)


def test_incompressible_message_is_read() -> None:
    text = os.urandom(100_000)
    assert inflate(MessageInflater(keeps_context=True), Deflater().compress(text)) == text


@pytest.mark.parametrize(
    ("extension", "client", "server"),
    [
        ("permessage-deflate", True, True),
        ("permessage-deflate; client_no_context_takeover", False, True),
        ("permessage-deflate;Server_No_Context_Takeover ; client_max_window_bits=9", True, False),
        ("", True, True),
    ],
)
def test_who_keeps_context(extension: str, client: bool, server: bool) -> None:
    assert keeps_context(extension, "client") is client
    assert keeps_context(extension, "server") is server
