"""The turns of one WebSocket: each is admitted, settled and logged like a request of its own.

A `response.create` from the client asks for admission as soon as it arrives, and waits until the
gate admits it; what the client sends after it waits behind it (`core.websocket_messages`). Turns
are admitted in order (`TurnQueue`). A turn holds its slot until upstream reports its
end. A turn that is refused is dropped; the client gets an error event in its place, and the
WebSocket stays open. Turns that upstream starts on its own cannot wait. They are charged, settled
and logged like the others.
"""

import asyncio
import json
from dataclasses import dataclass
from secrets import token_bytes, token_hex
from time import monotonic_ns, time_ns
from typing import TYPE_CHECKING

from aiohttp import web
from loguru import logger

from rustygate.access.client_auth import ClientAuth, check_model
from rustygate.admission.interface import AnyAdmission, AnyGate, AnySpending
from rustygate.config import Settings
from rustygate.core.bucket import SECOND
from rustygate.core.clients import Client
from rustygate.core.lane_key import endpoint_key
from rustygate.core.output_estimate import StreamEstimate
from rustygate.core.output_history import OutputHistory
from rustygate.core.usage import Usage
from rustygate.core.verdict import PASS, Action, judge, judge_event_fields
from rustygate.core.websocket_conversation import Conversations
from rustygate.core.websocket_events import (
    CREATED,
    ENDS,
    ERROR,
    RATE_LIMITS,
    SESSIONS,
    TurnRequest,
    UpstreamError,
    UpstreamEvent,
    item_tokens,
    read_turn,
    read_upstream_event,
    realtime_error,
    responses_error,
)
from rustygate.core.websocket_frames import MASK_BYTES, TEXT, frame
from rustygate.core.websocket_messages import (
    DELTAS,
    ClientMessage,
    ClientMessages,
    UpstreamMessages,
)
from rustygate.core.websocket_turns import OpenTurn, OpenTurns
from rustygate.downstream.request_body import BodyBufferBudget
from rustygate.errors import InternalError, InvalidApiKey, QueueFull, Refusal, UpstreamTimeout
from rustygate.exchange import Exchange
from rustygate.relay.websocket_side import HELD, ClientSide, UpstreamSide
from rustygate.telemetry.ledger import Ledger

if TYPE_CHECKING:
    from rustygate.telemetry.tracing.spans import Tracing

# The method of a turn in logs; it has none of its own.
TURN_METHOD = "WS"

# The gate reads no more from a client while this much waits behind a turn.
HELD_LIMIT = 1024 * 1024

_RESPONSES_SUFFIX = "/responses"


def names_models_in_turns(target: str) -> bool:
    """Whether each turn in a WebSocket names its model, so that the handshake need not."""
    return target.partition("?")[0].rstrip("/").endswith(_RESPONSES_SUFFIX)


@dataclass(frozen=True, slots=True)
class TurnServices:
    """The parts of the gate that turns need."""

    settings: Settings
    gate: AnyGate
    ledger: Ledger
    auth: ClientAuth
    spending: AnySpending
    history: OutputHistory
    budget: BodyBufferBudget
    tracing: "Tracing | None" = None


