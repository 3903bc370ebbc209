"""The one handler for `/v1/*`: accept, identify, admit, forward, pipe, settle.

An exchange travels from step to step, each in its own room; this is the only place that knows
their order, and the only one where a refusal becomes a response.
"""

import asyncio
from dataclasses import dataclass, field, replace
from math import inf
from secrets import token_bytes
from time import time_ns
from typing import TYPE_CHECKING, Any

from aiohttp import HttpVersion11, hdrs, web
from loguru import logger
from multidict import istr

from rustygate.access.client_auth import ClientAuth, check_model
from rustygate.admission.admission import Admission
from rustygate.admission.gate import Gate
from rustygate.config import Settings
from rustygate.core.bucket import SECOND
from rustygate.core.headers import Credentials, Headers, UnreadableHeader, request_headers
from rustygate.core.log_levels import is_debug
from rustygate.core.output_history import OutputHistory
from rustygate.core.paths import PREFIX, has_dot_segment, is_unsafe, origin_form, path_of
from rustygate.core.priority_class import CLASS_WEIGHTS
from rustygate.core.rate_limit_headers import read_rate_limits
from rustygate.core.request_facts import NO_FACTS, RequestFacts, model_in_query, read_request_facts
from rustygate.core.verdict import Action, Verdict, judge
from rustygate.core.websocket_handshake import (
    NONCE_BYTES,
    SWITCHING_PROTOCOLS,
    WebSocketHandshake,
    is_websocket_upgrade,
)
from rustygate.downstream.cors import Cors
from rustygate.downstream.request_body import BodyBufferBudget, RequestBody
from rustygate.errors import (
    BadRequest,
    Draining,
    InternalError,
    MalformedHandshake,
    MethodNotAllowed,
    NotFound,
    QueueTimeout,
    Refusal,
    RequestTooLarge,
    UpstreamFailure,
)
from rustygate.exchange import MS, Exchange
from rustygate.relay.pipe import abort, cut, read_ahead
from rustygate.relay.queue_keepalive import QueueKeepalive
from rustygate.telemetry.ledger import Ledger
from rustygate.upstream.client import Upstream
from rustygate.upstream.pool import UpstreamResponse

if TYPE_CHECKING:
    from rustygate.telemetry.tracing.spans import Tracing

# A retry right after a failed connection meets the same failure; each waits twice as long.
RETRY_PAUSE_S = 0.1

CLIENT_HEADER = istr("X-RustyGate-Client")
PRIORITY_HEADER = istr("X-RustyGate-Priority")

# The official SDKs': seconds between bytes in Python, for the whole in Node.
TIMEOUT_HEADERS = (istr("x-stainless-read-timeout"), istr("x-stainless-timeout"))

# A client's name is a label in logs; a longer one is cut.
CLIENT_NAME_LIMIT = 64

# Answers whose body says what they mean (core.verdict).
TELLING_STATUSES = frozenset({429, 503})

# How much of a path or a value an error repeats.
SHOWN = 200


@dataclass(slots=True)
class UpstreamRequest:
    """What is sent upstream for an exchange, once or more; not changed."""

    exchange: Exchange
    target: str = field(repr=False)
    headers: Headers = field(repr=False)
    body: RequestBody


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """What an attempt came to after which there may be another: a failure, or an answer whose
    body was read. The next one asks for admission `pause_s` later."""

    failure: UpstreamFailure | None = None
    answer: UpstreamResponse | None = None
    read: bytes | None = field(default=None, repr=False)
    pause_s: float = 0.0

    @property
    def reason(self) -> str:
        """What it was, in a word."""
        if self.failure is not None:
            return self.failure.reason
        return f"upstream_{self.answer.status}" if self.answer is not None else "none"


