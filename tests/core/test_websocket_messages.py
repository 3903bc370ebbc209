"""Which messages of a WebSocket pass, which wait, and what upstream gets of them."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.websocket_frames import MESSAGE_LIMIT, FrameTracker
from rustygate.core.websocket_messages import (
    ITEM_BYTES,
    ClientMessage,
    ClientMessages,
    UpstreamMessages,
)
from tests.support.websocket import BINARY, CLOSE, MASK, PING, TEXT, frame
from tests.support.websocket_messages import Deflater, message, messages_in

TURN = b'{"type":"response.create"}'
AUDIO = b'{"type":"input_audio_buffer.append","audio":"AA"}'
OTHER = b'{"type":"session.update"}'
NEW_MASK = b"\x05\x06\x07\x08"


class Client:
    """A client's side: its tracker and what it observes, and what went upstream."""

    def __init__(
        self,
        *,
        compressed: bool = False,
        keeps_context: bool = True,
        checks_types: bool = False,
    ) -> None:
        self.kept: list[ClientMessage | None] = []
        self.items: list[tuple[bytes, int]] = []
        self.messages = ClientMessages(
            self.kept.append,
            lambda start, size: self.items.append((start, size)),
            lambda: NEW_MASK,
            keeps_context=keeps_context,
            checks_types=checks_types,
        )
        self.frames = FrameTracker(
            masked=True,
            compressed=compressed,
            observer=self.messages,
            keeps_context=keeps_context,
        )
        self.passed = b""
        self.turns = 0
        self.sizes: list[int] = []

    def feed(self, *chunks: bytes) -> bytes:
        """What passes of the chunks."""
        passed = b"".join(map(self.frames.feed, chunks))
        self.passed += passed
        self.sizes.append(self.messages.size)
        return passed

    def send(self, payload: bytes, opcode: int = TEXT, *, reserved: int = 0) -> bytes:
        return self.feed(frame(payload, opcode, mask=MASK, reserved=reserved))

    @property
    def held(self) -> list[ClientMessage]:
        """The turns that wait for admission."""
        return [each for each in self.messages.waiting if each.is_held]

    def admit(self, index: int = 0) -> bytes:
        """Admit one of the turns that are held, by default the first."""
        self.messages.admit(self.held[index])
        return self._pass()

    def drop(self, index: int = 0) -> bytes:
        self.messages.drop(self.held[index])
        return self._pass()

    def _pass(self) -> bytes:
        passed = b"".join(map(self.frames.insert, self.messages.take_passing()))
        self.passed += passed
        return passed

    @property
    def waiting(self) -> list[bytes]:
        return [each.frames for each in self.messages.waiting]


def masked(payload: bytes, opcode: int = TEXT) -> bytes:
    return frame(payload, opcode, mask=MASK)


# Which messages wait.


def test_turn_waits_and_passes_as_it_came() -> None:
    client = Client()
    assert client.send(TURN) == b""
    assert client.waiting == [masked(TURN)]
    [kept] = client.kept
    assert kept is not None
    assert (kept.text, kept.is_turn) == (TURN, True)
    assert client.messages.size == len(masked(TURN)) + len(TURN)
    assert client.admit() == masked(TURN)
    assert client.messages.size == 0


@pytest.mark.parametrize("payload", [OTHER, AUDIO, b"", b"x", b"[]", b'{"type":"response"}'])
def test_other_messages_pass_while_nothing_waits(payload: bytes) -> None:
    client = Client()
    assert client.send(payload) == masked(payload)
    assert client.kept == []


def test_messages_behind_a_turn_wait_but_for_audio_and_control_frames() -> None:
    client = Client()
    client.send(TURN)
    assert client.send(OTHER) == b""
    assert client.send(AUDIO) == masked(AUDIO)
    assert client.send(b"", PING) == masked(b"", PING)
    assert client.send(b"\x00", BINARY) == b""
    assert client.send(TURN) == b""
    assert client.send(OTHER) == b""
    assert client.admit() == masked(TURN) + masked(OTHER) + masked(b"\x00", BINARY)
    assert client.waiting == [masked(TURN), masked(OTHER)]
    assert client.drop() == masked(OTHER)
    assert client.messages.size == 0


