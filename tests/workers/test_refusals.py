"""A refusal that was made in one process is the same in another."""

import pickle
from collections.abc import Iterator

import pytest

from rustygate import errors
from rustygate.errors import Refusal
from rustygate.workers.refusals import pack_refusal, unpack_refusal

# One of each class that can be raised, with values.
REFUSALS = [
    errors.BadRequest("bad \ud800"),
    errors.MalformedBody("bad"),
    errors.InvalidUrl(),
    errors.MalformedHandshake("bad"),
    errors.NotHttp(),
    errors.PlainHttp(),
    errors.InvalidAdminKey(),
    errors.AdminOnly(),
    errors.OriginNotAllowed(["https://example.org"]),
    errors.InvalidApiKey(0),
    errors.InvalidApiKey(2),
    errors.ModelNotAllowed("no"),
    errors.NotFound("no"),
    errors.MethodNotAllowed("no", ["GET", "HEAD"]),
    errors.RequestTimeout("late"),
    errors.BodyTooLarge("large"),
    errors.QueueTimeout("late", 1234, "tokens"),
    errors.QueueTimeout("late", 0),
    errors.QueueFull("full", 5),
    errors.RequestTooLarge(5, 1),
    errors.BudgetExceeded("spent", 86_400),
    errors.Draining(),
    errors.TooManyConnections(3),
    errors.TooManyViewers(3),
    errors.InternalError("id-1"),
    errors.UsageUnreadable("disk full"),
    errors.LoopDetected(),
    errors.UpstreamUnreachable("down", permanent=True),
    errors.UpstreamDisconnected("gone", started=True, stale=True, idempotent=True),
    errors.UpstreamDisconnected("gone"),
    errors.UpstreamTimeout(5),
]

BASES = {errors.UpstreamFailure, errors._Busy, errors._Unavailable, Refusal}


def kinds(kind: type[Refusal]) -> Iterator[type[Refusal]]:
    yield kind
    for each in kind.__subclasses__():
        yield from kinds(each)


def test_every_refusal_is_tried() -> None:
    own = {kind for kind in kinds(Refusal) if kind.__module__ == errors.__name__}
    assert own == {type(refusal) for refusal in REFUSALS} | BASES


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: type(refusal).__name__)
def test_refusal_survives(refusal: Refusal) -> None:
    packed = pickle.loads(pickle.dumps(pack_refusal(refusal)))
    other = unpack_refusal(*packed)
    assert type(other) is type(refusal)
    assert str(other) == str(refusal)
    assert other.headers() == refusal.headers()
    assert other.error() == refusal.error()
    assert vars(other) == vars(refusal)
    sent, again = refusal.response([("X-Id", "1")]), other.response([("X-Id", "1")])
    assert (again.status, again.body, again.headers) == (sent.status, sent.body, sent.headers)
    assert again.keep_alive == sent.keep_alive
