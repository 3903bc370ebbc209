"""What is reported about each request when it ends: for the lines of `rustygate simulate`."""

from collections.abc import Callable
from dataclasses import dataclass

from rustygate.simulator.request_context import RequestContext

# Of a path or a model; the rest is cut off.
MAX_LENGTH = 100


@dataclass(frozen=True, slots=True)
class RequestSummary:
    """A request that has ended.

    Args:
        path: without its query, which may have a key in it.
        model: None if the request names none that exists.
        status: None if no response was sent.
        end: how it ended: `complete`, `left` (by the client) or `cut` (by a fault).
    """

    method: str
    path: str
    model: str | None
    status: int | None
    tokens_in: int
    tokens_out: int
    milliseconds: int
    end: str


Report = Callable[[RequestSummary], None]


def summarize(
    method: str, path: str, context: RequestContext, milliseconds: int, end: str
) -> RequestSummary:
    return RequestSummary(
        method,
        printable(path),
        None if context.quota is None else printable(context.subject),
        context.status,
        context.tokens_in,
        context.tokens_out,
        milliseconds,
        end,
    )


def printable(text: str) -> str:
    """A text that a terminal shows as one word."""
    shown = "".join(char if char.isprintable() and char != " " else "?" for char in text)
    return shown if len(shown) <= MAX_LENGTH else f"{shown[: MAX_LENGTH - 3]}..."
