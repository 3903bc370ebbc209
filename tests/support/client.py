"""A client of the gate that sends exactly the bytes a test says, and may leave at any time."""

from tests.support.http import BodyReader, Head, Response, head_from
from tests.support.waiting import soon
from tests.support.wire import End, Wire


class Client:
    """A raw connection to the gate. Whatever is awaited has a time limit."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.body: BodyReader

    def send(self, *data: bytes) -> None:
        self.wire.send(b"".join(data))

    async def head(self, *, bodiless: bool = False) -> Head:
        """The next head, an interim one too; then `body` reads what belongs to it."""
        async with soon():
            head = await head_from(self.wire)
        self.body = BodyReader(self.wire, head, bodiless=bodiless or head.status < 200)
        return head

    async def response(self, *, bodiless: bool = False) -> Response:
        """The next answer, whole."""
        head = await self.head(bodiless=bodiless)
        return Response(head, await self.read_rest())

    async def request(self, data: bytes) -> Response:
        """Send a request and take its answer."""
        self.send(data)
        return await self.response(bodiless=data.startswith(b"HEAD "))

    async def read_some(self) -> bytes:
        async with soon():
            return await self.body.read_some()

    async def expect_body(self, expected: bytes) -> None:
        """Read as many bytes of the body as are expected, and compare."""
        async with soon():
            assert await self.body.read_exactly(len(expected)) == expected

    async def read_rest(self) -> bytes:
        async with soon():
            return await self.body.read_rest()

    async def read_until_cut(self) -> bytes:
        async with soon():
            return await self.body.read_until_cut()

    async def ended(self) -> End:
        async with soon():
            return await self.wire.ended()

    def disconnect(self) -> None:
        """Close the connection, whatever is going on."""
        self.wire.transport.abort()

    def reset(self) -> None:
        self.wire.reset()
