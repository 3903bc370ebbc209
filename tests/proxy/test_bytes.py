"""Direct versus through the gate: the same bytes are sent both ways, and must arrive the same.

Whatever hypothesis thinks of goes over real sockets, to one upstream that shows what it got, and
the connections are used again from one example to the next. `EXAMPLES=1000` makes it try longer.
"""

import asyncio
import os
import string
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from rustygate.core.headers import READABLE_CODINGS
from rustygate.core.paths import has_dot_segment
from tests.conftest import StartGate
from tests.support.client import Client
from tests.support.gate import Gate
from tests.support.http import (
    LAST_CHUNK,
    UPSTREAM_KEY,
    Framing,
    Head,
    Response,
    chunk,
    framing_of,
    request,
    response,
    response_head,
)
from tests.support.upstream import Call, Upstream
from tests.support.wire import Wire

tried_often = settings(
    max_examples=int(os.environ.get("EXAMPLES", "100")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

Pieces = list[bytes]


# What is sent.


def cut(data: bytes, cuts: Sequence[int]) -> Pieces:
    """The data in pieces, cut at these places as far as they are inside."""
    inside = sorted({at for at in cuts if 0 < at < len(data)})
    return [data[a:b] for a, b in zip([0, *inside], [*inside, len(data)], strict=True) if a < b]


CUTS = st.lists(st.integers(1, 300), max_size=5)
BODIES = st.binary(max_size=300) | st.binary(min_size=1, max_size=64).map(lambda b: b * 1000)

# Header names are tokens (RFC 9110, 5.6.2). With this beginning none means anything.
TOKENS = st.text(string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~", max_size=12)
NAMES = st.sampled_from(["X-Repeated", "x-repeated", "X-REPEATED"]) | TOKENS.map("X-T-{}".format)
VALUES = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], include_characters="\t"), max_size=40
).map(lambda value: value.strip(" \t"))


@st.composite
def header_lines(draw: st.DrawFn) -> list[str]:
    """Header lines, in Latin-1 of their UTF-8 as `request` takes them."""
    lines = draw(st.lists(st.tuples(NAMES, VALUES), max_size=8))
    return [f"{name}: {value}".encode().decode("latin-1") for name, value in lines]


PERCENT = st.tuples(st.integers(0, 255), st.booleans()).map(
    lambda drawn: f"%{drawn[0]:02X}" if drawn[1] else f"%{drawn[0]:02x}"
)
# All that is printable, but for what no target may hold.
PLAIN = st.text([c for c in map(chr, range(0x21, 0x7F)) if c not in '#\\?"'], max_size=8)
ODD = st.sampled_from(["[]", "%", "%zz", "+", "{}", "|", "^", "`", "<>", "a=b&a=b"])
TEXTS = st.lists(PLAIN | PERCENT | ODD, max_size=6).map("".join)
QUERIES = st.just("") | st.just("?") | st.lists(TEXTS, max_size=3).map(lambda q: "?" + "?".join(q))


@st.composite
def targets(draw: st.DrawFn) -> bytes:
    path = "/v1/" + "/".join(draw(st.lists(TEXTS, max_size=4)))
    assume(not has_dot_segment(path))
    return (path + draw(QUERIES)).encode()


@dataclass(frozen=True, slots=True)
class Message:
    """A body, how its end is told, and the pieces it comes in."""

    body: bytes
    framing: Framing
    content_type: str
    pieces: Pieces

    @property
    def lines(self) -> list[str]:
        typed = [f"Content-Type: {self.content_type}"]
        match self.framing:
            case "chunked":
                return [*typed, "Transfer-Encoding: chunked"]
            case "length":
                return [*typed, f"Content-Length: {len(self.body)}"]
        return typed


CONTENT_TYPES = ["application/json", "multipart/form-data; boundary=x", "audio/mpeg", "text/plain"]


@st.composite
def messages(draw: st.DrawFn, *framings: Framing, types: Sequence[str] = ()) -> Message:
    body, framing = draw(BODIES), draw(st.sampled_from(framings))
    framed = body
    if framing == "chunked":
        framed = b"".join(map(chunk, cut(body, draw(CUTS)))) + LAST_CHUNK
    content_type = draw(st.sampled_from([*CONTENT_TYPES, *types]))
    return Message(body, framing, content_type, cut(framed, draw(CUTS)))


# Both ways.


class Ways:
    """Two clients: one asks upstream directly, the other through the gate."""

    def __init__(self, gate: Gate, upstream: Upstream) -> None:
        self._gate = gate
        self.upstream = upstream
        self._clients: dict[bool, Client] = {}

    async def client(self, *, direct: bool) -> Client:
        """The connection of the example before, or a new one where that did not end well."""
        client = self._clients.pop(direct, None)
        if client is not None and client.wire.end is None:
            return client
        if client is not None:
            client.disconnect()
        return (
            Client(await Wire.connect(self.upstream.url)) if direct else await self._gate.connect()
        )

    def keep(self, client: Client, *, direct: bool) -> None:
        self._clients[direct] = client

    async def request(
        self, head: bytes, pieces: Pieces, reply: Pieces, *, direct: bool, closes: bool = False
    ) -> tuple[Call, bytes, Response]:
        """Ask in pieces, answer in pieces; the call upstream, the body it got, the answer."""
        client = await self.client(direct=direct)
        client.send(head)
        await in_pieces(client.wire, pieces)
        call = await self.upstream.call()
        got = await call.read_rest()
        await in_pieces(call.wire, reply)
        if closes:
            call.close()
        call.done.set()
        answered = await client.response()
        self.keep(client, direct=direct)
        return call, got, answered

    def disconnect(self) -> None:
        for client in self._clients.values():
            client.disconnect()


