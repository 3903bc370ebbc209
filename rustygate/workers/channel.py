"""Messages between the supervisor and a worker, over a pair of connected unix sockets.

A message is a name and arguments. Messages of one turn of the event loop travel together in a
frame: a length of four bytes, and a pickled list of messages. Both ends run the same code, and no
other process can open the sockets.
"""

import asyncio
import pickle
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from itertools import count
from typing import Any

from loguru import logger

from rustygate.errors import Refusal
from rustygate.system.background import start_task
from rustygate.workers.refusals import pack_refusal, unpack_refusal

_LENGTH_BYTES = 4

# The kinds of answers to a question.
_ANSWER, _REFUSAL, _FAILURE = "answer", "refusal", "failure"

Handler = Callable[..., None]
Answerer = Callable[..., Awaitable[Any]]


class ChannelLost(Exception):
    """The other process has ended, or closed the channel."""


class Channel(asyncio.Protocol):
    """One end of the channel.

    Args:
        handlers: what to do with each message of the other end, by name.
        answerers: answers the questions of the other end, by name; a refusal is an answer too.
        on_lost: called when the other end is gone.

    Attributes:
        heard_at: when something last arrived, on the event loop's clock.
    """

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        answerers: Mapping[str, Answerer],
        on_lost: Callable[[], None],
    ) -> None:
        self._handlers: dict[str, Handler] = {
            **handlers,
            "ask": self._on_question,
            "unask": self._on_question_withdrawn,
            _ANSWER: self._on_answer,
            _REFUSAL: self._on_refusal,
            _FAILURE: self._on_failure,
        }
        self._answerers = answerers
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self.heard_at = self._loop.time()
        self._transport: asyncio.Transport | None = None
        self._closed = asyncio.Event()
        self._received = bytearray()
        self._outbox: list[tuple[Any, ...]] = []
        self._numbers = count()
        self._questions: dict[int, asyncio.Future[Any]] = {}
        self._answering: dict[int, asyncio.Task[None]] = {}

    def __repr__(self) -> str:
        return f"<Channel {'open' if self._transport else 'closed'}>"

    def add_handlers(self, handlers: Mapping[str, Handler]) -> None:
        """Handle more messages, before any arrive."""
        self._handlers |= handlers

    async def open(self, sock: socket.socket) -> None:
        await self._loop.create_connection(lambda: self, sock=sock)

    def tell(self, *message: Any) -> None:
        """Send a message: its name and arguments."""
        if not self._outbox:
            self._loop.call_soon(self.flush)
        self._outbox.append(message)

    async def ask(self, *question: Any) -> Any:
        """Send a question and wait for its answer. Raises Refusal, and ChannelLost."""
        if self._transport is None:
            raise ChannelLost
        number = next(self._numbers)
        answer = self._questions[number] = self._loop.create_future()
        self.tell("ask", number, *question)
        try:
            return await answer
        except asyncio.CancelledError:
            self.tell("unask", number)
            raise
        finally:
            del self._questions[number]

    def flush(self) -> None:
        """Write the messages of this turn so far."""
        messages, self._outbox = self._outbox, []
        if messages and self._transport is not None:
            frame = pickle.dumps(messages, pickle.HIGHEST_PROTOCOL)
            self._transport.write(len(frame).to_bytes(_LENGTH_BYTES) + frame)

    async def close(self, limit_s: float) -> None:
        """Write the rest, for up to `limit_s` seconds, and close."""
        self.flush()
        if self._transport is not None:
            self._transport.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(limit_s):
                    await self._closed.wait()

    # The protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._loop.time()
        self._received += data
        for message in self._take_messages():
            self._handle(message)
        # Immediate replies to these need not wait for the next turn.
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._closed.set()
        for answer in self._questions.values():
            if not answer.done():
                answer.set_exception(ChannelLost())
        for task in self._answering.values():
            task.cancel()
        self._on_lost()

    def _take_messages(self) -> Iterator[tuple[Any, ...]]:
        received, start = self._received, 0
        while (begin := start + _LENGTH_BYTES) <= len(received):
            end = begin + int.from_bytes(received[start:begin])
            if end > len(received):
                break
            yield from pickle.loads(received[begin:end])
            start = end
        del received[:start]

    def _handle(self, message: tuple[Any, ...]) -> None:
        try:
            name, *arguments = message
            self._handlers[name](*arguments)
        except Exception as error:
            # One message must not keep those behind it from being read.
            logger.opt(exception=error).error("message {} failed", message[0])

    # Questions of the other end.

    def _on_question(self, number: int, name: str, *arguments: Any) -> None:
        task = start_task(f"answering {name}", self._answer(number, name, arguments))
        self._answering[number] = task
        task.add_done_callback(lambda _: self._answering.pop(number, None))

    def _on_question_withdrawn(self, number: int) -> None:
        if number in self._answering:
            self._answering[number].cancel()

    async def _answer(self, number: int, name: str, arguments: tuple[Any, ...]) -> None:
        try:
            self.tell(_ANSWER, number, await self._answerers[name](*arguments))
        except Refusal as refusal:
            self.tell(_REFUSAL, number, *pack_refusal(refusal))
        except Exception as error:
            logger.opt(exception=error).error("question {} failed", name)
            self.tell(_FAILURE, number)

    # Answers of the other end.

    def _on_answer(self, number: int, value: Any) -> None:
        answer = self._questions.get(number)
        if answer is not None and not answer.done():
            answer.set_result(value)

    def _on_refusal(self, number: int, *packed: Any) -> None:
        self._fail(number, unpack_refusal(*packed))

    def _on_failure(self, number: int) -> None:
        self._fail(number, RuntimeError("the other process failed to answer"))

    def _fail(self, number: int, error: Exception) -> None:
        answer = self._questions.get(number)
        if answer is not None and not answer.done():
            answer.set_exception(error)
