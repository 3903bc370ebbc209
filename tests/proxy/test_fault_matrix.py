"""All faults at once, before a gate that is a process of its own, while a hundred streams pass.

What one fault comes to in all its shapes is told elsewhere. Here they meet: each exchange has its
one line in the log, with the outcome that its fault determines, the healthy ones notice nothing,
and in the end nothing is left of any. `EXAMPLES=1000` makes ten rounds of it.
"""

import asyncio
import json
import os
import signal
import socket
from collections import Counter, defaultdict
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import pytest

from rustygate.core.clients import hash_key
from tests.conftest import Start
from tests.support.client import Client
from tests.support.http import (
    CLIENT_KEY,
    CONTINUE,
    EVENT_STREAM,
    LAST_CHUNK,
    Response,
    chunk,
    post,
    request,
    response,
    response_head,
)
from tests.support.metrics import Scrape, scrape_request
from tests.support.process import Process
from tests.support.upstream import Call, Upstream
from tests.support.waiting import in_background, soon, until
from tests.support.wire import Wire

ROUNDS = max(1, int(os.environ.get("EXAMPLES", "100")) // 100)
STREAMS = 100

# How often a healthy stream says something, and after what silence upstream is given up.
EVENT_EVERY_S, SILENCE_S = 0.25, 4

# So many units, and as good as no refill: none is taken or given back unseen.
BURST = 1_000_000

# Has one exchange in flight at a time, and the class of waiters to itself.
NARROW_KEY = "rg-narrow"
CLIENTS = f"""
[client.healthy]
key_sha256 = "{hash_key(CLIENT_KEY)}"
[client.narrow]
key_sha256 = "{hash_key(NARROW_KEY)}"
priority = "batch"
concurrency = 1
"""
SETTINGS = {
    "OPENAI_API_KEY": "sk-matrix",
    "RUST_LOG": "info",
    "LOG_FORMAT": "json",
    "RATE_LIMIT": "0.00001",
    "RATE_LIMIT_BURST": str(BURST),
    "MAX_BODY_SIZE": "100000",
    "UPSTREAM_READ_TIMEOUT": str(SILENCE_S),
    "SSE_KEEPALIVE_INTERVAL": "0",
}

MULTIPART = "Content-Type: multipart/form-data; boundary=x"
JSON = "Content-Type: application/json"
FIRST, SECOND = b"data: first\n\n", b"data: second\n\n"

# Far more than fits between upstream and a client that does not read.
FLOOD = b"data: x\n\n" * (1 << 20)

Leaving = Callable[[Wire], None]


def close(wire: Wire) -> None:
    """As a process that ends."""
    wire.transport.abort()


WAYS: tuple[Leaving, ...] = (close, Wire.reset, Wire.half_close)


# What stands round the gate.


class Running:
    """A gate, and what it has logged so far."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.url: str = process.wait_for_line(process.stderr, r'"url":"([^"]+)"')[1]
        self.lines: list[dict[str, Any]] = []
        self._reader = Thread(target=self._read)
        self._reader.start()

    @property
    def exchanges(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["message"] == "exchange"]

    @property
    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    async def says(self, message: str) -> None:
        await until(lambda: any(message == line["message"] for line in self.lines))

    async def exit_code(self) -> int:
        """Its exit code, once it has ended by itself."""
        code = await asyncio.to_thread(self.process.exit_code)
        self._reader.join()
        return code

    def end(self) -> None:
        self.process.signal(signal.SIGKILL)
        self._reader.join()

    def _read(self) -> None:
        for line in self.process.stderr:
            self.lines.append(json.loads(line))


class Fickle(Upstream):
    """An upstream that can be made to refuse connections, or to break them at once."""

    breaks = False

    def __init__(self) -> None:
        super().__init__()
        # Inherited by what it accepts, so that the address can be had again beside those.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

    @asynccontextmanager
    async def refusing(self) -> AsyncIterator[None]:
        assert self._server is not None
        address = self._socket.getsockname()
        self._server.close()
        yield
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(address)
        await self.start()

    def _accept(self) -> Wire:
        return _Broken() if self.breaks else super()._accept()


class _Broken(Wire):
    """Closed, for a reset might come before the other side knows that it is connected."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.close()


class Stage:
    """A gate's upstream, whose calls are had by their targets, and its clients."""

    def __init__(self) -> None:
        self.upstream = Fickle()
        self.running: Running
        self._calls: defaultdict[str, asyncio.Queue[Call]] = defaultdict(asyncio.Queue)
        self._clients: list[Client] = []

    async def sort_calls(self) -> None:
        while True:
            with suppress(TimeoutError):
                call = await self.upstream.call()
                self._calls[call.target].put_nowait(call)

    async def call(self, target: str) -> Call:
        """The next request for a target that nobody took yet."""
        async with soon():
            return await self._calls[target].get()

    async def send(self, *data: bytes) -> Client:
        """Send bytes to the gate over a new connection."""
        client = Client(await Wire.connect(self.running.url))
        self._clients.append(client)
        client.send(*data)
        return client

    async def shown(self) -> Scrape:
        client = await self.send(scrape_request("Connection: close"))
        shown = Scrape((await client.response()).body)
        await client.ended()
        client.disconnect()
        return shown

    async def wait_until(self, name: str, count: int, **labels: str) -> Scrape:
        """Scrape until a metric says so."""
        async with soon():
            while (shown := await self.shown()).sum(name, **labels) != count:
                pass
        return shown

    async def waits(self, count: int) -> None:
        """Until so many narrow exchanges wait."""
        await self.wait_until("rustygate_waiters", count, **{"class": "batch"})

    def hang_up(self, busy: Collection[Wire] = ()) -> None:
        """End upstream's connections but those that are busy."""
        for wire in self.upstream.wires:
            if wire.connected and wire not in busy:
                wire.close()

    def disconnect(self) -> None:
        for client in self._clients:
            client.disconnect()


class Healthy:
    """Streams that say something all the while, until they come to their good end."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._over = asyncio.Event()
        self._streams: list[asyncio.Task[None]] = []
        self.clients: list[Client] = []
        self.calls: list[Call] = []

    @property
    def expected(self) -> "dict[str, Endings]":
        return {call.target: Counter([Ends("ok", 200)]) for call in self.calls}

    @property
    def wires(self) -> set[Wire]:
        return {call.wire for call in self.calls}

    async def end(self) -> None:
        """Let all end; each must have come whole."""
        self._over.set()
        await asyncio.gather(*self._streams)

    async def stop(self) -> None:
        for stream in self._streams:
            stream.cancel()
        await asyncio.gather(*self._streams, return_exceptions=True)

    async def begin(self, target: str) -> None:
        client = await self._stage.send(post(b'{"stream": true}', target=target))
        call = await self._stage.call(target)
        call.send(EVENT_STREAM, chunk(FIRST))
        assert (await client.head()).status == 200
        self.clients.append(client)
        self.calls.append(call)
        self._streams.append(asyncio.create_task(self._go_on(client, call)))

    async def _go_on(self, client: Client, call: Call) -> None:
        said = [FIRST]
        while not self._over.is_set():
            said.append(b"data: %d\n\n" % len(said))
            call.send(chunk(said[-1]))
            with suppress(TimeoutError):
                async with asyncio.timeout(EVENT_EVERY_S):
                    await self._over.wait()
        call.send(LAST_CHUNK)
        assert await client.read_rest() == b"".join(said)
        call.done.set()


# Faults.


class Ends(NamedTuple):
    """How an exchange's line says that it ended."""

    outcome: str
    status: int | None = None
    reason: str | None = None
    attempts: int = 1

    @classmethod
    def of(cls, line: dict[str, Any]) -> "Ends":
        return cls(line["outcome"], line["status"], line.get("reason"), line["attempts"])


class Act:
    """A fault that happens: who asks and who is asked, for a target of its own."""

    def __init__(self, stage: Stage, target: str) -> None:
        self.stage = stage
        self.target = target

    @property
    def body(self) -> bytes:
        """Of a model of its own: what pauses its lane holds up nobody else."""
        return json.dumps({"model": self.target, "stream": True}).encode()

    async def asks(self) -> Client:
        return await self.stage.send(post(self.body, target=self.target))

    async def asks_narrowly(self, *lines: str) -> Client:
        data = post(self.body, "X-RustyGate-Priority: batch", *lines, target=self.target)
        return await self.stage.send(data.replace(CLIENT_KEY.encode(), NARROW_KEY.encode()))

    async def begins_a_body(self, length: str) -> Client:
        """The gate waits for the body."""
        data = request("POST", self.target, JSON, "Expect: 100-continue", length)
        client = await self.stage.send(data)
        assert (await client.head()).raw == CONTINUE
        return client

    async def uploads(self, first: bytes) -> tuple[Client, Call]:
        """A part of a body that is not held has come upstream."""
        head = request("POST", self.target, MULTIPART, "Content-Length: 1000")
        client = await self.stage.send(head, first)
        call = await self.call()
        await call.expect_body(first)
        return client, call

    async def streams(self, head: bytes = EVENT_STREAM) -> tuple[Client, Call]:
        """The first event has come down."""
        client = await self.asks()
        call = await self.asked()
        call.send(head, chunk(FIRST) if b"chunked" in head else FIRST)
        await client.head()
        await client.expect_body(FIRST)
        return client, call

    async def is_served(self) -> None:
        client = await self.asks()
        await (await self.call()).respond(response(b"whole"))
        assert (await client.response()).body == b"whole"

    async def call(self) -> Call:
        return await self.stage.call(self.target)

    async def asked(self) -> Call:
        """The next call, read."""
        call = await self.call()
        await call.read_rest()
        return call

    @asynccontextmanager
    async def each(self, does: Callable[[Call], object]) -> AsyncIterator[None]:
        """Upstream does so with each call in_background."""

        async def play() -> None:
            while True:
                does(await self.asked())

        async with in_background(play()):
            yield


Fault = Callable[[Act], Coroutine[Any, Any, None]]
Endings = Counter[Ends]

# Each fault, and how its exchanges end.
FAULTS: dict[Fault, Endings] = {}

# These befall whoever has no connection upstream yet: they come one at a time.
EXCLUSIVE: dict[Fault, Endings] = {}


def ends(
    outcome: str,
    status: int | None = None,
    reason: str | None = None,
    attempts: int = 1,
    times: int = 1,
    among: dict[Fault, Endings] = FAULTS,
) -> Callable[[Fault], Fault]:
    """A fault whose exchanges end so; several of these add up."""

    def note(fault: Fault) -> Fault:
        among.setdefault(fault, Counter())[Ends(outcome, status, reason, attempts)] += times
        return fault

    return note


def is_no_exchange(fault: Fault) -> Fault:
    FAULTS[fault] = Counter()
    return fault


def is_refused(got: Response, status: int, reason: str) -> None:
    assert (got.status, got.reason) == (status, reason)


# Upstream's, before its head.


@ends("upstream_error", 502, "upstream_unreachable", 3, among=EXCLUSIVE)
async def upstream_refuses(act: Act) -> None:
    async with act.stage.upstream.refusing():
        is_refused(await (await act.asks()).response(), 502, "upstream_unreachable")


@ends("upstream_error", 502, "upstream_disconnected", 3, among=EXCLUSIVE)
async def upstream_breaks_connections_at_once(act: Act) -> None:
    act.stage.upstream.breaks = True
    is_refused(await (await act.asks()).response(), 502, "upstream_disconnected")
    act.stage.upstream.breaks = False


@ends("upstream_error", 502, "upstream_disconnected")
async def upstream_resets_in_an_upload(act: Act) -> None:
    client, call = await act.uploads(b"half")
    call.reset()
    is_refused(await client.response(), 502, "upstream_disconnected")


@ends("upstream_error", 502, "upstream_disconnected", 3)
async def upstream_resets_before_its_head(act: Act) -> None:
    async with act.each(Call.reset):
        is_refused(await (await act.asks()).response(), 502, "upstream_disconnected")


@ends("upstream_error", 502, "upstream_disconnected", 3)
async def upstream_closes_before_its_head(act: Act) -> None:
    async with act.each(Call.close):
        is_refused(await (await act.asks()).response(), 502, "upstream_disconnected")


@ends("ok", 200, attempts=2)
async def upstream_resets_and_recovers(act: Act) -> None:
    """One attempt fails, the next one does not."""
    client = await act.asks()
    call = await act.asked()
    call.reset()
    # If it was a kept one, it is asked again at once, which does not count.
    again = await act.asked()
    if len([each for each in act.stage.upstream.calls if each.wire is call.wire]) > 1:
        again.reset()
        again = await act.asked()
    await again.respond(response(b"whole"))
    assert (await client.response()).body == b"whole"


@ends("upstream_error", 504, "upstream_timeout")
async def upstream_stalls_before_its_head(act: Act) -> None:
    client = await act.asks()
    call = await act.asked()
    is_refused(await client.response(), 504, "upstream_timeout")
    await call.ended()


@ends("upstream_error", 502, "upstream_disconnected", times=2)
async def upstream_leaves_in_its_head(act: Act) -> None:
    for leave in (Call.reset, Call.close):
        client = await act.asks()
        call = await act.asked()
        call.send(b"HTTP/1.1 200 OK\r\nX-")
        leave(call)
        is_refused(await client.response(), 502, "upstream_disconnected")


@ends("upstream_error", 504, "upstream_timeout")
async def upstream_stalls_in_its_head(act: Act) -> None:
    client = await act.asks()
    call = await act.asked()
    call.send(b"HTTP/1.1 200 OK\r\nX-")
    is_refused(await client.response(), 504, "upstream_timeout")
    await call.ended()


@ends("upstream_error", 502, "upstream_disconnected")
async def upstream_sends_garbage(act: Act) -> None:
    client = await act.asks()
    call = await act.asked()
    call.send(b"\x16\x03\x01\x02\x00\x01nonsense\r\n\r\n")
    is_refused(await client.response(), 502, "upstream_disconnected")
    await call.ended()


# Upstream's, in its body.


@ends("upstream_error", 502, "upstream_disconnected", times=2)
async def upstream_leaves_after_its_head(act: Act) -> None:
    for leave in (Call.reset, Call.close):
        client = await act.asks()
        call = await act.asked()
        call.send(EVENT_STREAM)
        leave(call)
        is_refused(await client.response(), 502, "upstream_disconnected")


@ends("aborted", 200, "upstream_timeout")
async def upstream_stalls_after_its_head(act: Act) -> None:
    client = await act.asks()
    (await act.asked()).send(EVENT_STREAM)
    assert (await client.head()).status == 200
    assert b"upstream_timeout" in await client.read_until_cut()


@ends("aborted", 200, "upstream_disconnected", times=2)
async def upstream_leaves_between_events(act: Act) -> None:
    for leave in (Call.reset, Call.close):
        client, call = await act.streams()
        leave(call)
        assert b"upstream_disconnected" in await client.read_until_cut()


@ends("aborted", 200, "upstream_disconnected", times=2)
async def upstream_leaves_in_an_event(act: Act) -> None:
    for leave in (Call.reset, Call.close):
        client, call = await act.streams()
        call.send(chunk(SECOND[:-3]))
        await client.expect_body(SECOND[:-3])
        leave(call)
        assert await client.read_until_cut() == b""


@ends("aborted", 200, "upstream_timeout")
async def upstream_stalls_in_its_body(act: Act) -> None:
    client, call = await act.streams()
    assert b"upstream_timeout" in await client.read_until_cut()
    await call.ended()


@ends("aborted", 200, "upstream_disconnected")
async def upstream_sends_garbage_for_a_chunk(act: Act) -> None:
    client, call = await act.streams()
    call.send(b"nonsense\r\n")
    await client.read_until_cut()
    await call.ended()


@ends("aborted", 200, "upstream_disconnected")
async def upstream_sends_less_than_it_said(act: Act) -> None:
    client, call = await act.streams(response_head(JSON, "Content-Length: 100"))
    call.close()
    assert await client.read_until_cut() == b""


@ends("ok", 200)
async def upstream_sends_more_than_it_said(act: Act) -> None:
    """Nobody is answered with what is too much."""
    client = await act.asks()
    call = await act.asked()
    call.send(response(b"whole"), response(b"too much"))
    assert (await client.response()).body == b"whole"
    await call.ended()


@ends("ok", 200)
async def upstream_drips(act: Act) -> None:
    client = await act.asks()
    call = await act.asked()
    for byte in EVENT_STREAM + chunk(FIRST) + LAST_CHUNK:
        await call.wire.send_all(bytes([byte]))
        await asyncio.sleep(0)
    call.done.set()
    assert (await client.response()).body == FIRST


# Upstream's, by its own word.


@ends("ok", 500, times=3)
@ends("ok", 502, times=3)
@ends("ok", 503, times=3)
@ends("ok", 504, times=3)
async def upstream_fails_again_and_again(act: Act) -> None:
    for status in (500, 502, 503, 504) * 3:
        client = await act.asks()
        await (await act.call()).respond(response(b"{}", status=f"{status} No"))
        got = await client.response()
        assert (got.status, got.reason) == (status, None)


def too_many(code: str, *lines: str, status: str = "429 Too Many Requests") -> bytes:
    body = json.dumps({"error": {"code": code}}).encode()
    return response(body, JSON, *lines, status=status)


@ends("ok", 429, attempts=3)
async def upstream_has_no_room(act: Act) -> None:
    client = await act.asks()
    for _ in range(3):
        await (await act.call()).respond(too_many("rate_limit_exceeded", "retry-after-ms: 20"))
    assert (await client.response()).status == 429


@ends("ok", 429, times=2)
async def upstream_has_no_room_for_long(act: Act) -> None:
    for told in (
        too_many("insufficient_quota"),
        too_many("rate_limit_exceeded", "Retry-After: 60"),
    ):
        client = await act.asks()
        await (await act.call()).respond(told)
        assert (await client.response()).status == 429


@ends("ok", 200, attempts=3)
async def upstream_is_overloaded_for_a_while(act: Act) -> None:
    client = await act.asks()
    status = "503 Service Unavailable"
    told = too_many("server_is_overloaded", "retry-after-ms: 20", status=status)
    await (await act.call()).respond(told)
    await (await act.call()).respond(too_many("slow_down", "retry-after-ms: 20"))
    await (await act.call()).respond(response(b"whole"))
    assert (await client.response()).body == b"whole"


@ends("ok", 413)
async def upstream_has_enough_of_an_upload(act: Act) -> None:
    client, call = await act.uploads(b"half")
    call.send(response(b"enough", "Connection: close", status="413 Content Too Large"))
    call.close()
    assert (await client.response()).body == b"enough"


# The client's.


@is_no_exchange
async def client_leaves_in_its_head(act: Act) -> None:
    for leave in WAYS:
        client = await act.stage.send(post(act.body, target=act.target)[:50])
        leave(client.wire)


@is_no_exchange
async def client_sends_garbage(act: Act) -> None:
    is_refused(
        await (await act.stage.send(b"\x16\x03\x01\r\n\r\n")).response(), 400, "bad_request"
    )


@ends("client_left", attempts=0, times=3)
async def client_leaves_in_its_body(act: Act) -> None:
    for leave in WAYS:
        client = await act.begins_a_body("Content-Length: 1000")
        client.send(b"{")
        leave(client.wire)


@ends("client_left", times=3)
async def client_leaves_in_an_upload(act: Act) -> None:
    for leave in WAYS:
        client, call = await act.uploads(b"half")
        leave(client.wire)
        await call.ended()


@ends("refused", 413, "body_too_large", attempts=0)
@ends("refused", 400, "bad_request", attempts=0)
async def client_sends_a_body_that_will_not_do(act: Act) -> None:
    large = request("POST", act.target, JSON, "Content-Length: 200000")
    is_refused(await (await act.stage.send(large)).response(), 413, "body_too_large")
    client = await act.begins_a_body("Transfer-Encoding: chunked")
    client.send(b"nonsense\r\n")
    is_refused(await client.response(), 400, "bad_request")


@ends("client_left", attempts=0, times=3)
@ends("refused", 429, "queue_timeout", attempts=0)
@ends("ok", 200, times=2)
async def client_leaves_the_queue(act: Act) -> None:
    """One has its turn, and the last one gets it after."""
    holder = await act.asks_narrowly()
    call = await act.asked()
    waiters = [await act.asks_narrowly() for _ in range(4)]
    await act.stage.waits(4)
    impatient = await act.asks_narrowly("x-stainless-read-timeout: 0.2")
    is_refused(await impatient.response(), 429, "queue_timeout")
    for leave, waiter in zip(WAYS, waiters[:3], strict=True):
        leave(waiter.wire)
    await act.stage.waits(1)
    await call.respond(response(b"first"))
    assert (await holder.response()).body == b"first"
    await (await act.call()).respond(response(b"last"))
    assert (await waiters[3].response()).body == b"last"


@ends("client_left", times=3)
async def client_leaves_before_its_answer(act: Act) -> None:
    for leave in WAYS:
        client = await act.asks()
        call = await act.asked()
        leave(client.wire)
        await call.ended()


@ends("client_left", 200, times=3)
async def client_leaves_in_its_answer(act: Act) -> None:
    for leave in WAYS:
        client, call = await act.streams()
        leave(client.wire)
        await call.ended()


async def _stalls(act: Act) -> tuple[Client, Call]:
    """The client reads no more of what upstream goes on sending."""
    client, call = await act.streams()
    client.wire.pause_reading()
    call.send(chunk(FLOOD))
    return client, call


@ends("client_left", 200, times=2)
async def client_stalls_and_leaves(act: Act) -> None:
    for leave in (close, Wire.reset):
        client, call = await _stalls(act)
        leave(client.wire)
        await call.ended()


@ends("ok", 200)
async def client_stalls_and_goes_on(act: Act) -> None:
    client, call = await _stalls(act)
    client.wire.resume_reading()
    call.send(LAST_CHUNK)
    assert await client.read_rest() == FLOOD
    call.done.set()


# All of it.

SERVED = Counter([Ends("ok", 200)])

Run = Callable[[], Awaitable[Running]]


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    """Upstream, and at the end nobody is there any more."""
    stage = Stage()
    await stage.upstream.start()
    async with in_background(stage.sort_calls()):
        yield stage
    stage.disconnect()
    await stage.upstream.stop()


@pytest.fixture
def run(start: Start, stage: Stage, tmp_path: Path) -> Iterator[Run]:
    """Starts gates on one socket, the next one as the stage's."""
    (tmp_path / "clients.toml").write_text(CLIENTS)
    given = SETTINGS | {"OPENAI_BASE_URL": stage.upstream.url, "CLIENTS_FILE": "clients.toml"}
    started: list[Running] = []

    async def run() -> Running:
        process = start(sockets=[listening], **given)
        stage.running = await asyncio.to_thread(Running, process)
        started.append(stage.running)
        return stage.running

    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield run
    for running in started:
        running.end()


@asynccontextmanager
async def healthy(stage: Stage) -> AsyncIterator[Healthy]:
    """All the healthy streams, begun; those that are not told to end are cancelled."""
    streams = Healthy(stage)
    try:
        for number in range(STREAMS):
            await streams.begin(f"/v1/healthy/{number}")
        yield streams
    finally:
        await streams.stop()


async def has_accounted_for(running: Running, expected: Mapping[str, Endings]) -> None:
    """There is a line for each exchange and no other, and none of a defect."""
    wanted = Counter(
        {(path, each): n for path, ends_so in expected.items() for each, n in ends_so.items()}
    )
    with suppress(TimeoutError):
        await until(lambda: len(running.exchanges) >= wanted.total())
    found = Counter((line["path"], Ends.of(line)) for line in running.exchanges)
    assert (wanted - found, found - wanted) == (Counter(), Counter())
    assert {line["level"] for line in running.lines} == {"info"}


def spent(endings: Iterable[Endings]) -> int:
    """Units that exchanges took which upstream may have seen."""
    return sum(
        times * ended.attempts
        for ending in endings
        for ended, times in ending.items()
        if ended.reason != "upstream_unreachable"
    )


@pytest.mark.timeout(60 * (1 + ROUNDS))
async def test_each_fault_ends_in_its_outcome_and_leaves_nothing(stage: Stage, run: Run) -> None:
    running = await run()
    files = running.open_files
    async with healthy(stage) as streams:
        expected = streams.expected
        for number in range(ROUNDS):
            async with asyncio.TaskGroup() as together:
                for fault, endings in FAULTS.items():
                    act = Act(stage, f"/v1/{number}/{fault.__name__}")
                    expected[act.target] = endings
                    together.create_task(fault(act), name=fault.__name__)
                running.process.signal(signal.SIGHUP)
            for fault, endings in EXCLUSIVE.items():
                act = Act(stage, f"/v1/{number}/{fault.__name__}")
                expected[act.target] = endings
                stage.hang_up(streams.wires)
                await fault(act)
        await running.says("clients file reloaded")
        await stage.wait_until("rustygate_in_flight", STREAMS)
        await streams.end()
    await has_accounted_for(running, expected)
    shown = await stage.wait_until("rustygate_in_flight", 0)
    assert shown.sum("rustygate_waiters") == 0
    assert shown.sum("rustygate_exchanges_total") == len(running.exchanges)
    left = shown.sum("rustygate_budget_units", lane="", budget="requests")
    assert left == BURST - spent(expected.values())
    stage.disconnect()
    stage.hang_up()
    await until(lambda: running.open_files == files)
    # A drain waits for whatever task is still at an exchange.
    running.process.signal()
    async with soon():
        assert await running.exit_code() == 0


async def test_gate_that_is_to_stop_finishes_what_it_has_and_tells_who_waits(
    stage: Stage, run: Run
) -> None:
    """The next one has the socket already: nobody is refused by it."""
    old = await run()
    async with healthy(stage) as streams:
        narrow, later = Act(stage, "/v1/narrow"), Act(stage, "/v1/later")
        holder = await narrow.asks_narrowly()
        call = await narrow.asked()
        waiters = [await narrow.asks_narrowly() for _ in range(10)]
        await stage.waits(10)
        new = await run()
        old.process.signal()
        await old.says("draining")
        for waiter in waiters:
            is_refused(await waiter.response(), 503, "draining")
        for _ in range(10):
            await later.is_served()
        await call.respond(response(b"whole"))
        assert (await holder.response()).body == b"whole"
        await streams.end()
        assert await old.exit_code() == 0
    told = Counter({Ends("refused", 503, "draining", 0): 10})
    await has_accounted_for(old, streams.expected | {narrow.target: SERVED + told})
    await has_accounted_for(new, {later.target: Counter({Ends("ok", 200): 10})})


async def test_gate_that_is_killed_cuts_who_was_there_and_nobody_else(
    stage: Stage, run: Run
) -> None:
    """No cut stream passes for a whole one, and a client that came meanwhile is served by the next."""
    old = await run()
    async with healthy(stage) as streams:
        narrow, later = Act(stage, "/v1/narrow"), Act(stage, "/v1/later")
        cut = [await narrow.asks_narrowly() for _ in range(10)]
        await stage.waits(9)
        await later.is_served()
        await has_accounted_for(old, {later.target: SERVED})
        old.process.signal(signal.SIGKILL)
        await old.exit_code()
        await streams.stop()
        for client, call in zip(streams.clients, streams.calls, strict=True):
            await client.read_until_cut()
            await call.ended()
        for client in cut:
            await client.ended()
            assert client.wire.received == b""
        in_background = [await later.asks() for _ in range(10)]
        new = await run()
        async with later.each(lambda call: call.send(response(b"whole"))):
            assert {(await client.response()).body for client in in_background} == {b"whole"}
    await has_accounted_for(new, {later.target: Counter({Ends("ok", 200): 10})})
    await stage.wait_until("rustygate_in_flight", 0)
