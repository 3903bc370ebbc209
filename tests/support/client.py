"""A raw client of the gate: it sends exactly the given bytes and may disconnect at any time."""

from tests.support.http import BodyReader, Head, Response, read_head
from tests.support.waiting import soon
from tests.support.wire import End, Wire


class Client:
    """A raw connection to the gate. Everything awaited has a time limit."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.body: BodyReader

    def send(self, *data: bytes) -> None:
        self.wire.send(b"".join(data))

    async def head(self, *, bodiless: bool = False) -> Head:
        """Read the next response head, which may be an interim one. `body` then reads its body."""
        async with soon():
            head = await read_head(self.wire)
        self.body = BodyReader(self.wire, head, bodiless=bodiless or head.status < 200)
        return head

    async def response(self, *, bodiless: bool = False) -> Response:
        """Read the next response completely."""
        head = await self.head(bodiless=bodiless)
        return Response(head, await self.read_rest())

    async def request(self, data: bytes) -> Response:
        """Send a request and read its response."""
        self.send(data)
        return await self.response(bodiless=data.startswith(b"HEAD "))

    async def read_some(self) -> bytes:
        async with soon():
            return await self.body.read_some()

    async def expect_body(self, expected: bytes) -> None:
        """Read exactly these bytes of the body."""
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
        """Close the connection at once; unsent data is lost."""
        self.wire.abort()

    def reset(self) -> None:
        self.wire.reset()
