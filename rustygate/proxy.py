"""The one handler for `/v1/*`: accept, identify, admit, forward, pipe, settle.

An exchange travels from step to step, each in its own room; this is the only place that knows
their order, and the only one where a refusal becomes a response.
"""

import asyncio
from typing import Any

from aiohttp import web
from loguru import logger
from multidict import istr

from rustygate.admission import Gate
from rustygate.body import Body, Holdings
from rustygate.browsers import Browsers
from rustygate.config import Settings
from rustygate.core.bucket import SECOND
from rustygate.core.headers import Credentials, Headers, UnreadableHeader, request_headers
from rustygate.core.paths import PREFIX, has_dot_segment, is_unsafe, origin_form, path_of
from rustygate.core.usage import NO_FACTS, request_facts
from rustygate.errors import (
    BadRequest,
    Draining,
    InternalError,
    MethodNotAllowed,
    NotFound,
    QueueTimeout,
    Refusal,
    UpstreamFailure,
)
from rustygate.exchange import Exchange
from rustygate.ledger import Ledger
from rustygate.pipe import abort, cut, pipe
from rustygate.upstream import Upstream

# A retry right after a failed connection meets the same failure; each waits twice as long.
RETRY_PAUSE_S = 0.1

CLIENT_HEADER = istr("X-RustyGate-Client")

# A client's name is a label in logs; a longer one is cut.
CLIENT_NAME_LIMIT = 64

# How much of a path an error repeats.
PATH_SHOWN = 200


class Proxy:
    """Passes requests under `/v1/` to upstream, one exchange each."""

    def __init__(self, settings: Settings, gate: Gate, upstream: Upstream, ledger: Ledger) -> None:
        self._settings = settings
        self._gate = gate
        self._upstream = upstream
        self._ledger = ledger
        self._holdings = Holdings(settings.queue_bytes)
        self.browsers = Browsers(settings)
        self._running: set[asyncio.Task[Any]] = set()
        self._credentials = Credentials.of(
            settings.openai_api_key, settings.openai_org_id, settings.openai_project_id
        )

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One exchange, from its head to its settlement."""
        exchange = self._identify(request)
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            response = await self._pass(request, exchange)
            exchange.outcome = exchange.outcome or "ok"
            return response
        except Refusal as refusal:
            return _refuse(exchange, refusal)
        except asyncio.CancelledError:
            _abandon(request, exchange)
            raise
        except ConnectionError:
            exchange.outcome = "client_left"
            raise
        except Exception as error:
            return await _fail(request, exchange, error)
        finally:
            self._running.discard(task)
            self._ledger.settle(exchange)

    async def finish(self, timeout_s: float) -> None:
        """Wait for the exchanges in hand to end; abort those that do not in time."""
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=timeout_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def snapshot(self) -> dict[str, int]:
        """The live numbers of the gate and of what is held for it."""
        return self._gate.snapshot() | {"held_bytes": self._holdings.held}

    # The steps.

    def _identify(self, request: web.Request) -> Exchange:
        exchange = Exchange(_client(request), request.method, path_of(request.raw_path))
        exchange.deadline = exchange.arrived + int(self._settings.rate_limit_timeout * SECOND)
        return exchange

    async def _pass(self, request: web.Request, exchange: Exchange) -> web.StreamResponse:
        preflight = self.browsers.receive(request)
        if preflight is not None:
            exchange.status = preflight.status
            return preflight
        target = _accept(request)
        if self._gate.closed:
            raise Draining
        body = Body(request, self._settings, self._holdings)
        try:
            await body.read()
            facts = request_facts(body.held) if body.held else NO_FACTS
            exchange.model = facts.model
            headers = _headers(request, self._credentials, facts.streaming)
            return await self._forward(request, exchange, target, headers, body)
        finally:
            body.close()

    async def _forward(
        self, request: web.Request, exchange: Exchange, target: str, headers: Headers, body: Body
    ) -> web.StreamResponse:
        """Admit and send, again as long as that may help; then pipe."""
        failure: UpstreamFailure | None = None
        while True:
            try:
                async with self._gate.admission(exchange):
                    return await self._attempt(request, exchange, target, headers, body)
            except QueueTimeout as refusal:
                raise failure or refusal from None
            except UpstreamFailure as error:
                failure = error
            pause_s = self._pause_before_retry(exchange, failure, body)
            if pause_s is None:
                raise failure
            await asyncio.sleep(pause_s)

    async def _attempt(
        self, request: web.Request, exchange: Exchange, target: str, headers: Headers, body: Body
    ) -> web.StreamResponse:
        answer = await self._upstream.send(exchange, target, headers, body)
        body.stop()
        try:
            return await pipe(request, answer, exchange, self._settings)
        finally:
            # At its end an answer lets go of its connection by itself; before, this closes it.
            if not answer.closed:
                answer.close()

    def _pause_before_retry(
        self, exchange: Exchange, failure: UpstreamFailure, body: Body
    ) -> float | None:
        """Seconds to wait before the next attempt; None if there is to be none."""
        if not failure.sent:
            self._gate.give_back()
        if not failure.retryable or body.held is None:
            return None
        if exchange.attempts > self._settings.upstream_retries:
            return None
        pause_s = RETRY_PAUSE_S * 2 ** (exchange.attempts - 1)
        too_late = self._gate.now() + pause_s * SECOND > exchange.deadline
        return None if too_late else pause_s


def _client(request: web.Request) -> str:
    """Who sends: the name it gives itself, else its address."""
    name = request.headers.get(CLIENT_HEADER, "").strip() or request.remote or "local"
    return name[:CLIENT_NAME_LIMIT].encode(errors="replace").decode()


def _accept(request: web.Request) -> str:
    """The target to forward, as sent. Raises a refusal for what is not forwarded."""
    if request.method in {"CONNECT", "TRACE"}:
        raise MethodNotAllowed(f"{request.method} is not forwarded.")
    target = origin_form(request.raw_path)
    path = path_of(target)
    if is_unsafe(target):
        raise BadRequest("The request's target holds characters that no URL may hold.")
    if has_dot_segment(path):
        raise BadRequest("The request's path holds dot segments.")
    if not path.startswith(PREFIX):
        raise NotFound(f"Nothing is served at {path[:PATH_SHOWN]}; the API is under {PREFIX}.")
    return target


def _headers(request: web.Request, credentials: Credentials, streaming: bool) -> Headers:
    try:
        return request_headers(request.raw_headers, credentials, streaming)
    except UnreadableHeader as error:
        raise BadRequest(str(error)) from error


def _refuse(exchange: Exchange, refusal: Refusal) -> web.Response:
    exchange.status = refusal.status
    exchange.outcome, exchange.reason = refusal.outcome, refusal.reason
    return refusal.response(exchange.headers())


def _abandon(request: web.Request, exchange: Exchange) -> None:
    """The exchange was cancelled: its client left, or the gate has no more time for it."""
    transport = request.transport
    if transport is None:
        exchange.outcome = "client_left"
        return
    exchange.outcome, exchange.reason = "aborted", Draining.reason
    abort(request, transport)


async def _fail(request: web.Request, exchange: Exchange, error: Exception) -> web.Response:
    """A defect of the gate: where it happened goes to the log, the values that met it do not."""
    logger.opt(exception=error).error("exchange {} failed", exchange.id)
    refusal = InternalError(exchange.id)
    if not request.writer.output_size:
        return _refuse(exchange, refusal)
    exchange.outcome, exchange.reason = refusal.outcome, refusal.reason
    await cut(request)
    raise ConnectionResetError