def test_message_passes_as_soon_as_it_cannot_be_a_turn() -> None:
    client = Client()
    data = masked(AUDIO)
    decided = len(masked(TURN[:-1]))
    assert client.feed(data[: decided - 1]) == b""
    assert client.feed(data[decided - 1 : decided]) == data[:decided]
    assert client.feed(data[decided:]) == data[decided:]
    assert client.messages.size == 0


@pytest.mark.parametrize("cut", range(len(TURN) + 1))
def test_how_a_fragment_is_cut_makes_no_difference_to_what_follows(cut: int) -> None:
    """A ping between the fragments passes before or after the first, as that is decided."""
    for text in (AUDIO[:-20], AUDIO[:20], b" " + AUDIO, b'{"type":"response.cre'):
        whole, parted = Client(), Client()
        data = frame(text, mask=MASK, final=False) + masked(b"ping", PING)
        whole.feed(data)
        parted.feed(data[:cut], data[cut:])
        assert parted.passed == whole.passed


def test_message_that_begins_behind_a_turn_passes_once_the_turn_is_admitted() -> None:
    client = Client()
    client.send(TURN)
    data = masked(OTHER)
    assert client.feed(data[:-3]) == b""
    assert client.messages.size > len(masked(TURN)) + len(TURN)
    assert client.admit() == masked(TURN)
    assert client.feed(data[-3:]) == data
    assert client.messages.size == 0


def test_admitted_turn_follows_a_message_that_is_passing() -> None:
    client = Client()
    client.send(TURN)
    data = masked(AUDIO)
    assert client.feed(data[:-3]) == data[:-3]
    assert client.admit() == b""
    assert client.feed(data[-3:] + masked(OTHER)) == data[-3:] + masked(TURN) + masked(OTHER)


def test_admitted_turn_follows_the_last_fragment() -> None:
    client = Client()
    client.send(TURN)
    first, last = message(AUDIO, [45], mask=MASK)
    assert client.feed(first) == first
    assert not client.frames.between_messages
    assert client.admit() == b""
    ping = masked(b"p", PING)
    assert client.feed(ping + last + ping) == ping + last + masked(TURN) + ping


def test_turn_dropped_behind_another_leaves_the_others_in_order() -> None:
    client = Client()
    client.feed(masked(TURN), masked(b"1"), masked(TURN), masked(b"2"), masked(TURN))
    size = client.messages.size
    assert client.drop(1) == b""
    assert client.messages.size == size - len(masked(TURN)) - len(TURN)
    assert client.admit(1) == b""
    assert client.admit() == masked(TURN) + masked(b"1") + masked(b"2") + masked(TURN)
    assert client.messages.size == 0
    assert client.send(OTHER) == masked(OTHER)


def test_close_frame_passes_before_what_waits() -> None:
    client = Client()
    client.send(TURN)
    assert client.send(b"", CLOSE) == masked(b"", CLOSE)
    assert client.frames.closed
    client.messages.clear()
    assert client.messages.size == 0


def test_turn_of_an_unknown_size_can_be_dropped_before_its_end() -> None:
    client = Client()
    text = b'{"type":"response.create","x":"' + b"x" * 1000 + b'"}'
    first, second, third = message(text, [500, 300], mask=MASK)
    client.feed(first)
    assert client.messages.size == len(first) + 500
    client.messages.drop_current()
    assert client.messages.size == 0
    assert client.feed(second + third) == b""
    [dropped] = client.messages.waiting
    assert (dropped.frames, dropped.is_turn) == (b"", True)
    assert client.drop() == b""
    assert client.send(OTHER) == masked(OTHER)


def test_only_what_may_be_a_turn_is_dropped_before_its_end() -> None:
    client = Client()
    client.messages.drop_current()
    assert client.send(OTHER) == masked(OTHER)
    client.send(TURN)
    data = masked(OTHER)
    client.feed(data[:-1])
    client.messages.drop_current()
    assert client.admit() == masked(TURN)
    assert client.feed(data[-1:]) == data


