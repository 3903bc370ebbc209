"""The handler for `/v1/*`: accept, identify, admit, forward, pipe, settle.

The steps are the methods of `Proxy`, in that order. Only this module knows the order. A refusal in
any of them becomes a response here.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field, replace
from secrets import token_bytes
from typing import TYPE_CHECKING

from aiohttp import hdrs, web
from loguru import logger

from rustygate.access.client_auth import ClientAuth, check_model
from rustygate.access.identity import client_name, priority_class, sdk_timeout_s
from rustygate.admission.interface import AnyAdmission, AnyGate, AnySpending
from rustygate.config import Settings
from rustygate.core.bucket import SECOND
from rustygate.core.clients import Client
from rustygate.core.forms import is_form
from rustygate.core.headers import Credentials, HeaderLines, header_lines
from rustygate.core.lane_key import READ_METHODS, endpoint_key
from rustygate.core.log_levels import is_debug, is_trace
from rustygate.core.output_history import OutputHistory
from rustygate.core.paths import path_of
from rustygate.core.rate_limit_headers import read_rate_limits
from rustygate.core.request_facts import (
    NO_FACTS,
    RequestFacts,
    facts_in_query,
    is_work,
    model_in_query,
    read_compressed_facts,
    read_facts_in_start,
    read_form_facts,
    read_request_facts,
)
from rustygate.core.websocket_handshake import NONCE_BYTES, SWITCHING_PROTOCOLS, WebSocketHandshake
from rustygate.downstream.cors import Cors
from rustygate.downstream.request_body import BodyBufferBudget, RequestBody
from rustygate.downstream.request_head import (
    check_loop,
    check_target,
    read_handshake,
    upstream_headers,
)
from rustygate.errors import (
    Draining,
    InternalError,
    InvalidApiKey,
    QueueTimeout,
    Refusal,
    RequestTooLarge,
    UpstreamFailure,
)
from rustygate.exchange import MS, Exchange
from rustygate.relay.abort import abort, flush_and_abort
from rustygate.relay.pipe import pipe, refuse_in_stream
from rustygate.relay.queue_keepalive import QueueKeepalive
from rustygate.relay.source import read_ahead
from rustygate.relay.stream import Downstream
from rustygate.relay.websocket import relay_websocket
from rustygate.relay.websocket_turns import TurnServices, names_models_in_turns
from rustygate.retry import JUDGED_STATUSES, FailedAttempt, RetryPolicy
from rustygate.running import RunningExchanges
from rustygate.telemetry.ledger import Ledger
from rustygate.upstream.client import UpstreamClient
from rustygate.upstream.response import FIRST_ERROR_STATUS, UpstreamResponse

if TYPE_CHECKING:
    from rustygate.telemetry.tracing.spans import Tracing


@dataclass(slots=True)
class UpstreamRequest:
    """The request that goes upstream for an exchange, the same in each attempt."""

    exchange: Exchange
    target: str = field(repr=False)
    headers: HeaderLines = field(repr=False)
    body: RequestBody
    client: Client | None = None


class Proxy:
    """Forwards requests under `/v1/` to upstream, one exchange each.

    Attributes:
        running: the exchanges that have not ended, waiters included.
    """

    def __init__(
        self,
        settings: Settings,
        gate: AnyGate,
        upstream: UpstreamClient,
        ledger: Ledger,
        auth: ClientAuth,
        spending: AnySpending,
        body_budget: BodyBufferBudget,
        tracing: "Tracing | None" = None,
    ) -> None:
        self._settings = settings
        self._without_queue_keepalive = replace(settings, queue_keepalive_after=None)
        self._logs_steps = is_debug(settings.rust_log)
        self._traces_steps = is_trace(settings.rust_log)
        self._gate = gate
        self._upstream = upstream
        self._own_connections = upstream.own_connections
        self._lockstep = upstream.lockstep
        self._ledger = ledger
        self._auth = auth
        self._spending = spending
        self._tracing = tracing
        self._retries = RetryPolicy(settings, gate, ledger.count_upstream_429)
        self._history = OutputHistory()
        self._body_budget = body_budget
        self._turn_services = TurnServices(
            settings, gate, ledger, auth, spending, self._history, body_budget, tracing
        )
        self.running = RunningExchanges()
        self._credentials = Credentials.for_account(
            settings.openai_api_key, settings.openai_org_id, settings.openai_project_id
        )
        self.cors = Cors(settings)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Run one exchange, from the arrival of its head to its settlement."""
        exchange = self._start_exchange(request)
        self.running.begin()
        try:
            response = await self._run(request, exchange)
            exchange.outcome = exchange.outcome or _outcome(exchange)
            return response
        except Refusal as refusal:
            return _refuse(exchange, refusal)
        except asyncio.CancelledError:
            _cancel(request, exchange)
            raise
        except ConnectionError:
            exchange.outcome = exchange.outcome or "client_left"
            raise
        except Exception as error:
            return await _fail(request, exchange, error)
        finally:
            self.running.end()
            self._ledger.settle(exchange)

    def snapshot(self) -> dict[str, int]:
        """The live numbers of the gate, and the bytes of buffered request bodies."""
        return self._gate.snapshot() | {"held_bytes": self._body_budget.held}

    def _start_exchange(self, request: web.Request) -> Exchange:
        client = client_name(request, trust_header=not self._auth.requires_keys)
        exchange = Exchange(client, request.method, path_of(request.raw_path))
        wait_s = self._settings.rate_limit_timeout
        exchange.read_timeout_s = self._settings.upstream_read_timeout
        timeout_s = sdk_timeout_s(request)
        if timeout_s is not None:
            wait_s = min(wait_s, timeout_s)
            exchange.read_timeout_s = max(exchange.read_timeout_s, timeout_s)
        exchange.deadline = exchange.arrived + int(wait_s * SECOND)
        if self._tracing is not None:
            self._tracing.start_exchange(exchange, request.headers)
        return exchange

    async def _run(self, request: web.Request, exchange: Exchange) -> web.StreamResponse:
        """Run the steps; `handle` settles the exchange."""
        # Accept.
        check_loop(request, self._own_connections)
        preflight = self.cors.check(request)
        if preflight is not None:
            exchange.status = preflight.status
            preflight.headers.extend(exchange.headers())
            return preflight
        target = check_target(request)
        # Identify, first the client, then, from the body, the model.
        client, handshake = self._identify(request, exchange)
        has_budgets = self._spending.has_budgets(exchange.client)
        if has_budgets:
            await self._spending.show_left(exchange)
        if self._gate.closed:
            raise Draining
        body = RequestBody(request, self._settings, self._body_budget)
        try:
            must_show_model = client is not None and bool(client.models)
            await body.read(must_show_model=must_show_model)
            facts = self._estimate(exchange, target, body, handshake)
            if must_show_model:
                check_model(client, exchange, facts, body.decoded())
            if has_budgets and is_work(exchange.method, exchange.path):
                await self._spending.reserve(exchange)
            headers = self._headers(request, facts, handshake)
            upstream_request = UpstreamRequest(exchange, target, headers, body, client)
            # Admit, forward and pipe.
            async with self._queue_keepalive(request, exchange, facts) as keepalive:
                keepalive.start()
                try:
                    return await self._admit(upstream_request, keepalive)
                except Refusal as refusal:
                    downstream = await keepalive.stop()
                    if downstream.started is None:
                        raise
                    return await refuse_in_stream(downstream, refusal)
                except asyncio.CancelledError:
                    await _end_early_response(await keepalive.stop())
                    raise
        finally:
            body.close()

    # Identify: the client, the model and the cost.

    def _identify(
        self, request: web.Request, exchange: Exchange
    ) -> tuple[Client | None, WebSocketHandshake | None]:
        """Stamp the client and its priority class."""
        exchange.priority = priority_class(request)
        handshake = read_handshake(request)
        subprotocol_key = None if handshake is None else handshake.api_key
        return self._auth.authenticate(request, exchange, subprotocol_key), handshake

    def _estimate(
        self,
        exchange: Exchange,
        target: str,
        body: RequestBody,
        handshake: WebSocketHandshake | None,
    ) -> RequestFacts:
        """Stamp the model and the estimated cost."""
        facts = _read_facts(exchange, target, body, handshake)
        exchange.model = facts.model
        # A read never waits for a model's limits.
        if facts.model is None or (handshake is None and exchange.method in READ_METHODS):
            exchange.lane = endpoint_key(exchange.method, exchange.path)
        exchange.tokens = exchange.min_tokens = facts.cost(0)
        exchange.input_tokens = exchange.min_tokens - (facts.output_cap or 0)
        if facts.output_cap is None:
            exchange.tokens += self._history.estimate(exchange.client, facts.model)
        self._log_step(exchange, "cost estimated", tokens=exchange.tokens)
        return facts

    def _headers(
        self, request: web.Request, facts: RequestFacts, handshake: WebSocketHandshake | None
    ) -> HeaderLines:
        headers = upstream_headers(request, self._credentials, facts.streaming)
        if handshake is not None:
            nonce = token_bytes(NONCE_BYTES)
            headers += header_lines(handshake.upstream_headers(nonce, self._credentials.key))
        return headers

    def _queue_keepalive(
        self, request: web.Request, exchange: Exchange, facts: RequestFacts
    ) -> QueueKeepalive:
        # The response to a HEAD has no body, even if the request asks for a stream.
        streaming = facts.streaming and request.method != hdrs.METH_HEAD
        settings = self._settings if streaming else self._without_queue_keepalive
        return QueueKeepalive(request, exchange, settings, self._lockstep)

    # Admit: wait for a turn, for each attempt.

    async def _admit(
        self, request: UpstreamRequest, keepalive: QueueKeepalive
    ) -> web.StreamResponse:
        exchange, body = request.exchange, request.body
        forward = self._forward if self._tracing is None else self._traced_forward
        failed: FailedAttempt | None = None
        while True:
            try:
                async with self._gate.admission(exchange, body.before_wait) as admission:
                    body.after_wait()
                    try:
                        if exchange.queued or failed is not None:
                            self._auth.current(request.client)
                    except InvalidApiKey:
                        admission.give_back()
                        raise
                    self._log_step(exchange, "admitted", queued_ms=exchange.queued // MS)
                    if failed is not None:
                        self._ledger.count_retry(failed.reason)
                    result = await forward(request, admission, keepalive)
            except (QueueTimeout, RequestTooLarge):
                if failed is None:
                    raise
                return await _pass_on_failed(failed, keepalive)
            if isinstance(result, web.StreamResponse):
                return result
            failed = result
            self._log_step(exchange, "retrying", reason=failed.reason)
            await asyncio.sleep(failed.pause_s)

    # Forward: one attempt to get a response from upstream.

    async def _traced_forward(
        self, request: UpstreamRequest, admission: AnyAdmission, keepalive: QueueKeepalive
    ) -> web.StreamResponse | FailedAttempt:
        assert self._tracing is not None
        with self._tracing.attempt(request.exchange) as span:
            traced = replace(request, headers=span.inject(request.headers))
            result = await self._forward(traced, admission, keepalive)
            if isinstance(result, FailedAttempt) and result.failure is not None:
                span.fail(result.failure.reason)
        return result

    async def _forward(
        self, request: UpstreamRequest, admission: AnyAdmission, keepalive: QueueKeepalive
    ) -> web.StreamResponse | FailedAttempt:
        exchange, body = request.exchange, request.body
        exchange.connected = False
        try:
            if self._lockstep.has_others:
                await self._lockstep.wait_for_others()
            self._ledger.before_sending()
            response = await self._upstream.send(exchange, request.target, request.headers, body)
        except UpstreamFailure as failure:
            if not failure.sent:
                admission.give_back()
            pause_s = self._retries.pause_after(failure, exchange, body)
            if pause_s is None:
                raise
            return FailedAttempt(failure=failure, pause_s=pause_s)
        except asyncio.CancelledError:
            if not exchange.connected:
                admission.give_back()
            raise
        body.stop()
        try:
            return await self._pipe(request, admission, response, keepalive)
        finally:
            response.close()

    # Pipe: pass the response on, unless another attempt may do better.

    async def _pipe(
        self,
        request: UpstreamRequest,
        admission: AnyAdmission,
        response: UpstreamResponse,
        keepalive: QueueKeepalive,
    ) -> web.StreamResponse | FailedAttempt:
        exchange = request.exchange
        self._log_step(
            exchange, "upstream responded", status=response.status, attempt=exchange.attempts
        )
        update, refused = read_rate_limits(response.headers), response.status == 429
        admission.record_response(response.ok, update, refused=refused)
        if response.status == SWITCHING_PROTOCOLS:
            return await self._bridge(request, admission, response, keepalive)
        body_start: bytes | None = None
        if response.status in JUDGED_STATUSES:
            body_start = await read_ahead(response, self._settings)
            failed = self._retries.judge_response(
                exchange, request.body, admission, response, body_start
            )
            if failed is not None:
                admission.settle(0)
                return failed
        if response.request_is_sent:
            # The response may take long.
            request.body.close()
        try:
            return await _pass_on(response, body_start, keepalive)
        finally:
            self._settle(exchange, admission, response.ok)

    async def _bridge(
        self,
        request: UpstreamRequest,
        admission: AnyAdmission,
        response: UpstreamResponse,
        keepalive: QueueKeepalive,
    ) -> web.StreamResponse:
        """Relay a WebSocket. It costs no request and holds no slot: each turn in it is admitted
        on its own."""
        exchange = request.exchange
        admission.waive()
        admission.release()
        downstream = await keepalive.stop()
        try:
            return await relay_websocket(
                downstream.request, response, exchange, request.client, self._turn_services
            )
        finally:
            self._settle(exchange, admission, response.ok)

    # Settle: replace the estimated cost by the actual one.

    def _settle(self, exchange: Exchange, admission: AnyAdmission, ok: bool) -> None:
        """Settle the tokens that were counted; if none were, the estimate stands, unless the
        response is an error or no model was at work."""
        if exchange.error_event is not None:
            self._retries.judge_event(admission, exchange.error_event)
        if exchange.tokens_out is not None:
            admission.settle((exchange.tokens_in or 0) + exchange.tokens_out)
            # The tokens of a WebSocket are those of its transcriptions.
            if exchange.status != SWITCHING_PROTOCOLS and not _is_partial(exchange):
                self._history.record(exchange.client, exchange.model, exchange.tokens_out)
        elif (
            not ok
            or exchange.error_event is not None
            or not is_work(exchange.method, exchange.path)
        ):
            admission.settle(0)

    def _log_step(self, exchange: Exchange, step: str, **fields: object) -> None:
        """Log a step as it happens at `trace`; at `debug` the ledger logs all of them together."""
        if self._traces_steps:
            logger.trace(step, id=exchange.id, **fields)
        elif self._logs_steps:
            exchange.record_step(step, fields)


def _read_facts(
    exchange: Exchange, target: str, body: RequestBody, handshake: WebSocketHandshake | None
) -> RequestFacts:
    """What a request shows of its model, its cost, and whether it streams."""
    if handshake is not None:
        model = model_in_query(target)
        is_shown = model is not None or names_models_in_turns(target)
        return RequestFacts(model, readable=is_shown)
    if not body.is_held:
        start = body.take_start()
        return read_facts_in_start(start, exchange.path, body.content_type, body.codings)
    held = body.held
    if held and body.codings:
        return read_compressed_facts(
            bytes(held), exchange.path, body.content_type, body.codings, body.decoded_limit
        )
    if held and is_form(body.content_type):
        return read_form_facts(bytes(held), exchange.path, body.content_type)
    if held:
        return read_request_facts(held, exchange.path)
    if "?" in target and exchange.method == hdrs.METH_GET:
        return facts_in_query(target)
    return NO_FACTS


async def _pass_on(
    response: UpstreamResponse, body_start: bytes | None, keepalive: QueueKeepalive
) -> web.StreamResponse:
    downstream = await keepalive.stop()
    return await pipe(downstream, response, body_start)


async def _pass_on_failed(failed: FailedAttempt, keepalive: QueueKeepalive) -> web.StreamResponse:
    """Pass on the result of the last attempt, since another cannot be admitted in time."""
    if failed.response is None:
        assert failed.failure is not None
        raise failed.failure
    return await _pass_on(failed.response, failed.body_start, keepalive)


def _outcome(exchange: Exchange) -> str:
    """The outcome of an exchange whose response was sent whole."""
    return "upstream_error" if (exchange.status or 0) >= FIRST_ERROR_STATUS else "ok"


def _is_partial(exchange: Exchange) -> bool:
    """Whether the tokens are an estimate of a response that did not pass as a whole."""
    return exchange.tokens_estimated and exchange.outcome not in (None, "ok")


async def _end_early_response(downstream: Downstream) -> None:
    """Write an error event into a stream of keepalives for which DRAIN_TIMEOUT is over."""
    request, exchange = downstream.request, downstream.exchange
    # Once upstream's response passes, its stream has been ended already.
    if downstream.started is None or exchange.outcome is not None or request.transport is None:
        return
    with suppress(ConnectionError):
        await refuse_in_stream(downstream, Draining())
    exchange.outcome, exchange.reason = "aborted", Draining.reason


def _refuse(exchange: Exchange, refusal: Refusal) -> web.Response:
    exchange.status = refusal.status
    exchange.outcome, exchange.reason = refusal.outcome, refusal.reason
    return refusal.response(exchange.headers())


def _cancel(request: web.Request, exchange: Exchange) -> None:
    """The exchange was cancelled: its client disconnected, or DRAIN_TIMEOUT is over."""
    transport = request.transport
    if transport is None:
        exchange.outcome = exchange.outcome or "client_left"
        return
    if exchange.outcome is None:
        exchange.outcome, exchange.reason = "aborted", Draining.reason
    abort(request, transport)


async def _fail(request: web.Request, exchange: Exchange, error: Exception) -> web.Response:
    """Log a defect of the gate: the traceback, without the values that caused it."""
    logger.opt(exception=error).error("exchange {} failed", exchange.id)
    refusal = InternalError(exchange.id)
    if not request.writer.output_size:
        return _refuse(exchange, refusal)
    exchange.outcome, exchange.reason = refusal.outcome, refusal.reason
    await flush_and_abort(request)
    raise ConnectionResetError
