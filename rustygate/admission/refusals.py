"""The refusals of the queue: which limit is reached, and when to try again.

A refusal tells the client to try again after the predicted wait, and names the limit that would
keep the request waiting longest at the moment.
"""

from collections.abc import Sequence
from math import ceil

from rustygate.admission.waiter import Waiter
from rustygate.core.bucket import MINUTE, SECOND, TokenBucket
from rustygate.core.budgets import Budgets
from rustygate.core.plural import counted
from rustygate.core.predicted_wait import Prediction
from rustygate.core.rate_limit_headers import QuotaKind
from rustygate.errors import QueueFull, QueueTimeout
from rustygate.exchange import MS

# A set of budgets, and its owner as an error message names it: nothing, or ` for gpt-4o`.
Owned = tuple[Budgets, str]


def queue_full(
    waiter: Waiter, own: Budgets, now: int, *, waiting: int, predicted: Prediction
) -> QueueFull:
    """The refusal of a request that arrives when QUEUE_LIMIT requests are waiting."""
    count = f"{_requests_are(waiting)} waiting"
    kind, _ = _limit_reached(waiter, own, now)
    message = f"The queue is full ({count}); {_try_again(predicted)}."
    return QueueFull(message, _retry_after_ms(predicted), kind)


def wait_too_long(
    waiter: Waiter, own: Budgets, now: int, *, left: int, predicted: Prediction
) -> QueueTimeout:
    """The refusal of a request whose predicted wait exceeds the `left` ns until its deadline."""
    kind, limit = _limit_reached(waiter, own, now)
    message = (
        f"{limit}; {_requests_are(predicted.ahead)} ahead, and this request may "
        f"wait only {max(0, left) / SECOND:.1f} s; {_try_again(predicted)}."
    )
    return QueueTimeout(message, _retry_after_ms(predicted), kind)


def deadline_passed(
    waiter: Waiter, own: Budgets, now: int, *, others: int, predicted: Prediction
) -> QueueTimeout:
    """The refusal of a waiter that was not admitted before its deadline."""
    kind, limit = _limit_reached(waiter, own, now)
    count = f"{_requests_are(others, 'other ')} waiting"
    message = (
        f"The request was not admitted before its deadline. {limit}; {count}; "
        f"{_try_again(predicted)}."
    )
    return QueueTimeout(message, _retry_after_ms(predicted), kind)


def _limit_reached(waiter: Waiter, own: Budgets, now: int) -> tuple[QuotaKind, str]:
    """The kind of quota that is waited for longest, and the limit that is reached, in words."""
    budgets: list[Owned] = [(own, "")]
    budgets += [(each.budgets, each.owner) for each in waiter.scopes]
    slowest, owner = max(budgets, key=lambda each: each[0].wait(now, waiter.tokens) or 0)
    kind = slowest.scarcest(now, waiter.tokens)
    bucket, cost = slowest.requests, 1
    if kind == "tokens":
        bucket, cost = slowest.tokens, slowest.token_charge(waiter.tokens)
    if bucket is not None and bucket.wait(now, cost):
        return kind, f"Limit {_per_minute(bucket, kind)} reached{owner}"
    if slowest.wait(now, waiter.tokens):
        return kind, f"Upstream limits requests{owner} at the moment"
    return kind, _slots_reached(waiter, budgets, now)


def _slots_reached(waiter: Waiter, budgets: Sequence[Owned], now: int) -> str:
    for each, owner in budgets:
        if each.slots is not None and each.wait(now, waiter.tokens) is None:
            return f"Limit {counted(each.slots, 'request')} in flight reached{owner}"
    return "The budgets are used up by requests ahead"


def _per_minute(bucket: TokenBucket, kind: QuotaKind) -> str:
    """A bucket's rate: `60 requests/min`."""
    # A bucket of a minute's units has their number as its burst; the period is rounded.
    minute = bucket.period == ceil(MINUTE / bucket.burst)
    rate = str(bucket.burst) if minute else f"{MINUTE / bucket.period:.6g}"
    return f"{rate} {kind if rate != '1' else kind.removesuffix('s')}/min"


def _requests_are(count: int, which: str = "") -> str:
    requests = counted(count, f"{which}request") if count else f"no {which}requests"
    return f"{requests} {'is' if count == 1 else 'are'}"


def _try_again(predicted: Prediction) -> str:
    return f"try again in {max(1, ceil(predicted.wait / SECOND))} s"


def _retry_after_ms(predicted: Prediction) -> int:
    return -(-predicted.wait // MS)