# Items of the conversation.


ITEM = b'{"type":"conversation.item.create","item":{"type":"message","content":"Hello"}}'


@pytest.mark.parametrize(
    "text", [ITEM, ITEM.replace(b'":', b'" : '), ITEM.replace(b"{", b"{ ", 1)]
)
@pytest.mark.parametrize("compressed", [False, True])
def test_item_is_read_as_it_passes(text: bytes, compressed: bool) -> None:
    client = Client(compressed=True)
    wire = Deflater().compress(text) if compressed else text
    data = frame(wire, mask=MASK, reserved=4 if compressed else 0)
    assert client.feed(data) == data
    assert client.items == [(text, len(text))]
    assert client.kept == []


@pytest.mark.parametrize("cut", range(1, len(ITEM)))
def test_item_is_read_however_it_is_cut(cut: int) -> None:
    for behind in (False, True):
        client = Client()
        if behind:
            client.send(TURN)
        frames = message(ITEM, [cut], mask=MASK)
        for data in frames:
            client.feed(data[:3], data[3:])
        client.send(OTHER)
        assert client.items == [(ITEM, len(ITEM))]
        assert client.passed == (b"" if behind else b"".join(frames) + masked(OTHER))
        if behind:
            assert client.admit() == masked(TURN) + b"".join(frames) + masked(OTHER)
        assert client.messages.size == 0


def test_item_that_begins_behind_a_turn_is_read_once() -> None:
    client = Client()
    client.send(TURN)
    data = masked(ITEM)
    client.feed(data[:60])
    client.admit()
    client.feed(data[60:])
    assert client.items == [(ITEM, len(ITEM))]
    assert client.passed == masked(TURN) + data


@pytest.mark.parametrize("more", [0, 1, 3_000_000])
def test_beginning_of_a_long_item_is_kept(more: int) -> None:
    client = Client()
    text = ITEM + b" " * (ITEM_BYTES - len(ITEM) + more)
    data = masked(text)
    assert client.feed(*(data[at : at + 50_000] for at in range(0, len(data), 50_000))) == data
    assert client.items == [(text[:ITEM_BYTES], len(text))]


@pytest.mark.parametrize("name", [b"conversation.item.delete", b"conversation.item.create.x"])
def test_other_messages_about_items_are_not_read(name: bytes) -> None:
    client = Client()
    for text in (b'{"type":"%b","item":{}}' % name, b'{"item":{},"type":"%b"}' % name):
        assert client.send(text) == masked(text)
    assert client.items == []


# Compressed messages.


def compressed_frame(data: bytes) -> bytes:
    return frame(data, mask=MASK, reserved=4)


def test_compressed_turn_passes_as_it_came() -> None:
    client, deflater = Client(compressed=True), Deflater()
    data = [compressed_frame(deflater.compress(text)) for text in (OTHER, TURN, OTHER)]
    assert client.feed(*data) == data[0]
    assert client.messages.waiting[0].text == TURN
    assert client.admit() == data[1] + data[2]
    assert client.feed(compressed_frame(deflater.compress(OTHER))) != masked(OTHER)


def test_messages_after_a_dropped_compressed_turn_go_uncompressed() -> None:
    client, deflater = Client(compressed=True), Deflater()
    client.feed(compressed_frame(deflater.compress(TURN)))
    client.drop()
    assert client.feed(compressed_frame(deflater.compress(OTHER))) == frame(OTHER, mask=NEW_MASK)
    assert client.send(OTHER) == masked(OTHER)


def test_compressed_messages_before_a_dropped_turn_pass_as_they_came() -> None:
    client, deflater = Client(compressed=True), Deflater()
    sent = [compressed_frame(deflater.compress(text)) for text in (TURN, OTHER, TURN, OTHER)]
    client.feed(*sent)
    assert client.drop(1) == b""
    assert client.admit() == sent[0] + sent[1] + frame(OTHER, mask=NEW_MASK)