async def in_pieces(wire: Wire, pieces: Pieces) -> None:
    for piece in pieces:
        wire.send(piece)
        await asyncio.sleep(0)


@pytest.fixture
async def ways(gate: StartGate, upstream: Upstream) -> AsyncIterator[Ways]:
    ways = Ways(await gate(MAX_BUFFERED_BODY=10_000), upstream)
    yield ways
    ways.disconnect()


def by_name(head: Head, *but: str) -> dict[str, list[str]]:
    """The values of each name, in order."""
    values: dict[str, list[str]] = defaultdict(list)
    for name, value in head.fields:
        if name not in but:
            values[name].append(value)
    return values


ADDED = {"x-rustygate-queued-ms", "x-rustygate-attempts", "server-timing", "date", "server"}


@tried_often
@given(targets(), st.sampled_from(["GET", "DELETE", "POST"]))
async def test_target_arrives_as_sent(ways: Ways, target: bytes, method: str) -> None:
    head = request(method, target.decode("latin-1"), "Content-Length: 0")
    straight, _, _ = await ways.request(head, [], [response()], direct=True)
    through, _, _ = await ways.request(head, [], [response()], direct=False)
    assert straight.head.start.encode("latin-1") == b"%b %b HTTP/1.1" % (method.encode(), target)
    assert through.head.start == straight.head.start


@tried_often
@given(st.binary(min_size=1, max_size=6).filter(lambda raw: not set(raw) & set(b"#\\ ?/.%")))
async def test_raw_bytes_in_a_target_arrive_or_are_refused(ways: Ways, raw: bytes) -> None:
    """No URL holds anything but ASCII (RFC 3986, 2); controls no head (RFC 9112, 3.2)."""
    head = request("GET", f"/v1/{raw.decode('latin-1')}?{raw.decode('latin-1')}")
    calls = len(ways.upstream.calls)
    ways.upstream.reply = response()
    client = await ways.client(direct=False)
    got = await client.request(head)
    ways.upstream.reply = None
    if all(0x21 <= byte < 0x7F for byte in raw):
        assert ways.upstream.calls[-1].target.encode("latin-1") == b"/v1/%b?%b" % (raw, raw)
        ways.keep(client, direct=False)
    else:
        assert (got.status, got.reason) == (400, "bad_request")
        assert len(ways.upstream.calls) == calls
        client.disconnect()


@tried_often
@given(header_lines(), header_lines())
async def test_headers_arrive_as_sent(ways: Ways, up: list[str], down: list[str]) -> None:
    head, reply = request("GET", "/v1/models", *up), response(b"{}", *down)
    straight, _, plain = await ways.request(head, [], [reply], direct=True)
    through, _, passed = await ways.request(head, [], [reply], direct=False)
    changed = ("host", "authorization")
    assert by_name(through.head, *changed) == by_name(straight.head, *changed)
    assert through.head.all("authorization") == [f"Bearer {UPSTREAM_KEY}"]
    assert by_name(passed.head, *ADDED) == by_name(plain.head)


@tried_often
@given(messages("length", "chunked"), st.sampled_from(["POST", "PUT", "GET"]))
async def test_body_arrives_as_sent(ways: Ways, message: Message, method: str) -> None:
    head = request(method, "/v1/files", *message.lines)
    straight, plain, _ = await ways.request(head, message.pieces, [response()], direct=True)
    through, got, _ = await ways.request(head, message.pieces, [response()], direct=False)
    assert got == plain == message.body
    names = ("content-type", "content-length")
    for name in names if message.framing == "length" else names[:1]:
        assert through.head.all(name) == straight.head.all(name)
    if message.framing == "chunked" and "content-length" in through.head:
        assert through.head["content-length"] == str(len(message.body))


@tried_often
@given(
    messages("length", "chunked", "close", types=["text/event-stream"]),
    st.sampled_from([None, *sorted(READABLE_CODINGS), "br"]),
    st.sampled_from(["200 OK", "201 Made", "206 Partial Content", "404 None", "500 Oh"]),
)
async def test_answer_arrives_as_sent(
    ways: Ways, message: Message, coding: str | None, status: str
) -> None:
    """Encoded or not, and be it no such code at all: the gate does not care."""
    lines = message.lines if coding is None else [*message.lines, f"Content-Encoding: {coding}"]
    reply = [response_head(*lines, status=status), *message.pieces]
    head, closes = request("GET", "/v1/files/f/content"), message.framing == "close"
    _, _, plain = await ways.request(head, [], reply, direct=True, closes=closes)
    _, _, passed = await ways.request(head, [], reply, direct=False, closes=closes)
    assert passed.body == plain.body == message.body
    assert passed.head.start == plain.head.start
    assert by_name(passed.head, *ADDED, "transfer-encoding") == by_name(
        plain.head, "transfer-encoding"
    )
    assert framing_of(passed.head) == ("chunked" if closes else message.framing)