class Proxy:
    """Passes requests under `/v1/` to upstream, one exchange each."""

    def __init__(
        self,
        settings: Settings,
        gate: Gate,
        upstream: Upstream,
        ledger: Ledger,
        access: ClientAuth,
        tracing: "Tracing | None" = None,
    ) -> None:
        self._settings = settings
        self._tells_steps = is_debug(settings.rust_log)
        self._without_vigil = replace(settings, queue_keepalive_after=None)
        self._gate = gate
        self._upstream = upstream
        self._ledger = ledger
        self._access = access
        self._tracing = tracing
        self._history = OutputHistory()
        self._holdings = BodyBufferBudget(settings.queue_bytes)
        self.browsers = Cors(settings)
        self._running: set[asyncio.Task[Any]] = set()
        self._credentials = Credentials.for_account(
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
        client = _client(request, named=not self._access.requires_keys)
        exchange = Exchange(client, request.method, path_of(request.raw_path))
        patience_s = _patience_s(request, self._settings.rate_limit_timeout)
        exchange.deadline = exchange.arrived + int(patience_s * SECOND)
        if self._tracing is not None:
            self._tracing.begin(exchange, request.headers)
        return exchange

    async def _pass(self, request: web.Request, exchange: Exchange) -> web.StreamResponse:
        preflight = self.browsers.receive(request)
        if preflight is not None:
            exchange.status = preflight.status
            return preflight
        target = _accept(request)
        exchange.priority = _priority(request)
        opening = _opening(request)
        client = self._access.admit(
            request, exchange, None if opening is None else opening.api_key
        )
        if self._gate.closed:
            raise Draining
        body = RequestBody(request, self._settings, self._holdings)
        try:
            await body.read()
            facts = read_request_facts(body.held, exchange.path) if body.held else NO_FACTS
            if opening is not None:
                facts = RequestFacts(model_in_query(target))
            self._reckon(exchange, facts)
            seen = body.held is not None and opening is None
            check_model(client, exchange, facts if seen else None)
            headers = _headers(request, self._credentials, facts.streaming)
            if opening is not None:
                headers += opening.upstream_headers(
                    token_bytes(NONCE_BYTES), self._credentials.key
                )
            sending = UpstreamRequest(exchange, target, headers, body)
            # Even a stream has no body if it answers a HEAD.
            streams = facts.streaming and request.method != hdrs.METH_HEAD
            settings = self._settings if streams else self._without_vigil
            async with QueueKeepalive(request, exchange, settings) as vigil:
                return await self._deliver(sending, vigil)
        finally:
            body.close()

    async def _deliver(
        self, sending: UpstreamRequest, vigil: QueueKeepalive
    ) -> web.StreamResponse:
        try:
            return await self._forward(sending, vigil)
        except Refusal as refusal:
            told = await vigil.refuse(refusal)
            if told is None:
                raise
            sending.exchange.outcome = refusal.outcome
            sending.exchange.reason = refusal.reason
            return told

    def _reckon(self, exchange: Exchange, facts: RequestFacts) -> None:
        """Stamp what the request will cost, as far as that can be told before it is answered."""
        exchange.model = facts.model
        exchange.min_tokens = facts.cost(0)
        exchange.tokens = facts.cost(self._history.estimate(exchange.client, facts.model))
        self._step(exchange, "asks", model=exchange.model, tokens=exchange.tokens)

    def _step(self, exchange: Exchange, step: str, **fields: object) -> None:
        """A line for a step of an exchange, at `debug`."""
        if self._tells_steps:
            logger.debug(step, id=exchange.id, **fields)

    async def _forward(
        self, sending: UpstreamRequest, vigil: QueueKeepalive
    ) -> web.StreamResponse:
        """Admit and send, again as long as that may help; then pipe."""
        setback: FailedAttempt | None = None
        attempt = self._attempt if self._tracing is None else self._traced_attempt
        while True:
            try:
                vigil.queues()
                async with self._gate.admission(sending.exchange) as admission:
                    self._step(
                        sending.exchange, "admitted", queued_ms=sending.exchange.queued // MS
                    )
                    if setback is not None:
                        self._ledger.retried(setback.reason)
                    outcome = await attempt(sending, admission, vigil)
            except (QueueTimeout, RequestTooLarge):
                if setback is None:
                    raise
                return await _resign(setback, vigil)
            if isinstance(outcome, web.StreamResponse):
                return outcome
            setback = outcome
            self._step(sending.exchange, "to be tried again", reason=setback.reason)
            await asyncio.sleep(setback.pause_s)

    async def _traced_attempt(
        self, sending: UpstreamRequest, admission: Admission, vigil: QueueKeepalive
    ) -> web.StreamResponse | FailedAttempt:
        assert self._tracing is not None
        with self._tracing.attempt(sending.exchange) as span:
            carried = replace(sending, headers=span.carried(sending.headers))
            outcome = await self._attempt(carried, admission, vigil)
            if isinstance(outcome, FailedAttempt) and outcome.failure is not None:
                span.fail(outcome.failure.reason)
        return outcome

    async def _attempt(
        self, sending: UpstreamRequest, admission: Admission, vigil: QueueKeepalive
    ) -> web.StreamResponse | FailedAttempt:
        sending.exchange.connected = False
        try:
            await vigil.admitted()
            answer = await self._upstream.send(
                sending.exchange, sending.target, sending.headers, sending.body
            )
        except UpstreamFailure as failure:
            if not failure.sent:
                admission.give_back()
            pause_s = RETRY_PAUSE_S * 2 ** (sending.exchange.attempts - 1)
            if not (failure.retryable and self._may_retry(sending, int(pause_s * SECOND))):
                raise
            return FailedAttempt(failure=failure, pause_s=pause_s)
        except asyncio.CancelledError:
            if not sending.exchange.connected:
                admission.give_back()
            raise
        sending.body.stop()
        try:
            return await self._heed(sending, admission, answer, vigil)
        finally:
            answer.close()

    async def _heed(
        self,
        sending: UpstreamRequest,
        admission: Admission,
        answer: UpstreamResponse,
        vigil: QueueKeepalive,
    ) -> web.StreamResponse | FailedAttempt:
        """Learn from an answer's head; pass it on, unless another attempt may do better."""
        exchange = sending.exchange
        self._step(exchange, "answered", status=answer.status, attempt=exchange.attempts)
        admission.record_response(answer.ok, read_rate_limits(answer.headers))
        read: bytes | None = None
        if answer.status in TELLING_STATUSES:
            read = await read_ahead(answer, self._settings)
            wait = self._pause(admission, judge(answer.status, answer.headers, read, time_ns()))
            if wait is not None and self._may_retry(sending, wait):
                admission.settle(0)
                return FailedAttempt(answer=answer, read=read)
        try:
            return await vigil.deliver(answer, read)
        finally:
            self._settle(exchange, admission, answer.ok)

    def _pause(self, admission: Admission, verdict: Verdict) -> int | None:
        """Pause the lane as an answer asks for; nanoseconds, None if it does not."""
        if verdict.action is Action.PASS:
            return None
        admission.pause(verdict.wait_ns, slow=verdict.action is Action.SLOW)
        return verdict.wait_ns

    def _settle(self, exchange: Exchange, admission: Admission, ok: bool) -> None:
        """Replace the estimated tokens by those the answer took, if it told."""
        if exchange.tokens_out is not None:
            admission.settle((exchange.tokens_in or 0) + exchange.tokens_out)
            # What a WebSocket took, many answers took.
            if exchange.status != SWITCHING_PROTOCOLS:
                self._history.record(exchange.client, exchange.model, exchange.tokens_out)
        elif not ok:
            admission.settle(0)

    def _may_retry(self, sending: UpstreamRequest, wait: int) -> bool:
        """Whether the same request may be sent again, and in time."""
        exchange = sending.exchange
        if sending.body.held is None or exchange.attempts > self._settings.upstream_retries:
            return False
        return self._gate.now() + wait <= exchange.deadline


async def _resign(setback: FailedAttempt, vigil: QueueKeepalive) -> web.StreamResponse:
    """No further attempt is admitted in time: pass on what the last one came to."""
    if setback.answer is None:
        assert setback.failure is not None
        raise setback.failure
    return await vigil.deliver(setback.answer, setback.read)


def _client(request: web.Request, *, named: bool) -> str:
    """Who sends: the name it gives itself, if that counts, else its address."""
    name = request.headers.get(CLIENT_HEADER, "").strip() if named else ""
    name = name or request.remote or "local"
    return name[:CLIENT_NAME_LIMIT].encode(errors="replace").decode()


def _patience_s(request: web.Request, limit_s: float) -> float:
    """For how long it may wait: no longer than the client's SDK will, as it tells in either of
    two headers."""
    for name in TIMEOUT_HEADERS:
        told = request.headers.get(name)
        if told is not None:
            limit_s = min(limit_s, _seconds(told))
    return limit_s


def _seconds(text: str) -> float:
    """A number of seconds above 0; infinity if it is none."""
    if not text.isascii():
        return inf
    try:
        seconds = float(text)
    except ValueError:
        return inf
    return seconds if seconds > 0 else inf


def _priority(request: web.Request) -> str:
    """The priority class the request asks for."""
    priority = request.headers.get(PRIORITY_HEADER)
    if priority is None:
        return "default"
    if priority not in CLASS_WEIGHTS:
        known = ", ".join(CLASS_WEIGHTS)
        raise BadRequest(f"{PRIORITY_HEADER} is none of {known}: {priority[:SHOWN]!a}.")
    return priority


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
        raise NotFound(f"Nothing is served at {path[:SHOWN]}; the API is under {PREFIX}.")
    return target


def _opening(request: web.Request) -> WebSocketHandshake | None:
    """The opening of a WebSocket; other upgrades are forwarded as the requests they are."""
    fields = request.headers.items()
    if (
        request.method != "GET"
        or request.version < HttpVersion11
        or not is_websocket_upgrade(fields)
    ):
        return None
    if request.body_exists:
        raise MalformedHandshake("A request that opens a WebSocket has no body.")
    try:
        return WebSocketHandshake.from_headers(fields)
    except ValueError as error:
        raise MalformedHandshake(str(error)) from error


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
        exchange.outcome = exchange.outcome or "client_left"
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