def test_audio_that_overtakes_a_compressed_turn_goes_uncompressed() -> None:
    client, deflater = Client(compressed=True), Deflater()
    client.feed(compressed_frame(deflater.compress(TURN)))
    audio = frame(AUDIO, mask=NEW_MASK)
    assert client.feed(compressed_frame(deflater.compress(AUDIO))) == audio
    assert client.admit() == frame(TURN, mask=NEW_MASK)


def test_uncompressed_audio_overtakes_without_consequences() -> None:
    client, deflater = Client(compressed=True), Deflater()
    turn, other = (compressed_frame(deflater.compress(text)) for text in (TURN, OTHER))
    client.feed(turn)
    assert client.send(AUDIO) == masked(AUDIO)
    assert client.admit() == turn
    assert client.feed(other) == other


def test_compressed_audio_passes_as_it_came_while_nothing_waits() -> None:
    client, deflater = Client(compressed=True), Deflater()
    turn, audio, other = (
        compressed_frame(deflater.compress(text)) for text in (TURN, AUDIO, OTHER)
    )
    client.feed(turn)
    client.admit()
    assert client.feed(audio) == audio
    assert client.feed(other) == other


def test_without_context_takeover_compressed_messages_always_pass_as_they_came() -> None:
    client = Client(compressed=True, keeps_context=False)
    turn, audio, other = (
        compressed_frame(Deflater().compress(text)) for text in (TURN, AUDIO, OTHER)
    )
    assert client.feed(turn) == b""
    assert client.feed(audio) == audio
    client.drop()
    assert client.feed(other) == other


def test_message_that_cannot_be_inflated_passes_as_it_is() -> None:
    client = Client(compressed=True)
    bad = compressed_frame(b"\xff\xff\xff")
    assert client.feed(bad) == bad
    assert client.feed(compressed_frame(Deflater().compress(TURN))) != b""


def test_message_that_cannot_be_inflated_waits_behind_a_turn() -> None:
    client = Client(compressed=True)
    client.send(TURN)
    bad = compressed_frame(b"\xff\xff\xff")
    assert client.feed(bad) == b""
    assert client.admit() == masked(TURN) + bad


def test_message_that_cannot_be_inflated_ends_a_stream_that_is_out_of_step() -> None:
    client = Client(compressed=True)
    client.feed(compressed_frame(Deflater().compress(TURN)))
    client.drop()
    client.feed(compressed_frame(b"\xff\xff\xff"))
    assert client.frames.violation is not None
    assert client.frames.violation.code == 1007


@pytest.mark.parametrize(("size", "code"), [(MESSAGE_LIMIT, None), (MESSAGE_LIMIT + 1, 1009)])
def test_message_may_not_inflate_too_far(size: int, code: int | None) -> None:
    client = Client(compressed=True)
    client.feed(compressed_frame(Deflater().compress(b"x" * size)))
    violation = client.frames.violation
    assert (violation and violation.code) == code
    assert (client.passed == b"") is (code is not None)


# Laws.


kinds = st.sampled_from([TURN, AUDIO, ITEM, OTHER, b"", b"plain text", b'{"a":{"type":"x"}}'])
payloads = st.one_of(
    kinds,
    st.builds(
        lambda kind, pad: json.dumps({"pad": pad} | json.loads(kind)).encode(),
        st.sampled_from([TURN, AUDIO, ITEM, OTHER]),
        st.text(max_size=40) | st.just("x" * 3000),
    ),
)
sent_messages = st.lists(
    st.tuples(payloads, st.lists(st.integers(0, 30), max_size=3), st.booleans(), st.booleans()),
    max_size=10,
)


def is_turn(payload: bytes) -> bool:
    return b"response.create" in payload


def is_audio(payload: bytes) -> bool:
    return b"input_audio_buffer" in payload


