"""The body of a client's request: buffered, to be inspected and sent again, or streamed.

Small bodies are buffered, and the larger of these are compressed while their requests wait. Others
are passed on as they arrive, after a look at their start. A client that waits for permission to
send (`Expect: 100-continue`, RFC 9110, 10.1.1) gets it from here: at once for JSON that is
buffered, otherwise only when upstream is ready to receive it.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from mmap import mmap

from aiohttp import HttpVersion11, hdrs, web

from rustygate.aiohttp_internals.server import free_head, peek, skip_lingering
from rustygate.config import Settings
from rustygate.core.content_coding import codings_of
from rustygate.core.decompression import decode
from rustygate.core.forms import is_form
from rustygate.core.headers import HeaderLines
from rustygate.core.request_facts import COMPRESSED_START_LIMIT, START_LIMIT
from rustygate.downstream.compressed_body import CompressedBody, compress, map_memory
from rustygate.errors import BodyTooLarge, MalformedBody, Refusal, RequestTimeout
from rustygate.system.background import start_task
from rustygate.system.shared_counts import Count

# A buffered body up to this size is written together with the request's head.
SINGLE_WRITE_LIMIT = 1024 * 1024

# A compressed body may decode to this many times MAX_BUFFERED_BODY. Base64, of which large bodies
# consist, decodes to less than twice its compressed size.
DECODED_FACTOR = 2

# A buffered body of at least this size has memory of its own, and is compressed after its request
# has waited for this time. malloc is faster for smaller bodies, and most requests wait less.
LARGE_BODY = 512 * 1024
COMPRESS_AFTER_S = 1.0

# How much of a queued body aiohttp buffers beyond the latest read. A larger buffer would make a
# queue of uploads take more memory; twice the buffer must hold START_LIMIT.
INITIAL_READ_BUFFER = 32 * 1024

# The same for a body that is being read. Larger reads are faster.
READ_BUFFER = 256 * 1024

# The most that a body with that buffer takes; aiohttp's high-water mark is twice its low one.
READ_BUFFER_LIMIT = 2 * READ_BUFFER

# How long a streamed body may take to start. It does not end within this time anyway.
START_TIMEOUT_S = 0.25

# How long the gate waits for the next byte of a body. A lost network recovers within this time or
# not at all; nginx and most load balancers wait as long. Time in which upstream accepts no more
# data does not count.
BODY_TIMEOUT_S = 60.0


class BodyBufferBudget:
    """The bytes of request bodies that this process holds, and their limit (QUEUE_BYTES), to which
    the bytes that other processes hold count too.

    A compressed body counts with its full size. `compressing` is locked while one is compressed.
    """

    def __init__(self, limit: int, count: Count) -> None:
        self.limit = limit
        self._count = count
        self.compressing = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<BodyBufferBudget {self.held} of {self.limit} bytes>"

    @property
    def held(self) -> int:
        return self._count.own

    @held.setter
    def held(self, held: int) -> None:
        self._count.own = held

    @property
    def free(self) -> int:
        """How many more may be held; negative if there are too many."""
        return self.limit - self._count.total


class RequestBody:
    """One request's body.

    `read` buffers the body if it should be buffered. If `is_held`, `held` is then the whole body,
    until it is compressed; otherwise `take_start` returns what has arrived of it. It goes upstream
    as one `piece` if there is one, otherwise chunk by chunk. The chunks of a buffered body can be
    iterated again, others only once. `close` frees the memory.
    """

    __slots__ = (
        "_budget", "_buffered", "_compressed", "_compressing", "_exists", "_expects_continue",
        "_held_size", "_hold_limit", "_length", "_read_ahead_size", "_request", "_settings",
        "_size", "_start", "_stopped", "codings", "content_type", "is_held", "refusal",
    )  # fmt: skip

    def __init__(self, request: web.Request, settings: Settings, budget: BodyBufferBudget) -> None:
        self._request = request
        self._settings = settings
        self._budget = budget
        # What has been read of a body that should be buffered, and how much the budget counts.
        self._buffered: bytes | mmap = b""
        self._held_size = 0
        # What replaces it once it is compressed, and the task that compresses it.
        self._compressed: CompressedBody | None = None
        self._compressing: asyncio.Task[None] | None = None
        self._hold_limit = settings.max_buffered_body
        self._size = 0
        self._read_ahead_size = 0
        self._expects_continue = _expects_continue(request)
        self._stopped = False
        self.content_type = ", ".join(request.headers.getall(hdrs.CONTENT_TYPE, ()))
        self.codings = codings_of(request.headers)
        self._start = b""
        self._exists = request.body_exists
        self.is_held = not self._exists
        self.refusal: Refusal | None = None
        _check_framing(request)
        self._length = request.content_length
        if self._length is not None and self._length > settings.max_body_size:
            raise self._too_large(self._length)

    async def read(self, *, must_show_model: bool = False) -> None:
        """Read the body into memory if it should be buffered.

        Args:
            must_show_model: the request is refused unless its body shows its model, so as much of
                it is buffered as would be read of a compressed one, and a form is
                asked for at once too.
        """
        if self.is_held:
            return
        if must_show_model:
            self._hold_limit = self.decoded_limit
        if self._should_hold(must_show_model):
            content = self._request.content
            if content.is_eof() and not self._expects_continue:
                # A small body arrives together with its head.
                self._buffered = self._hold(self._count(content.read_nowait()))
                self.is_held = True
                return
            content.set_read_chunk_size(READ_BUFFER)
            if self._expects_continue:
                await self._send_continue()
            await self._fill_buffer()
            if not self.is_held:
                self._start = self._buffered[: self._start_limit]
        elif not self._expects_continue:
            self._read_ahead()
            # Unless the body is read ahead, the buffer holds no more than START_LIMIT.
            limit = self._start_limit if self._read_ahead_size else START_LIMIT
            self._start = await peek(self._request.content, limit, START_TIMEOUT_S)

    def take_start(self) -> bytes:
        """What has arrived of a body that is not held. It is returned once, to free its memory."""
        start, self._start = self._start, b""
        return start

    @property
    def held(self) -> bytes | mmap:
        """The whole body, if it is held and not compressed."""
        return self._buffered if self.is_held else b""

    @property
    def piece(self) -> bytes | mmap | None:
        """The whole body, if it is small enough for one write, and not compressed."""
        if not self.is_held or self._compressed is not None:
            return None
        return self._buffered if len(self._buffered) <= SINGLE_WRITE_LIMIT else None

    @property
    def decoded_limit(self) -> int:
        """How many bytes of a compressed body are read once they are decoded."""
        return DECODED_FACTOR * self._settings.max_buffered_body

    def decoded(self) -> bytes:
        """The held body without its codings, as far as it is read."""
        body = bytes(self.held)
        if not self.codings:
            return body
        decoded = decode(body, self.codings, self.decoded_limit)
        return b"" if decoded is None else decoded.data

    @property
    def chunked(self) -> bool:
        """Whether the body goes upstream chunked, since its length is not known."""
        return not self.is_held and self._length is None

    @property
    def framing(self) -> HeaderLines:
        """The header that frames the body, unless the client's own header does (RFC 9112, 6)."""
        if self.chunked:
            return b"Transfer-Encoding: chunked\r\n"
        if self.is_held and self._length is None and self._exists:
            return b"Content-Length: %d\r\n" % self._held_size
        return b""

    async def __aiter__(self) -> AsyncIterator[bytes | memoryview]:
        """The chunks: what has been read, then the rest as it arrives."""
        try:
            for piece in self._compressed or _pieces(self._buffered):
                yield piece
            if self.is_held:
                return
            self._release_read_ahead()
            self._request.content.set_read_chunk_size(READ_BUFFER)
            if self._expects_continue:
                await self._send_continue()
            while chunk := await self._next_chunk():
                if self._stopped:
                    await asyncio.get_running_loop().create_future()
                yield chunk
        except Refusal as refusal:
            # The pool replaces this exception by one for a lost connection.
            self.refusal = refusal
            raise

    def before_wait(self) -> None:
        """Prepare for a wait of the request, to take less memory meanwhile.

        The request's headers and what is left of its body's reader are freed: they take half of
        the memory of a small request. A large body is compressed, unless the wait ends soon.
        """
        free_head(self._request)
        body = self._buffered
        if isinstance(body, mmap) and not self.codings and self._compressing is None:
            self._compressing = start_task("compressing a body", self._compress(body))

    def after_wait(self) -> None:
        """The request goes upstream, with its body in its present form."""
        if self._compressing is not None:
            self._compressing.cancel()
            self._compressing = None

    async def _compress(self, body: mmap) -> None:
        """Compress the body after some time. If that fails, it stays as it is."""
        await asyncio.sleep(COMPRESS_AFTER_S)
        async with self._budget.compressing:
            self._compressed = await compress(body)
        if self._compressed is not None:
            self._buffered = b""

    def stop(self) -> None:
        """Stop sending, since upstream has responded.

        The chunks then pause instead of ending; upstream could take an end for the end of the
        body.
        """
        self._stopped = True

    def close(self) -> None:
        """Free its memory, and return it to the budget. The body is not sent from then on."""
        self.after_wait()
        # Until the next garbage collection, a refusal may keep the request.
        self._buffered, self._compressed = b"", None
        if self._held_size:
            self._budget.held -= self._held_size
            self._held_size = 0
        self._release_read_ahead()

    @property
    def _start_limit(self) -> int:
        return COMPRESSED_START_LIMIT if self.codings else START_LIMIT

    def _should_hold(self, must_show_model: bool) -> bool:
        if self._expects_continue and not self._is_asked_for_at_once(must_show_model):
            return False
        return (self._length or 0) <= min(self._hold_limit, self._budget.free)

    def _is_asked_for_at_once(self, must_show_model: bool) -> bool:
        is_json = "json" in self.content_type.lower()
        return is_json or (must_show_model and is_form(self.content_type))

    def _may_hold_more(self) -> bool:
        return self._size <= self._hold_limit and self._budget.free >= 0

    def _read_ahead(self) -> None:
        """Let aiohttp read the start of a queued body if the budget allows; otherwise the body
        stays in its socket.

        Behind unread bytes the gate cannot see that the client has disconnected.
        """
        size = READ_BUFFER_LIMIT if self._length is None else min(self._length, READ_BUFFER_LIMIT)
        if size > self._budget.free:
            return
        self._read_ahead_size = size
        self._budget.held += size
        self._request.content.set_read_chunk_size(READ_BUFFER)
        if not self._request.content.is_eof():
            self._request.protocol.resume_reading()

    def _release_read_ahead(self) -> None:
        if self._read_ahead_size:
            self._budget.held -= self._read_ahead_size
            self._read_ahead_size = 0

    async def _fill_buffer(self) -> None:
        """Read the body to its end, or as far as it may be held."""
        # Joining pieces at the end would leave holes in the heap, half as large as the bodies.
        length = self._length or 0
        buffer = map_memory(length) if length >= LARGE_BODY else BytesIO()
        at_end = self._request.content.at_eof
        while not at_end() and self._may_hold_more():
            buffer.write(self._hold(await self._next_chunk()))
        self.is_held = at_end()
        self._buffered = buffer.getvalue() if isinstance(buffer, BytesIO) else buffer
        if not self.is_held:
            self._buffered = self._buffered[: self._held_size]

    def _hold(self, chunk: bytes) -> bytes:
        """Count a chunk that is kept in memory."""
        self._held_size += len(chunk)
        self._budget.held += len(chunk)
        return chunk

    async def _next_chunk(self) -> bytes:
        try:
            chunk = await self._read_chunk()
        except web.RequestPayloadError as error:
            raise MalformedBody("The framing of the request body is not valid HTTP.") from error
        except TimeoutError as error:
            if self._stopped:
                # The response may take long, and the client need not send the rest of the body.
                await asyncio.get_running_loop().create_future()
            skip_lingering(self._request.protocol)
            message = f"No data of the request body arrived for {BODY_TIMEOUT_S:g} s."
            raise RequestTimeout(message) from error
        return self._count(chunk)

    async def _read_chunk(self) -> bytes:
        content = self._request.content
        # A body that has arrived needs no timeout, which would cost time.
        if content.is_eof():
            return await content.readany()
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await content.readany()

    def _count(self, chunk: bytes) -> bytes:
        self._size += len(chunk)
        if self._size > self._settings.max_body_size:
            raise self._too_large(self._size)
        return chunk

    def _too_large(self, size: int) -> BodyTooLarge:
        limit = self._settings.max_body_size
        return BodyTooLarge(f"The body has at least {size} bytes; MAX_BODY_SIZE is {limit}.")

    async def _send_continue(self) -> None:
        """Permit the client to send its body."""
        self._expects_continue = False
        writer = self._request.writer
        await writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # As aiohttp does: an interim response is not part of the response.
        writer.output_size = 0


def _pieces(body: bytes | mmap) -> Iterator[memoryview]:
    """A body in pieces of moderate size: of one large write, the transport would make a copy."""
    view = memoryview(body)
    for start in range(0, len(body), READ_BUFFER):
        yield view[start : start + READ_BUFFER]


def _check_framing(request: web.Request) -> None:
    """Refuse codings that the gate would strip without decoding them (RFC 9112, 6.1)."""
    codings = request.headers.get(hdrs.TRANSFER_ENCODING)
    if codings is None:
        return
    if codings.lower() != "chunked" or request.version < HttpVersion11:
        raise MalformedBody(
            "Transfer-Encoding must be chunked, without other codings, and only in HTTP/1.1."
        )


def _expects_continue(request: web.Request) -> bool:
    expectation = request.headers.get(hdrs.EXPECT)
    if expectation is None or request.version < HttpVersion11:
        return False
    return expectation.lower() == "100-continue"
