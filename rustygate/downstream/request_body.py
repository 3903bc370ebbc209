"""The request's body on its way up: held, so that it can be read and sent again, or streamed.

Small bodies are held; larger and multipart ones pass through as they come. A client that asks
before it sends (`Expect: 100-continue`, RFC 9110, 10.1.1) is answered here: at once for a body
that is worth reading first, otherwise only when upstream is there to take it.
"""

import asyncio
from collections.abc import AsyncIterator

from aiohttp import HttpVersion11, hdrs, web

from rustygate.config import Settings
from rustygate.core.headers import Headers
from rustygate.errors import BodyTooLarge, MalformedBody, Refusal, RequestTimeout

# Up to here a held body is written in one piece, with its head.
WRITTEN_AT_ONCE = 1024 * 1024

# How much is read ahead of a body that is being taken.
READ_AHEAD = 256 * 1024

# How much that may come to of one that waits; aiohttp's high-water mark is twice its low one.
READ_AHEAD_LIMIT = 2 * READ_AHEAD

# How long the gate waits for a body's next byte. A lost network is back within it or not at all;
# nginx and most load balancers wait as long. While upstream takes no more, nobody waits.
SILENCE_LIMIT_S = 60.0


class BodyBufferBudget:
    """How many bytes of request bodies the gate holds, of how many it may (QUEUE_BYTES)."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    def __repr__(self) -> str:
        return f"<BodyBufferBudget {self.held} of {self.limit} bytes>"


class RequestBody:
    """One request's body.

    `read` holds it if it is to be held; then `held` is the whole of it, else None. It goes
    upstream as one `piece`, if it has one, else chunk by chunk: those of a held body can be had
    again, others once. `close` lets go of what is held.
    """

    def __init__(
        self, request: web.Request, settings: Settings, holdings: BodyBufferBudget
    ) -> None:
        self._request = request
        self._settings = settings
        self._holdings = holdings
        self._chunks: list[bytes] = []
        self._size = 0
        self._ahead = 0
        self._awaits_continue = _awaits_continue(request)
        self._answered = False
        self.held: bytes | None = None if request.body_exists else b""
        self.refusal: Refusal | None = None
        _check_framing(request)
        self._length = request.content_length
        if self._length is not None and self._length > settings.max_body_size:
            raise self._too_large(self._length)

    async def read(self) -> None:
        """Read the body into memory, as far as it is to be held."""
        if self.held is not None:
            return
        if self._is_to_be_held():
            content = self._request.content
            if content.is_eof() and not self._awaits_continue:
                # A small body comes with its head.
                self._hold(self._counted(content.read_nowait()))
                return
            content.set_read_chunk_size(READ_AHEAD)
            if self._awaits_continue:
                await self._continue()
            while self.held is None and self._has_room():
                self._hold(await self._next_chunk())
        elif not self._awaits_continue:
            self._read_ahead()

    @property
    def piece(self) -> bytes | None:
        """The whole of it, if that is to be written at once."""
        return self.held if self.held is not None and len(self.held) <= WRITTEN_AT_ONCE else None

    @property
    def chunked(self) -> bool:
        """Whether it goes upstream in chunks, since nobody knows its length."""
        return self.held is None and self._length is None

    @property
    def framing(self) -> Headers:
        """What says where it ends, unless the client's own headers do (RFC 9112, 6)."""
        if self.chunked:
            return [("Transfer-Encoding", "chunked")]
        if self.held is not None and self._length is None and self._request.body_exists:
            return [("Content-Length", str(len(self.held)))]
        return []

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The chunks: what was read before, then the rest as it comes."""
        try:
            for chunk in self._chunks:
                yield chunk
            if self.held is not None:
                return
            self._forget_ahead()
            self._request.content.set_read_chunk_size(READ_AHEAD)
            if self._awaits_continue:
                await self._continue()
            while chunk := await self._next_chunk():
                if self._answered:
                    await asyncio.get_running_loop().create_future()
                yield chunk
        except Refusal as refusal:
            # The pool makes a lost connection of what is raised here; `refusal` keeps it.
            self.refusal = refusal
            raise

    def stop(self) -> None:
        """Upstream has answered: what it has not taken yet is not sent any more.

        The chunks pause instead of ending, which upstream could take for the whole body.
        """
        self._answered = True

    def close(self) -> None:
        """Let go of what is held."""
        self._holdings.held -= sum(map(len, self._chunks))
        self._chunks.clear()
        self._forget_ahead()

    def _is_to_be_held(self) -> bool:
        content_type = self._request.headers.get(hdrs.CONTENT_TYPE, "").lower()
        if content_type.startswith("multipart/"):
            return False
        if self._awaits_continue and "json" not in content_type:
            return False
        room = self._holdings.limit - self._holdings.held
        return (self._length or 0) <= min(self._settings.max_buffered_body, room)

    def _has_room(self) -> bool:
        fits = self._size <= self._settings.max_buffered_body
        return fits and self._holdings.held <= self._holdings.limit

    def _read_ahead(self) -> None:
        """Take the beginning of a body that waits, if there is room; else it stays in its socket.

        Behind what nobody takes a client's end does not show.
        """
        size = READ_AHEAD_LIMIT if self._length is None else min(self._length, READ_AHEAD_LIMIT)
        if self._holdings.held + size > self._holdings.limit:
            return
        self._ahead = size
        self._holdings.held += size
        self._request.content.set_read_chunk_size(READ_AHEAD)
        if not self._request.content.is_eof():
            self._request.protocol.resume_reading()

    def _forget_ahead(self) -> None:
        self._holdings.held -= self._ahead
        self._ahead = 0

    def _hold(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self._holdings.held += len(chunk)
        if self._request.content.at_eof():
            self.held = chunk if len(self._chunks) == 1 else b"".join(self._chunks)

    async def _next_chunk(self) -> bytes:
        try:
            chunk = await self._arriving()
        except web.RequestPayloadError as error:
            raise MalformedBody("The request's body is not framed as HTTP asks.") from error
        except TimeoutError as error:
            if self._answered:
                # The answer may go on for long, and its client need not send the rest.
                await asyncio.get_running_loop().create_future()
            # After the answer, aiohttp would wait for the rest for another ten seconds.
            self._request.protocol._lingering_time = 0.0
            message = f"Nothing came of the request's body for {SILENCE_LIMIT_S:g} s."
            raise RequestTimeout(message) from error
        return self._counted(chunk)

    async def _arriving(self) -> bytes:
        content = self._request.content
        # A time limit would be wasted on what is there.
        if content.is_eof():
            return await content.readany()
        async with asyncio.timeout(SILENCE_LIMIT_S):
            return await content.readany()

    def _counted(self, chunk: bytes) -> bytes:
        self._size += len(chunk)
        if self._size > self._settings.max_body_size:
            raise self._too_large(self._size)
        return chunk

    def _too_large(self, size: int) -> BodyTooLarge:
        limit = self._settings.max_body_size
        return BodyTooLarge(f"The body has {size} bytes or more; at most {limit} are taken.")

    async def _continue(self) -> None:
        """Tell a client that waits for it to send its body."""
        self._awaits_continue = False
        writer = self._request.writer
        await writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        writer.output_size = 0  # as aiohttp does: this was no part of the answer


def _check_framing(request: web.Request) -> None:
    """Refuse codings that the gate would strip without undoing them (RFC 9112, 6.1)."""
    codings = request.headers.get(hdrs.TRANSFER_ENCODING)
    if codings is None:
        return
    if codings.lower() != "chunked" or request.version < HttpVersion11:
        raise MalformedBody("The only transfer coding taken is chunked, and only in HTTP/1.1.")


def _awaits_continue(request: web.Request) -> bool:
    expectation = request.headers.get(hdrs.EXPECT)
    if expectation is None or request.version < HttpVersion11:
        return False
    return expectation.lower() == "100-continue"