@given(sent_messages, st.data())
def test_upstream_gets_every_message_once_and_in_order(
    sent: list[tuple[bytes, list[int], bool, bool]], data: st.DataObject
) -> None:
    """However the bytes are cut, and whenever turns are admitted or dropped."""
    client, deflater, stream, pings = Client(compressed=True), Deflater(), b"", []
    for number, (payload, sizes, compressed, ping) in enumerate(sent):
        wire = deflater.compress(payload) if compressed else payload
        frames = message(wire, sizes, mask=MASK, compressed=compressed)
        if ping:
            pings.append(b"%d" % number)
            frames.insert(1, masked(pings[-1], PING))
        stream += b"".join(frames)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8).map(sorted))
    dropped = []
    for a, b in pairwise([0, *cuts, len(stream)]):
        client.feed(stream[a:b])
        for what in data.draw(st.text("ad", max_size=3)):
            if not client.held:
                break
            index = data.draw(st.integers(0, len(client.held) - 1))
            if what == "d":
                dropped.append(client.held[index].text)
                client.drop(index)
            else:
                client.admit(index)
    while client.held:
        client.admit()
    got, got_pings = messages_in(client.passed)
    expected = [payload for payload, *_ in sent]
    for text in dropped:
        assert text is not None
        expected.remove(text)
    assert sorted(got) == sorted(expected)
    assert got_pings == pings
    assert client.messages.size == 0
    assert client.frames.violation is None
    if not dropped:
        # Only audio overtakes.
        assert [each for each in got if not is_audio(each)] == [
            each for each in expected if not is_audio(each)
        ]
        assert [each for each in got if is_audio(each)] == list(filter(is_audio, expected))


@given(sent_messages, st.data())
def test_how_bytes_are_cut_makes_no_difference_to_what_waits(
    sent: list[tuple[bytes, list[int], bool, bool]], data: st.DataObject
) -> None:
    stream = b""
    for payload, sizes, _, ping in sent:
        frames = message(payload, sizes, mask=MASK)
        if ping:
            frames.insert(1, masked(b"ping", PING))
        stream += b"".join(frames)
    whole, cut = Client(), Client()
    whole.feed(stream)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8).map(sorted))
    cut.feed(*(stream[a:b] for a, b in pairwise([0, *cuts, len(stream)])))
    assert cut.waiting == whole.waiting
    assert (
        cut.messages.size
        == whole.messages.size
        == sum(each.size for each in whole.messages.waiting)
    )
    if not any(is_turn(payload) for payload, *_ in sent):
        assert messages_in(cut.passed) == messages_in(stream)


# Upstream's messages.


def events_of(*chunks: bytes, compressed: bool = False) -> list[tuple[bytes, bytes]]:
    seen: list[tuple[bytes, bytes]] = []
    observer = UpstreamMessages(lambda kind, text: seen.append((kind, text)))
    frames = FrameTracker(masked=False, compressed=compressed, observer=observer)
    assert b"".join(map(frames.feed, chunks)) == b"".join(chunks)
    return seen


