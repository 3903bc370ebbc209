"""What the errors of redis-py and Redis mean for a group."""

import os
import re
import ssl
from collections.abc import Iterator

from redis import exceptions

from rustygate.admission.group.store import (
    StoreError,
    StoreRefused,
    StoreUnavailable,
    StoreUnready,
    SyncFailed,
)
from rustygate.system.tls import describe_ssl_error

NO_ANSWER = "no answer in time"
CONNECTION_LOST = "the connection was lost"

# What Redis answers, and the reason for it. Redis 6.2 has the errors of a script's commands in the
# middle of its own, later ones at the beginning.
_REFUSALS = (
    (r"without any password", "REDIS_URL has a password, but the server has none set"),
    (r"NOAUTH|Authentication required|HELLO must be called", "the server wants a password"),
    (r"WRONGPASS|invalid password|invalid username", "wrong user or password"),
    (
        r"NOPERM|no permissions|can't run this command|can't access",
        "its user lacks permissions that a group needs",
    ),
    (r"DB index is out of range", "the server has no such database"),
    (r"cluster support disabled", "the server belongs to no cluster: REDIS_URL=redis://..."),
    (r"SELECT is not allowed in cluster mode", "a cluster has only the database 0"),
    (r"unknown command '?`?(EVAL|SENTINEL|CLUSTER)", "the server is of another kind"),
)
_OUTAGES = (
    (r"LOADING", "the server is loading its data"),
    (r"READONLY", "the server is a replica, which cannot be written to"),
    (r"MASTERDOWN", "the server is a replica without its master"),
    (r"OOM", "the server has no memory left (maxmemory)"),
    (r"MISCONF", "the server cannot save its data, so it accepts no writes"),
    (r"NOREPLICAS", "the server has too few replicas, so it accepts no writes"),
    (r"CLUSTERDOWN|not covered", "the cluster is down"),
    (r"TRYAGAIN|ASK|MOVED", "the cluster is moving the group's keys"),
    (r"BUSY", "the server is busy with another script"),
    (r"Script killed|SHUTDOWN", "the script was ended from outside"),
    (r"max number of clients", "the server has no connections left (maxclients)"),
)

# What redis-py strips from an answer, as it has a class for it.
_CODES = (
    (exceptions.NoPermissionError, "NOPERM"),
    (exceptions.BusyLoadingError, "LOADING"),
    (exceptions.ReadOnlyError, "READONLY"),
    (exceptions.OutOfMemoryError, "OOM"),
    (exceptions.MasterDownError, "MASTERDOWN"),
    (exceptions.ClusterDownError, "CLUSTERDOWN"),
    (exceptions.TryAgainError, "TRYAGAIN"),
    (exceptions.AskError, "ASK"),
    (exceptions.AuthenticationError, "WRONGPASS"),
)

# This much of a defect's description is enough to find it.
_MAX_LENGTH_SHOWN = 300


def store_error(error: BaseException) -> StoreError:
    """What an error of a call or a connection means."""
    for each in _causes(error):
        if isinstance(each, StoreError):
            return each
        if isinstance(each, exceptions.RedisError) and (known := _known_answer(each)):
            return known
        if isinstance(each, exceptions.ResponseError):
            return SyncFailed(one_line(str(each)))
        if isinstance(each, exceptions.InvalidResponse):
            return StoreUnavailable("the server there is not a Redis")
        if isinstance(each, OSError):
            return StoreUnavailable(_describe(each))
    return StoreUnavailable(CONNECTION_LOST)


def one_line(text: str) -> str:
    """The script's description of a defect, as it may be logged."""
    return ascii(text[:_MAX_LENGTH_SHOWN])[1:-1]


def is_elsewhere(error: BaseException) -> bool:
    """Whether another connection may help: this one was lost, or its server lacks the keys."""
    lost = isinstance(error, exceptions.ConnectionError | OSError | exceptions.AskError)
    return lost or "READONLY" in str(error) or isinstance(error, exceptions.ReadOnlyError)


def _known_answer(error: exceptions.RedisError) -> StoreUnavailable | None:
    """What an error that the server answered means, unless it is one of the script itself."""
    code = next((code for kind, code in _CODES if isinstance(error, kind)), "")
    text = f"{code} {error}"
    for pattern, reason in _REFUSALS:
        if re.search(pattern, text):
            return StoreRefused(reason)
    for pattern, reason in _OUTAGES:
        if re.search(pattern, text):
            return StoreUnready(reason)
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what led to it; redis-py wraps the errors of sockets and of its handshake."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _describe(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {describe_ssl_error(error)}"
    if error.errno:
        return os.strerror(error.errno) if error.errno > 0 else str(error.strerror)
    return NO_ANSWER if isinstance(error, TimeoutError) else CONNECTION_LOST
