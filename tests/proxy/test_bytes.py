"""The same bytes, sent directly and through the gate, arrive the same.

Hypothesis' examples go over real sockets to one upstream. Connections are reused from one example
to the next. `EXAMPLES=1000` runs ten times as many.
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

many_examples = settings(
    max_examples=int(os.environ.get("EXAMPLES", "100")),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

Pieces = list[bytes]


# Requests and responses.


def cut(data: bytes, cuts: Sequence[int]) -> Pieces:
    """The data cut at those positions that lie inside it."""
    inside = sorted({at for at in cuts if 0 < at < len(data)})
    return [data[a:b] for a, b in zip([0, *inside], [*inside, len(data)], strict=True) if a < b]


CUTS = st.lists(st.integers(1, 300), max_size=5)
BODIES = st.binary(max_size=300) | st.binary(min_size=1, max_size=64).map(lambda b: b * 1000)

# Header names are tokens (RFC 9110, 5.6.2). None with this prefix has a meaning.
TOKENS = st.text(string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~", max_size=12)
NAMES = st.sampled_from(["X-Repeated", "x-repeated", "X-REPEATED"]) | TOKENS.map("X-T-{}".format)
VALUES = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], include_characters="\t"), max_size=40
).map(lambda value: value.strip(" \t"))


@st.composite
def header_lines(draw: st.DrawFn) -> list[str]:
    """Header lines whose UTF-8 bytes are decoded as Latin-1, as `request` expects."""
    lines = draw(st.lists(st.tuples(NAMES, VALUES), max_size=8))
    return [f"{name}: {value}".encode().decode("latin-1") for name, value in lines]


PERCENT = st.tuples(st.integers(0, 255), st.booleans()).map(
    lambda drawn: f"%{drawn[0]:02X}" if drawn[1] else f"%{drawn[0]:02x}"
)
# All printable characters that a target may contain.
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
    """A body, its framing, and the pieces in which it is sent."""

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


class BothWays:
    """Two clients: one sends to upstream directly, the other through the gate."""

    def __init__(self, gate: Gate, upstream: Upstream) -> None:
        self._gate = gate
        self.upstream = upstream
        self._clients: dict[bool, Client] = {}

    async def client(self, *, direct: bool) -> Client:
        """The connection of the previous example, or a new one if that has ended."""
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
        """Send a request and a reply in pieces; the call at upstream, its body, the response."""
        client = await self.client(direct=direct)
        client.send(head)
        await send_pieces(client.wire, pieces)
        call = await self.upstream.call()
        received = await call.read_rest()
        await send_pieces(call.wire, reply)
        if closes:
            call.close()
        call.done.set()
        result = await client.response()
        self.keep(client, direct=direct)
        return call, received, result

    def disconnect(self) -> None:
        for client in self._clients.values():
            client.disconnect()


async def send_pieces(wire: Wire, pieces: Pieces) -> None:
    for piece in pieces:
        wire.send(piece)
        await asyncio.sleep(0)


@pytest.fixture
async def both_ways(gate: StartGate, upstream: Upstream) -> AsyncIterator[BothWays]:
    both_ways = BothWays(await gate(MAX_BUFFERED_BODY=10_000), upstream)
    yield both_ways
    both_ways.disconnect()


def by_name(head: Head, *but: str) -> dict[str, list[str]]:
    """The values of each header, in order."""
    values: dict[str, list[str]] = defaultdict(list)
    for name, value in head.fields:
        if name not in but:
            values[name].append(value)
    return values


ADDED = {
    "x-rustygate-id", "x-rustygate-queued-ms", "x-rustygate-attempts", "server-timing", "date",
}  # fmt: skip


@many_examples
@given(targets(), st.sampled_from(["GET", "DELETE", "POST"]))
async def test_target_arrives_unchanged(both_ways: BothWays, target: bytes, method: str) -> None:
    head = request(method, target.decode("latin-1"), "Content-Length: 0")
    direct_call, _, _ = await both_ways.request(head, [], [response()], direct=True)
    gate_call, _, _ = await both_ways.request(head, [], [response()], direct=False)
    assert direct_call.head.start.encode("latin-1") == b"%b %b HTTP/1.1" % (
        method.encode(),
        target,
    )
    assert gate_call.head.start == direct_call.head.start


@many_examples
@given(st.binary(min_size=1, max_size=6).filter(lambda raw: not set(raw) & set(b"#\\ ?/.%")))
async def test_raw_bytes_in_a_target_arrive_unchanged_or_are_refused(
    both_ways: BothWays, raw: bytes
) -> None:
    """A URL contains only ASCII (RFC 3986, 2), a target no control characters (RFC 9112, 3.2)."""
    head = request("GET", f"/v1/{raw.decode('latin-1')}?{raw.decode('latin-1')}")
    calls = len(both_ways.upstream.calls)
    both_ways.upstream.reply = response()
    client = await both_ways.client(direct=False)
    received = await client.request(head)
    both_ways.upstream.reply = None
    if all(0x21 <= byte < 0x7F for byte in raw):
        assert both_ways.upstream.calls[-1].target.encode("latin-1") == b"/v1/%b?%b" % (raw, raw)
        both_ways.keep(client, direct=False)
    else:
        assert (received.status, received.reason) == (400, "bad_request")
        assert len(both_ways.upstream.calls) == calls
        client.disconnect()


@many_examples
@given(header_lines(), header_lines())
async def test_headers_arrive_unchanged(
    both_ways: BothWays, up: list[str], down: list[str]
) -> None:
    head, reply = request("GET", "/v1/models", *up), response(b"{}", *down)
    direct_call, _, from_upstream = await both_ways.request(head, [], [reply], direct=True)
    gate_call, _, from_gate = await both_ways.request(head, [], [reply], direct=False)
    changed = ("host", "authorization")
    assert by_name(gate_call.head, *changed) == by_name(direct_call.head, *changed)
    assert gate_call.head.all("authorization") == [f"Bearer {UPSTREAM_KEY}"]
    assert by_name(from_gate.head, *ADDED) == by_name(from_upstream.head)


@many_examples
@given(messages("length", "chunked"), st.sampled_from(["POST", "PUT", "GET"]))
async def test_body_arrives_unchanged(both_ways: BothWays, message: Message, method: str) -> None:
    head = request(method, "/v1/files", *message.lines)
    direct_call, from_upstream, _ = await both_ways.request(
        head, message.pieces, [response()], direct=True
    )
    gate_call, received, _ = await both_ways.request(
        head, message.pieces, [response()], direct=False
    )
    assert received == from_upstream == message.body
    names = ("content-type", "content-length")
    for name in names if message.framing == "length" else names[:1]:
        assert gate_call.head.all(name) == direct_call.head.all(name)
    if message.framing == "chunked" and "content-length" in gate_call.head:
        assert gate_call.head["content-length"] == str(len(message.body))


@many_examples
@given(
    messages("length", "chunked", "close", types=["text/event-stream"]),
    st.sampled_from([None, *sorted(READABLE_CODINGS), "br"]),
    st.sampled_from(["200 OK", "201 Made", "206 Partial Content", "404 None", "500 Oh"]),
)
async def test_response_arrives_unchanged(
    both_ways: BothWays, message: Message, coding: str | None, status: str
) -> None:
    """Whether or not the body really has the coding that its header names."""
    lines = message.lines if coding is None else [*message.lines, f"Content-Encoding: {coding}"]
    reply = [response_head(*lines, status=status), *message.pieces]
    head, closes = request("GET", "/v1/files/f/content"), message.framing == "close"
    _, _, from_upstream = await both_ways.request(head, [], reply, direct=True, closes=closes)
    _, _, from_gate = await both_ways.request(head, [], reply, direct=False, closes=closes)
    assert from_gate.body == from_upstream.body == message.body
    assert from_gate.head.start == from_upstream.head.start
    assert by_name(from_gate.head, *ADDED, "transfer-encoding") == by_name(
        from_upstream.head, "transfer-encoding"
    )
    assert framing_of(from_gate.head) == ("chunked" if closes else message.framing)