def ends_of(events: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The events other than deltas."""
    return [(kind, text) for kind, text in events if kind != b"deltas"]


DONE = b'{"type":"response.done","response":{"usage":{"input_tokens":1}}}'
LATE = b'{"response":{"output":[]},"type":"response.completed"}'
DELTA = b'{"type":"response.output_text.delta","delta":"response.done"}'


def test_upstream_messages_pass_and_only_some_are_read() -> None:
    data = [frame(text) for text in (DELTA, DONE, b"", b"x", DELTA, LATE, b'{"a":[]}')]
    assert ends_of(events_of(*data)) == [
        (b"response.done", DONE),
        (b"response.completed", LATE),
    ]


def test_compressed_upstream_messages_are_read_from_a_copy() -> None:
    deflater = Deflater()
    data = [frame(deflater.compress(text), reserved=4) for text in (DELTA, DONE, DELTA, DONE)]
    assert ends_of(events_of(*data, compressed=True)) == [(b"response.done", DONE)] * 2


@given(
    st.lists(st.tuples(st.sampled_from([DONE, LATE, DELTA, b"", b"x"]), st.integers(0, 60))),
    st.booleans(),
    st.data(),
)
def test_how_bytes_are_cut_makes_no_difference_to_what_is_read(
    sent: list[tuple[bytes, int]], compressed: bool, data: st.DataObject
) -> None:
    deflater, stream = Deflater(), b""
    for text, size in sent:
        wire = deflater.compress(text) if compressed else text
        stream += b"".join(message(wire, [size], mask=b"", compressed=compressed))
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8).map(sorted))
    seen = events_of(
        *(stream[a:b] for a, b in pairwise([0, *cuts, len(stream)])), compressed=compressed
    )
    assert [text for _, text in ends_of(seen)] == [
        text for text, _ in sent if text in (DONE, LATE)
    ]


@pytest.mark.parametrize("cut", [1, 20, 60])
@pytest.mark.parametrize(
    "event",
    [
        b'{"type":"session.update","type":"response.create"}',
        b'{"type":"input_audio_buffer.append","Type":"response.create"}',
        b'{"type":"conversation.item.create","item":{},"t\\u0079pe":"response.create"}',
        b'\xef\xbb\xbf{"type":"response.create"}',
    ],
)
def test_message_whose_type_readers_may_differ_about_is_a_turn(event: bytes, cut: int) -> None:
    client = Client(checks_types=True)
    parts = event[:cut], event[cut:]
    assert client.send(parts[0] + parts[1]) == b""
    assert client.feed(frame(parts[0], final=False, mask=MASK)) == b""
    assert client.feed(frame(parts[1], opcode=0, mask=MASK)) == b""
    assert [turn.text for turn in client.held] == [event, event]


def test_messages_whose_types_are_checked_pass_when_they_are_complete() -> None:
    client = Client(checks_types=True)
    for event in (OTHER, AUDIO, b'{"type":"x","items":[{"type":"y"},{"type":"z"}]}', b"no JSON"):
        first, rest = frame(event[:9], final=False, mask=MASK), frame(event[9:], 0, mask=MASK)
        assert client.feed(first) == b""
        assert client.feed(rest) == first + rest
    assert client.held == []
    assert client.messages.size == 0
    item = b'{"type":"conversation.item.create","item":{}}'
    assert client.send(item) == frame(item, mask=MASK)
    assert client.items == [(item, len(item))]
    assert client.send(TURN) == b""


def test_repr_shows_the_live_state() -> None:
    client = Client()
    client.send(TURN)
    assert repr(client.messages) == "<ClientMessages 1 waiting, 58 bytes>"
    observer = UpstreamMessages(lambda kind, text: None)
    FrameTracker(masked=False, compressed=False, observer=observer).feed(frame(DONE)[:40])
    assert repr(observer) == "<UpstreamMessages 38 bytes of b'response.done'>"


def test_deltas_are_reported_together_and_before_what_follows_them() -> None:
    data = [frame(text) for text in (DELTA, DELTA, DONE, DELTA)]
    lines = b"data: %b\n\n" % DELTA
    assert events_of(*data) == [(b"deltas", lines * 2), (b"response.done", DONE)]
    assert events_of(frame(DELTA) * 130) == [(b"deltas", lines * 64)] * 2


@pytest.mark.parametrize(
    "event",
    [
        b'{"type": "response.output_text.delta", "delta": "Hi"}',
        b'{"event_id":"e","type":"response.output_text.delta","delta":"Hi"}',
        b'{"delta":"Hi","type":"response.output_text.delt\\u0061"}',
    ],
    ids=["spaces", "type later", "escaped"],
)
def test_deltas_in_other_notations_are_reported(event: bytes) -> None:
    assert events_of(frame(event), frame(DONE)) == [
        (b"deltas", b"data: %b\n\n" % event),
        (b"response.done", DONE),
    ]
    in_two_frames = frame(event, final=False), frame(b"", opcode=0)
    assert events_of(*in_two_frames) == []


def test_only_short_deltas_of_text_are_reported() -> None:
    audio = b'{"type":"response.output_audio.delta","delta":"%b"}' % (b"A" * 5000)
    assert events_of(frame(audio) * 100) == []


def test_deltas_that_were_not_reported_can_be_taken() -> None:
    observer = UpstreamMessages(lambda kind, text: None)
    frames = FrameTracker(masked=False, compressed=False, observer=observer)
    frames.feed(frame(DELTA))
    assert observer.take_deltas() == b"data: %b\n\n" % DELTA
    assert observer.take_deltas() == b""
