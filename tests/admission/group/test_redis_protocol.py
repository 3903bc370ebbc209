"""The Redis protocol, however its bytes are cut."""

from typing import Any

import pytest

from rustygate.admission.group.redis_protocol import (
    ErrorReply,
    ProtocolError,
    ReplyReader,
    packed,
    packed_argument,
)

REPLIES: list[tuple[bytes, Any]] = [
    (b"+OK\r\n", b"OK"),
    (b"+\r\n", b""),
    (b":0\r\n", 0),
    (b":-12\r\n", -12),
    (b"$0\r\n\r\n", b""),
    (b"$6\r\na\r\n$1b\r\n", b"a\r\n$1b"),
    (b"$-1\r\n", None),
    (b"*-1\r\n", None),
    (b"*0\r\n", []),
    (b"*3\r\n$1\r\na\r\n:2\r\n$-1\r\n", [b"a", 2, None]),
    (b"*2\r\n*2\r\n:1\r\n*0\r\n*1\r\n*1\r\n+x\r\n", [[1, []], [[b"x"]]]),
]


def test_command_is_packed() -> None:
    assert packed("AUTH", "ä", 12) == b"*3\r\n$4\r\nAUTH\r\n$2\r\n\xc3\xa4\r\n$2\r\n12\r\n"
    beginning = packed(b"EVAL", more=1)
    assert beginning + packed_argument(b"") == packed(b"EVAL", b"")


@pytest.mark.parametrize(("data", "reply"), REPLIES)
def test_reply_is_read_however_it_is_cut(data: bytes, reply: Any) -> None:
    for size in range(1, len(data) + 1):
        reader = ReplyReader()
        parts = [data[at : at + size] for at in range(0, len(data), size)]
        assert [each for part in parts[:-1] for each in reader.feed(part)] == []
        assert reader.feed(parts[-1]) == [reply]
        assert reader.feed(b":7\r\n") == [7]


def test_replies_that_come_together_are_read_in_order() -> None:
    data = b"".join(each for each, _ in REPLIES)
    assert ReplyReader().feed(data) == [reply for _, reply in REPLIES]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"-ERR unknown command\r\n", "unknown command"),
        (b"-NOSCRIPT No matching script\r\n", "NOSCRIPT No matching script"),
        (b"-\xff\r\n", "\ufffd"),
    ],
)
def test_error_is_a_reply(data: bytes, message: str) -> None:
    [reply] = ReplyReader().feed(data)
    assert type(reply) is ErrorReply
    assert str(reply) == message


@pytest.mark.parametrize("data", [b"HTTP/1.1 400\r\n", b"\r\n", b"$x\r\n", b":\r\n", b"?1\r\n"])
def test_other_protocol_is_an_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        ReplyReader().feed(data)
