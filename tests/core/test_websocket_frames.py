"""Which bytes of a WebSocket pass, however they are cut."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.websocket_frames import (
    FRAGMENTS_LIMIT,
    MESSAGE_LIMIT,
    FrameTracker,
    apply_mask,
    close_frame,
)
from rustygate.core.websocket_frames import frame as own_frame
from tests.support.websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MASK,
    PING,
    PONG,
    TEXT,
    close_payload,
    frame,
    mask_payload,
)

UMLAUT = "\N{LATIN SMALL LETTER A WITH DIAERESIS}".encode()


def follow(
    *chunks: bytes, masked: bool = False, compressed: bool = False
) -> tuple[bytes, FrameTracker]:
    """The bytes that passed, and the tracker."""
    frames = FrameTracker(masked=masked, compressed=compressed)
    return b"".join(map(frames.feed, chunks)), frames


def byte_by_byte(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


VALID = {
    "text": frame(b"hello"),
    "empty": frame(b""),
    "medium": frame(b"x" * 126),
    "long": frame(b"x" * 2**16),
    "binary": frame(b"\xff\xfe\x00", BINARY),
    "fragments": frame(b"a", final=False) + frame(b"b", CONTINUATION, final=False) + frame(b"", 0),
    "control between": frame(b"a", final=False) + frame(b"p", PING) + frame(b"b", CONTINUATION),
    "empty fragments": frame(b"", final=False) + frame(b"", CONTINUATION),
    "character in pieces": frame(UMLAUT[:1], final=False) + frame(UMLAUT[1:], CONTINUATION),
    "binary in pieces": frame(b"\xff", BINARY, final=False) + frame(b"\xfe", CONTINUATION),
    "ping and pong": frame(b"", PING) + frame(b"x" * 125, PONG),
    "close": frame(b"", CLOSE),
    "close with a code": frame(close_payload(1000), CLOSE),
    "close with a reason": frame(close_payload(4999, "r" * 123), CLOSE),
}


@pytest.mark.parametrize("data", VALID.values(), ids=VALID)
def test_valid_frames_pass_unchanged(data: bytes) -> None:
    for chunks in ([data], byte_by_byte(data)):
        passed, frames = follow(*chunks)
        assert (passed, frames.violation, frames.at_boundary) == (data, None, True)


INVALID = {
    "reserved bit 1": (frame(b"x", reserved=4), 1002),
    "reserved bit 2": (frame(b"x", reserved=2), 1002),
    "reserved bit 3": (frame(b"x", reserved=1), 1002),
    "unknown opcode": (frame(b"x", 3), 1002),
    "unknown control opcode": (frame(b"x", 11), 1002),
    "masked": (frame(b"x", mask=MASK), 1002),
    "fragmented ping": (frame(b"x", PING, final=False), 1002),
    "long ping": (frame(b"x" * 126, PING), 1002),
    "long close": (frame(close_payload(1000, "r" * 124), CLOSE), 1002),
    "continuation of nothing": (frame(b"x", CONTINUATION), 1002),
    "not UTF-8": (frame(b"a\xff"), 1007),
    "half a character": (frame(UMLAUT[:1]), 1007),
    "surrogate": (frame(b"\xed\xa0\x80"), 1007),
    "too long": (frame(b"", length=MESSAGE_LIMIT + 1), 1009),
    "much too long": (frame(b"", length=2**63), 1009),
    "close with half a code": (frame(b"\x03", CLOSE), 1002),
    "close with a reason not in UTF-8": (frame(b"\x03\xe8\xff", CLOSE), 1007),
    **{
        f"close with {code}": (frame(close_payload(code), CLOSE), 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)
    },
}


@pytest.mark.parametrize(("data", "code"), INVALID.values(), ids=INVALID)
def test_nothing_passes_from_an_invalid_frame_on(data: bytes, code: int) -> None:
    before = frame(b"before") + frame(b"", PONG)
    passed, frames = follow(before + data + frame(b"after"), frame(b"later"))
    assert frames.violation is not None
    assert (passed, frames.violation.code, frames.at_boundary) == (before, code, True)
    assert frames.finished


@pytest.mark.parametrize(("data", "code"), INVALID.values(), ids=INVALID)
def test_invalid_frames_are_found_byte_by_byte_too(data: bytes, code: int) -> None:
    passed, frames = follow(*byte_by_byte(data))
    assert frames.violation is not None
    assert frames.violation.code == code
    assert data.startswith(passed)
    assert len(passed) < len(data)
    # A Close frame may only follow a complete frame.
    assert frames.at_boundary is (passed == b"")


INTERRUPTED = [frame(b"new"), frame(b"new", BINARY), frame(b"x", CONTINUATION, reserved=4)]


@pytest.mark.parametrize("data", INTERRUPTED, ids=["text", "binary", "compressed"])
@pytest.mark.parametrize("first", [b"a", b""], ids=["begun", "begun empty"])
def test_message_inside_another_is_invalid(first: bytes, data: bytes) -> None:
    begun = frame(first, final=False)
    passed, frames = follow(begun + data, compressed=True)
    assert passed == begun
    assert frames.violation is not None
    assert frames.violation.code == 1002


def test_text_invalid_in_a_later_fragment_stops_there() -> None:
    begun = frame(b"a" + UMLAUT[:1], final=False)
    passed, frames = follow(begun, frame(b"b", CONTINUATION))
    assert passed == begun
    assert frames.violation is not None
    assert (frames.violation.code, frames.at_boundary) == (1007, True)


def test_text_invalid_inside_a_frame_is_not_at_a_boundary() -> None:
    data = frame(b"good" + b"\xff" + b"more")
    passed, frames = follow(data[:6], data[6:])
    assert (passed, frames.at_boundary) == (data[:6], False)


def test_client_frames_must_be_masked() -> None:
    data = frame(b"x")
    assert follow(data, masked=True)[1].violation is not None
    data = frame(b"x", mask=MASK)
    assert follow(data, masked=True)[0] == data


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_compressed_message_is_not_checked_for_utf8(opcode: int) -> None:
    data = frame(b"\xff\xfe", opcode, reserved=4, final=False) + frame(b"\xff", CONTINUATION)
    assert follow(data, compressed=True)[0] == data
    assert follow(data, compressed=False)[1].violation is not None


def test_compressed_control_frame_is_invalid() -> None:
    assert follow(frame(b"x", PING, reserved=4), compressed=True)[1].violation is not None


def test_nothing_passes_after_a_close_frame() -> None:
    close = frame(close_payload(1000), CLOSE)
    passed, frames = follow(close + frame(b"x"), frame(b"y"))
    assert (passed, frames.closed, frames.finished) == (close, True, True)


def test_large_payload_passes_as_it_arrives() -> None:
    data = frame(b"x" * 1000, BINARY)
    frames = FrameTracker(masked=False, compressed=False)
    assert frames.feed(data[:3]) == b""
    assert frames.feed(data[3:10]) == data[:10]
    assert frames.feed(data[10:500]) == data[10:500]
    assert not frames.at_boundary
    assert frames.feed(data[500:]) == data[500:]
    assert frames.at_boundary


def test_largest_message_passes() -> None:
    data = frame(b"x" * MESSAGE_LIMIT, BINARY)
    assert follow(data)[0] == data


def test_fragments_may_not_add_up_to_too_large_a_message() -> None:
    half = frame(b"x" * (MESSAGE_LIMIT // 2), BINARY, final=False)
    rest = frame(b"x" * (MESSAGE_LIMIT // 2), CONTINUATION, final=False)
    passed, frames = follow(half + rest, frame(b"x", CONTINUATION))
    assert passed == half + rest
    assert frames.violation is not None
    assert frames.violation.code == 1009


def test_message_may_not_have_too_many_fragments() -> None:
    frames = FrameTracker(masked=False, compressed=False)
    frames.feed(frame(b"", final=False))
    frames.feed(frame(b"", CONTINUATION, final=False) * (FRAGMENTS_LIMIT - 1))
    assert not frames.finished
    frames.feed(frame(b"", CONTINUATION, final=False))
    assert frames.violation is not None
    assert frames.violation.code == 1009


def test_limits_apply_to_each_message() -> None:
    frames = FrameTracker(masked=False, compressed=False)
    for _ in range(3):
        frames.feed(frame(b"x" * (MESSAGE_LIMIT - 1), BINARY))
    assert frames.violation is None


def test_repr_shows_the_live_state() -> None:
    frames = FrameTracker(masked=False, compressed=False)
    frames.feed(frame(b"hello") + b"\x81\x05he")
    assert repr(frames) == "<FrameTracker 3 bytes left, 0 held, message of 5 bytes>"
    frames.feed(b"llo\x81")
    assert repr(frames) == "<FrameTracker 0 bytes left, 1 held, message of 5 bytes>"
    frames.feed(b"\x85")
    assert repr(frames) == "<FrameTracker the frame is masked, 0 held, message of 5 bytes>"


messages = st.lists(
    st.tuples(
        st.sampled_from([TEXT, BINARY]), st.lists(st.text(max_size=200), min_size=1, max_size=4)
    ),
    max_size=6,
)


@given(messages, st.binary(min_size=4, max_size=4) | st.just(b""), st.data())
def test_how_bytes_are_cut_makes_no_difference(
    messages: list[tuple[int, list[str]]], mask: bytes, data: st.DataObject
) -> None:
    stream = b"".join(
        frame(
            text.encode(),
            opcode if number == 0 else CONTINUATION,
            mask=mask,
            final=number == len(parts) - 1,
        )
        + frame(b"between", PING, mask=mask)
        for opcode, parts in messages
        for number, text in enumerate(parts)
    )
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8).map(sorted))
    edges = [0, *cuts, len(stream)]
    chunks = [stream[a:b] for a, b in pairwise(edges)]
    passed, frames = follow(*chunks, masked=bool(mask))
    assert (passed, frames.violation, frames.at_boundary) == (stream, None, True)


@given(st.lists(st.binary(max_size=300), max_size=5), st.booleans())
def test_random_bytes_never_raise_and_never_pass_twice(chunks: list[bytes], masked: bool) -> None:
    passed, frames = follow(*chunks, masked=masked, compressed=True)
    assert b"".join(chunks).startswith(passed)
    assert frames.feed(b"") == b""


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_masking_is_its_own_inverse(payload: bytes, mask: bytes) -> None:
    assert apply_mask(payload, mask) == mask_payload(payload, mask)
    assert apply_mask(apply_mask(payload, mask), mask) == payload


@pytest.mark.parametrize("mask", [b"", MASK], ids=["server", "client"])
def test_own_close_frame_is_valid(mask: bytes) -> None:
    built = close_frame(1001, "reason", mask)
    assert built == frame(close_payload(1001, "reason"), CLOSE, mask=mask)
    assert follow(built, masked=bool(mask))[1].closed


# Frames of the gate's own.


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
@pytest.mark.parametrize("mask", [b"", MASK], ids=["server", "client"])
def test_own_message_is_valid(mask: bytes, size: int) -> None:
    built = own_frame(TEXT, b"x" * size, mask)
    assert built == frame(b"x" * size, mask=mask)
    assert follow(built, masked=bool(mask))[0] == built


def test_inserted_message_goes_between_two_messages() -> None:
    frames = FrameTracker(masked=False, compressed=False)
    own = frame(b"own")
    assert frames.insert(own) == own
    first, last = frame(b"a", final=False), frame(b"b", CONTINUATION)
    assert frames.feed(first) == first
    assert frames.insert(own) == b""
    assert frames.insert(own) == b""
    ping = frame(b"", PING)
    assert frames.feed(ping + last[:1]) == ping
    assert frames.feed(last[1:] + ping) == last + own + own + ping
    assert frames.insert(own) == own


def test_inserted_message_waits_for_the_end_of_a_payload() -> None:
    frames = FrameTracker(masked=False, compressed=False)
    data, own = frame(b"hello"), frame(b"own")
    assert frames.feed(data[:4]) == data[:4]
    assert frames.insert(own) == b""
    assert frames.feed(data[4:]) == data[4:] + own


def test_only_the_pong_for_an_own_ping_does_not_pass() -> None:
    frames = FrameTracker(masked=False, compressed=False)
    pong, text = frame(b"12345678", PONG), frame(b"text")
    assert frames.feed(pong) == pong
    frames.expect_pong(b"12345678")
    other = frame(b"x2345678", PONG)
    assert frames.feed(text + other + pong[:3]) == text + other
    assert frames.feed(pong[3:] + text + pong) == text + pong


def test_pong_inside_a_message_does_not_pass() -> None:
    frames = FrameTracker(masked=False, compressed=False)
    frames.expect_pong(b"p")
    first, last = frame(b"a", final=False), frame(b"b", CONTINUATION)
    assert frames.feed(first + frame(b"p", PONG) + last) == first + last
