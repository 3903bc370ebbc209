"""Sends a response downstream: in one write if it is complete, otherwise as a stream.

In a stream that the queue keepalive has already started, an error becomes an error event.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from time import monotonic_ns
from typing import Any

from aiohttp import hdrs, web

from rustygate.core.content_coding import codings_of
from rustygate.core.sse import error_event, is_event_stream
from rustygate.errors import Refusal
from rustygate.exchange import Exchange
from rustygate.relay.abort import flush_and_abort
from rustygate.relay.observation import observe, stamp_body
from rustygate.relay.source import Source, read_ahead
from rustygate.relay.stream import Downstream, Stream, passthrough_response
from rustygate.upstream.response import FIRST_ERROR_STATUS, UpstreamResponse


async def pipe(
    downstream: Downstream, upstream_response: UpstreamResponse, body_start: bytes | None = None
) -> web.StreamResponse:
    """Pass a response on and stamp the exchange.

    Raises `UpstreamFailure` if upstream cuts the response before anything was sent downstream. If
    upstream cuts it later, the client sees a cut stream, and this returns normally.

    Args:
        body_start: what was read of the body before.
    """
    if downstream.started is not None and not _is_plain_event_stream(upstream_response):
        return await _error_in_stream(downstream, upstream_response, body_start)
    source = Source(upstream_response, downstream.settings)
    first = await source.read_first() if body_start is None else body_start
    complete = first is not None and source.ended and not upstream_response.closed_early
    if complete and downstream.started is None:
        assert first is not None
        return await _send_complete(downstream, upstream_response, first)
    return await Stream(downstream, upstream_response, source).run(first)


async def refuse_in_stream(downstream: Downstream, refusal: Refusal) -> web.StreamResponse:
    """Write a refusal into the stream that has started."""
    response = await _end_with_error(downstream, refusal.error())
    downstream.exchange.outcome, downstream.exchange.reason = refusal.outcome, refusal.reason
    return response


async def _send_complete(
    downstream: Downstream, upstream_response: UpstreamResponse, body: bytes
) -> web.StreamResponse:
    """Send a response whose end has arrived: head and body in one write."""
    exchange = downstream.exchange
    response = passthrough_response(upstream_response, exchange, body)
    _stamp(exchange, upstream_response, body)
    if downstream.lockstep.has_others:
        await downstream.lockstep.wait_for_others()
    exchange.first_byte = monotonic_ns()
    exchange.bytes = len(body)
    await response.send(downstream.request)
    return response


def _stamp(exchange: Exchange, upstream_response: UpstreamResponse, body: bytes) -> None:
    """Stamp the facts that a body shows if it is not passed on as a stream."""
    observer = observe(upstream_response, exchange)
    if observer is not None:
        observer.pending.append(body)
    stamp_body(exchange, upstream_response, observer)


async def _error_in_stream(
    downstream: Downstream, upstream_response: UpstreamResponse, body_start: bytes | None
) -> web.StreamResponse:
    """Write upstream's error into the stream that has started."""
    downstream.exchange.outcome = "upstream_error"
    if body_start is None:
        body_start = await read_ahead(upstream_response, downstream.settings)
    # A successful response was paid for, although the client cannot get it.
    _stamp(downstream.exchange, upstream_response, body_start)
    return await _end_with_error(downstream, _error_in(body_start, upstream_response.status))


async def _end_with_error(downstream: Downstream, error: Mapping[str, Any]) -> web.StreamResponse:
    """End the stream that has started with an OpenAI error object, and abort the connection."""
    assert downstream.started is not None
    downstream.started.write_chunk(error_event(downstream.exchange.path, error))
    await flush_and_abort(downstream.request)
    return downstream.started


def _is_plain_event_stream(response: UpstreamResponse) -> bool:
    """Whether a response can continue in the event stream that has started."""
    headers = response.headers
    if not response.ok or codings_of(headers):
        return False
    return is_event_stream(headers.get(hdrs.CONTENT_TYPE))


def _error_in(body: bytes, status: int) -> dict[str, Any]:
    """Upstream's error object; if the body contains none, one that names the status."""
    with suppress(ValueError, RecursionError):
        document = json.loads(body)
        if isinstance(document, dict) and isinstance(document.get("error"), dict):
            error: dict[str, Any] = document["error"]
            return error
    message = f"Upstream responded with status {status} instead of an event stream."
    if status < FIRST_ERROR_STATUS:
        message += (
            " The stream had already been started, so the response could not be passed on; raise "
            "QUEUE_KEEPALIVE_AFTER, or leave it out, to receive such responses."
        )
    return {"message": message, "type": "upstream_error", "param": None, "code": None}
