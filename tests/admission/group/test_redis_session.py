"""A session with a server that answers as the tests want."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from rustygate.admission.group.redis_protocol import ErrorReply, ProtocolError
from rustygate.admission.group.redis_session import RedisSession
from tests.support.waiting import SOON_S, soon

PING = b"*1\r\n$4\r\nPING\r\n"


class FakeServer(asyncio.Protocol):
    """Sends `greeting` first, then an answer to each piece of data."""

    greeting = b""
    answer: Callable[[bytes], bytes] = staticmethod(lambda data: b"+PONG\r\n")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self.greeting)

    def data_received(self, data: bytes) -> None:
        answer = self.answer(data)
        if answer == b"close":
            self.transport.close()
        else:
            self.transport.write(answer)


@pytest.fixture
async def connected(_no_task_left: None) -> AsyncIterator[RedisSession]:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(FakeServer, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    session = await RedisSession.to_server(host, port, None)
    yield session
    session.close()
    await session.wait_closed()
    server.close()
    await server.wait_closed()


def answer_with(monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    monkeypatch.setattr(FakeServer, "answer", staticmethod(lambda data: answer))


async def test_commands_are_answered_one_at_a_time(connected: RedisSession) -> None:
    async with soon():
        assert await connected.ask("PING") == b"PONG"
        assert await connected.send(PING, SOON_S) == b"PONG"
    assert connected.is_connected
    assert repr(connected) == "<RedisSession connected>"


async def test_error_leaves_the_connection_open(
    connected: RedisSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_with(monkeypatch, b"-NOPERM no\r\n")
    async with soon():
        with pytest.raises(ErrorReply, match=r"^NOPERM no$"):
            await connected.ask("PING")
        answer_with(monkeypatch, b":1\r\n")
        assert await connected.ask("PING") == 1


async def test_second_command_before_the_reply_is_a_defect(connected: RedisSession) -> None:
    async with soon():
        asking = asyncio.create_task(connected.ask("PING"))
        await asyncio.sleep(0)
        with pytest.raises(AssertionError, match="one command at a time"):
            await connected.ask("PING")
        assert await asking == b"PONG"


@pytest.mark.parametrize("host", ["a..b", f"{'x' * 64}.example"])
async def test_name_that_no_host_can_have_is_an_error_of_the_connection(host: str) -> None:
    with pytest.raises(OSError, match="its address is not a host name"):
        await RedisSession.to_server(host, 6379, None)


class _ClosedTwice(asyncio.Transport):
    """TLS in early Python 3.11 after a second close."""

    def is_closing(self) -> bool:
        return True

    def abort(self) -> None:
        raise AttributeError


async def test_end_of_a_connection_that_cannot_be_aborted_is_noticed() -> None:
    session = RedisSession()
    session.connection_made(_ClosedTwice())
    session.abort()
    session.connection_lost(None)
    async with soon():
        await session.wait_closed()
    with pytest.raises(ConnectionResetError):
        await session.ask("PING")


async def test_timeout_closes_the_connection(
    connected: RedisSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_with(monkeypatch, b"")
    async with soon():
        with pytest.raises(TimeoutError):
            await connected.send(PING, 0.01)
        assert not connected.is_connected
        with pytest.raises(TimeoutError):
            await connected.ask("PING")


async def test_cancelled_command_closes_the_connection(
    connected: RedisSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_with(monkeypatch, b"")
    asking = asyncio.ensure_future(connected.ask("PING"))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait((asking,))
    assert asking.cancelled()
    assert not connected.is_connected
    assert repr(connected) == "<RedisSession closed>"


@pytest.mark.parametrize(
    ("answer", "error"),
    [(b"close", ConnectionError), (b"HTTP/1.1 400\r\n", ProtocolError)],
)
async def test_connection_that_ends_fails_the_command(
    connected: RedisSession,
    monkeypatch: pytest.MonkeyPatch,
    answer: bytes,
    error: type[Exception],
) -> None:
    answer_with(monkeypatch, answer)
    async with soon():
        for _ in range(2):
            with pytest.raises(error):
                await connected.ask("PING")
        assert not connected.is_connected


async def test_unsolicited_reply_closes_the_connection(
    connected: RedisSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_with(monkeypatch, b":1\r\n:2\r\n")
    async with soon():
        assert await connected.ask("PING") == 1
        with pytest.raises(ProtocolError):
            await connected.ask("PING")


async def test_error_of_a_full_server_is_raised_by_the_first_command(
    monkeypatch: pytest.MonkeyPatch, connected: RedisSession
) -> None:
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(FakeServer, "greeting", b"-ERR max number of clients reached\r\n")
    server = await loop.create_server(FakeServer, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    session = await RedisSession.to_server(host, port, None)
    async with soon():
        await session.wait_closed()
        with pytest.raises(ErrorReply, match="max number of clients"):
            await session.ask("PING")
        server.close()
        await server.wait_closed()
