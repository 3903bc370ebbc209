"""What is learned from a response's body: which bodies are observed, and what is stamped.

Responses to reads, and to requests that cancel or change something, report what other requests
took, so their tokens are not counted.
"""

from aiohttp import hdrs

from rustygate.core.content_coding import codings_of
from rustygate.core.request_facts import is_work, writes_text
from rustygate.core.response_observer import BodyObserver, ResponseObserver, StreamObserver
from rustygate.core.sse import is_event_stream
from rustygate.core.usage import may_contain_usage
from rustygate.exchange import Exchange
from rustygate.upstream.response import UpstreamResponse


def observe(response: UpstreamResponse, exchange: Exchange) -> ResponseObserver | None:
    """An observer of a response's body; None if there is nothing to learn from it."""
    headers = response.headers
    content_type = headers.get(hdrs.CONTENT_TYPE, "").lower()
    if not may_contain_usage(content_type):
        return None
    codings = codings_of(headers)
    counts = is_work(exchange.method, exchange.path)
    has_output = response.ok and writes_text(exchange.path)
    if "event-stream" in content_type and is_event_stream(content_type):
        return StreamObserver(codings, counts=counts, has_output=has_output)
    return BodyObserver(codings, has_output=has_output) if counts else None


def stamp_body(
    exchange: Exchange, response: UpstreamResponse, observer: ResponseObserver | None
) -> None:
    """Stamp what a body's observer has seen, when nothing more of the body will pass."""
    if observer is not None:
        observer.finish()
        _stamp_error(exchange, observer)
        usage = observer.usage
        if usage is not None:
            exchange.record_usage(usage)
            if not usage.tokens_out:
                _stamp_output(exchange, observer)
            return
    if response.successful and is_work(exchange.method, exchange.path):
        _stamp_estimate(exchange, 0 if observer is None else observer.estimated_output())


def _stamp_output(exchange: Exchange, observer: ResponseObserver) -> None:
    """Stamp the output that passed although the usage shows none: it came before the text."""
    output = observer.estimated_output()
    if output:
        exchange.tokens_out, exchange.tokens_estimated = output, True


def _stamp_error(exchange: Exchange, observer: ResponseObserver) -> None:
    end = observer.end
    if end is not None and end.error is not None:
        exchange.error_event = end.error
        exchange.outcome = exchange.outcome or "upstream_error"


def _stamp_estimate(exchange: Exchange, output: int | None) -> None:
    """Stamp the estimated tokens, unless the output is unknown or no model was at work."""
    if output is None or not (output or exchange.input_tokens):
        return
    if exchange.error_event is not None and not output:
        return
    exchange.tokens_in, exchange.tokens_out = exchange.input_tokens, output
    exchange.tokens_estimated = True