class Turn(OpenTurn):
    """One turn: its exchange, and its admission once it has one."""

    __slots__ = (
        "admission", "bytes_before", "estimate", "exchange", "items_before", "request", "timer",
    )  # fmt: skip

    def __init__(self, exchange: Exchange, request: TurnRequest) -> None:
        super().__init__(request.event_id, request.stream_id)
        self.exchange = exchange
        self.request = request
        self.admission: AnyAdmission
        self.bytes_before: int
        self.items_before: int
        self.estimate = StreamEstimate()
        self.timer: asyncio.TimerHandle | None = None

    def stop_timer(self) -> None:
        """Upstream need not begin in time any more."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class WebSocketTurns:
    """The turns of one WebSocket.

    `from_client` and `from_upstream` observe the messages. The two sides are set before any
    arrives.
    """

    client: ClientSide
    upstream: UpstreamSide

    def __init__(
        self,
        services: TurnServices,
        request: web.Request,
        socket: Exchange,
        client: Client | None,
        *,
        keeps_context: bool,
    ) -> None:
        self.from_client = ClientMessages(
            self._on_kept,
            self._on_item,
            lambda: token_bytes(MASK_BYTES),
            keeps_context=keeps_context,
            checks_types=names_models_in_turns(socket.path)
            and client is not None
            and bool(client.models),
        )
        # Events are handled once the bytes in which they came have been written.
        loop = asyncio.get_running_loop()
        self.from_upstream = UpstreamMessages(
            lambda kind, text: loop.call_soon(self._on_event, kind, text)
        )
        self._services = services
        self._request = request
        self._socket = socket
        self._client = client
        self._is_realtime = not names_models_in_turns(socket.path)
        self._count = 0
        self._held_bytes = 0
        self._is_over = self._is_finished = False
        # The turns that wait for admission, by their tasks.
        self._waiting: dict[asyncio.Task[None], Turn] = {}
        self._queue = services.gate.turn_queue()
        self._end_of_waiting: tuple[str, str | None] = ("", None)
        self._open: OpenTurns[Turn] = OpenTurns()
        self._session_cap: int | None = None
        self._conversations = Conversations(realtime=self._is_realtime)

    def __repr__(self) -> str:
        return f"<WebSocketTurns {len(self._waiting)} waiting, {self._open}>"

    # Waiting.

    def _on_kept(self, message: ClientMessage | None) -> None:
        """More of what the client sent is kept; `message` is set if it is complete and waits."""
        if self._is_over:
            self.from_client.clear()
        elif message is not None and message.is_turn:
            self._ask(message)
        self._count_held_bytes()

    def _on_item(self, start: bytes, size: int) -> None:
        """The client adds an item to the conversation."""
        self._conversations.items += item_tokens(start, size)

    def _ask(self, message: ClientMessage) -> None:
        """Let a turn ask for admission."""
        turn = Turn(self._new_exchange(), read_turn(message.text or b""))
        self._estimate(turn)
        task = asyncio.create_task(self._admit(turn, message))
        self._waiting[task] = turn
        task.add_done_callback(self._on_asked)

    def _new_exchange(self) -> Exchange:
        socket = self._socket
        self._count += 1
        exchange = Exchange(socket.client, TURN_METHOD, socket.path)
        exchange.id = f"{socket.id}.{self._count}"
        exchange.priority, exchange.weight = socket.priority, socket.weight
        wait_s = self._services.settings.rate_limit_timeout
        exchange.deadline = exchange.arrived + int(wait_s * SECOND)
        if self._services.tracing is not None:
            self._services.tracing.start_exchange(exchange, self._request.headers)
        return exchange

    def _advance(self) -> None:
        """Pass the messages that no longer wait behind a turn."""
        for data in self.from_client.take_passing():
            self.upstream.insert(data)
        self._count_held_bytes()

    def _count_held_bytes(self) -> None:
        """Count what is kept. If that is too much, read no more, or keep less."""
        self._settle_held_bytes()
        full = self._services.budget.free < 0
        if self.from_client.waiting and (full or self._held_bytes > HELD_LIMIT):
            self.client.pause_reading(HELD)
            return
        self.client.resume_reading(HELD)
        if full:
            self.from_client.drop_current()
            self._settle_held_bytes()

    def _settle_held_bytes(self) -> None:
        held = self.from_client.size
        self._services.budget.held += held - self._held_bytes
        self._held_bytes = held

    # Admission.

    async def _admit(self, turn: Turn, message: ClientMessage) -> None:
        exchange = turn.exchange
        try:
            self._check(turn, message)
            if self._services.spending.has_budgets(exchange.client):
                await self._services.spending.reserve(exchange)
            turn.admission = self._services.gate.turn_admission(exchange, self._queue)
            await turn.admission.enter()
            self._check_client(turn)
        except Refusal as refusal:
            self._refuse(turn, message, refusal)
        except Exception as error:
            logger.opt(exception=error).error("exchange {} failed", exchange.id)
            self._refuse(turn, message, InternalError(exchange.id))
        else:
            self._send(turn, message)
        self._advance()

    def _on_asked(self, task: asyncio.Task[None]) -> None:
        """A turn waits no longer. It has been cancelled if the WebSocket ends."""
        turn = self._waiting.pop(task)
        if task.cancelled():
            turn.exchange.outcome, turn.exchange.reason = self._end_of_waiting
            self._services.ledger.settle(turn.exchange)

    def _check(self, turn: Turn, message: ClientMessage) -> None:
        """Raise a refusal if the client may not have this turn."""
        if not message.frames:
            raise QueueFull(
                "QUEUE_BYTES leaves no room for this event; send a smaller one, or try later.", 0
            )
        exchange = turn.exchange
        client = self._services.auth.current(self._client)
        if client is not None:
            exchange.weight = client.weight
        check_model(client, exchange, turn.request.facts, message.text or b"")

    def _check_client(self, turn: Turn) -> None:
        """Raise `InvalidApiKey` if the client was removed while the turn waited."""
        try:
            self._services.auth.current(self._client)
        except InvalidApiKey:
            turn.admission.give_back()
            turn.admission.leave()
            raise

    def _estimate(self, turn: Turn) -> None:
        """Stamp model and cost."""
        exchange, facts = turn.exchange, turn.request.facts
        exchange.model = facts.model or self._socket.model
        if exchange.model is None:
            exchange.lane = endpoint_key(exchange.method, exchange.path)
        cap = self._session_cap if facts.output_cap is None else facts.output_cap
        known = facts.cost(0)
        if facts.output_cap is None and cap is not None:
            known += cap
        exchange.min_tokens = exchange.tokens = known
        # What was said before may have been deleted, so it is not certain.
        before = self._conversations.tokens_before(turn.request)
        turn.items_before = self._conversations.items
        exchange.tokens += before
        exchange.input_tokens = facts.cost(0) - (facts.output_cap or 0) + before
        if cap is None:
            exchange.tokens += self._services.history.estimate(exchange.client, exchange.model)

    def _send(self, turn: Turn, message: ClientMessage) -> None:
        exchange = turn.exchange
        exchange.attempts = 1
        exchange.connected = True
        exchange.sent = monotonic_ns()
        turn.bytes_before = self.client.bytes_written
        # A WebSocket of the Responses API shows its model only in its turns.
        self._socket.model = self._socket.model or exchange.model
        self._open.add(turn)
        self._start_timer(turn)
        self.from_client.admit(message)

    def _start_timer(self, turn: Turn) -> None:
        """Free the turn's slot if upstream does not begin a response within its read timeout. It
        may have ignored the event, or have reported an error that names no event."""
        limit_s = self._services.settings.upstream_read_timeout
        if limit_s:
            loop = asyncio.get_running_loop()
            turn.timer = loop.call_later(limit_s, self._on_timeout, turn)

    def _on_timeout(self, turn: Turn) -> None:
        turn.exchange.outcome = UpstreamTimeout.outcome
        turn.exchange.reason = UpstreamTimeout.reason
        self._close(turn)

    def _refuse(self, turn: Turn, message: ClientMessage, refusal: Refusal) -> None:
        """Drop a turn, and send the client an error event."""
        exchange = turn.exchange
        self.from_client.drop(message)
        exchange.status, exchange.outcome = refusal.status, refusal.outcome
        exchange.reason = refusal.reason
        self._services.ledger.settle(exchange)
        if self._is_realtime:
            event_id = f"event_{token_hex(12)}"
            event = realtime_error(refusal.error(), event_id, turn.event_id)
        else:
            event = responses_error(
                refusal.error(), refusal.status, refusal.headers(), turn.stream_id
            )
        self.client.insert(frame(TEXT, json.dumps(event).encode()))

    # Progress, as upstream reports it.

    def _on_event(self, kind: bytes, text: bytes) -> None:
        if self._is_finished:
            return
        if kind == DELTAS:
            self._on_deltas(text)
            return
        event = read_upstream_event(text)
        if kind == CREATED:
            self._on_created(event)
        elif kind in ENDS:
            self._end(self._open.ending(event) or self._started_by_upstream(event), event)
        elif kind == ERROR:
            self._on_error(event)
        elif kind == RATE_LIMITS:
            self._on_rate_limits(event)
        elif kind in SESSIONS:
            self._session_cap = event.session.output_cap
            self._socket.model = self._socket.model or event.session.model
        elif event.usage is not None:
            self._count_other(event.usage)

    def _on_created(self, event: UpstreamEvent) -> None:
        turn = self._open.begin(event) or self._started_by_upstream(event)
        turn.stop_timer()
        exchange = turn.exchange
        exchange.responded = exchange.first_byte = monotonic_ns()
        turn.admission.record_response(ok=True)

    def _started_by_upstream(self, event: UpstreamEvent) -> Turn:
        """A turn that upstream has started on its own."""
        turn = Turn(self._new_exchange(), TurnRequest(read_turn(b"{}").facts))
        self._estimate(turn)
        turn.admission = self._services.gate.admission(turn.exchange)
        turn.admission.charge()
        turn.bytes_before = self.client.bytes_written
        turn.exchange.attempts = 1
        turn.exchange.connected = True
        turn.exchange.sent = turn.exchange.arrived
        self._open.add(turn)
        turn.has_begun, turn.response_id = True, event.response_id
        return turn

    def _on_deltas(self, lines: bytes) -> None:
        """Count the text of the response that runs, in case that upstream reports no usage."""
        turn = next((turn for turn in self._open if turn.has_begun), None)
        if turn is not None:
            turn.estimate.feed(lines)

    def _on_error(self, event: UpstreamEvent) -> None:
        if event.error is not None:
            turn = self._open.failing(event, event.error, realtime=self._is_realtime)
            if turn is not None:
                self._end(turn, event)

    def _on_rate_limits(self, event: UpstreamEvent) -> None:
        turn = self._open.latest
        if turn is not None:
            turn.admission.record_response(ok=True, update=event.rate_limits)

    def _count_other(self, usage: Usage) -> None:
        """Count tokens that belong to no turn, such as those of a transcription."""
        socket = self._socket
        socket.tokens_in = (socket.tokens_in or 0) + usage.tokens_in
        socket.tokens_out = (socket.tokens_out or 0) + usage.tokens_out
        socket.tokens_media += usage.tokens_media

    # The end of a turn.

    def _end(self, turn: Turn, event: UpstreamEvent) -> None:
        """Upstream has reported the end of a turn."""
        exchange, error = turn.exchange, event.error
        usage = event.usage
        if usage is not None:
            exchange.record_usage(usage)
            turn.admission.settle(usage.tokens_in + usage.tokens_out)
        elif error is not None:
            turn.admission.settle(0)
        else:
            self._settle_estimate(turn)
        if exchange.tokens_in:
            tokens = exchange.tokens_in + (exchange.tokens_out or 0)
            self._conversations.add(
                turn.request, turn.response_id or event.response_id, turn.items_before, tokens
            )
        if error is None:
            exchange.status, exchange.outcome = 200, "ok"
            if exchange.tokens_out is not None:
                self._services.history.record(exchange.client, exchange.model, exchange.tokens_out)
        else:
            exchange.outcome = "upstream_error"
            exchange.status = error.status or (429 if error.is_rate_limit else None)
            self._judge(turn.admission, error)
        self._close(turn)

    def _settle_estimate(self, turn: Turn) -> None:
        """Settle the tokens in the text that passed, without a usage from upstream."""
        exchange, tokens_out = turn.exchange, turn.estimate.tokens()
        exchange.tokens_in, exchange.tokens_out = exchange.input_tokens, tokens_out
        exchange.tokens_estimated = True
        turn.admission.settle(exchange.input_tokens + tokens_out)

    def _judge(self, admission: AnyAdmission, error: UpstreamError) -> None:
        """Pause the lane if upstream reports a rate limit."""
        event, now = {"error": dict(error.fields)}, time_ns()
        if error.is_rate_limit:
            body = json.dumps(event).encode()
            verdict = judge(error.status or 429, error.headers, body, now)
        else:
            verdict = judge_event_fields(event, now) or PASS
        if verdict.action is not Action.PASS:
            slow = verdict.action is Action.SLOW
            admission.pause(verdict.wait_ns, slow=slow, guessed=verdict.guessed)

    def _close(self, turn: Turn) -> None:
        """Free what a turn holds, and record it."""
        self._open.remove(turn)
        turn.stop_timer()
        turn.exchange.bytes = self.client.bytes_written - turn.bytes_before
        turn.admission.leave()
        self._services.ledger.settle(turn.exchange)

    # The end of the WebSocket.

    def stop(self, outcome: str, reason: str | None = None) -> None:
        """Admit no more turns, and drop those that wait."""
        if self._is_over:
            return
        self._is_over = True
        self._end_of_waiting = outcome, reason
        for task in self._waiting:
            task.cancel()
        self.from_client.clear()
        self._settle_held_bytes()

    async def finish(self, outcome: str, reason: str | None = None) -> None:
        """End the turns in flight, too. Those that have begun are settled with the text that has
        passed; what was reserved for the others stays charged."""
        self.stop(outcome, reason)
        self._on_deltas(self.from_upstream.take_deltas())
        self._is_finished = True
        for turn in self._open:
            turn.exchange.outcome, turn.exchange.reason = outcome, reason
            if turn.has_begun:
                self._settle_estimate(turn)
            self._close(turn)
        if self._waiting:
            await asyncio.wait(self._waiting)
