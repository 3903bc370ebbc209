"""What the errors of Redis and of connections to it mean for a group."""

import os
import re
import ssl

from rustygate.admission.group.redis_protocol import ErrorReply, ProtocolError
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
    (r"NOAUTH|Authentication required|HELLO must be called", "the server requires a password"),
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

# This much of a defect's description is enough to find it.
_MAX_LENGTH_SHOWN = 300


# How a call or a connection fails.
CallError = ErrorReply | ProtocolError | OSError | StoreError


def store_error(error: CallError) -> StoreError:
    """What an error of a call or a connection means."""
    if isinstance(error, StoreError):
        return error
    if isinstance(error, ErrorReply):
        return _known_answer(str(error)) or SyncFailed(one_line(str(error)))
    if isinstance(error, ProtocolError):
        return StoreUnavailable("the server does not speak the Redis protocol")
    return StoreUnavailable(_describe(error))


def one_line(text: str) -> str:
    """The script's description of a defect, as it may be logged."""
    return ascii(text[:_MAX_LENGTH_SHOWN])[1:-1]


def should_reconnect(error: Exception) -> bool:
    """Whether a new connection may help: this one was lost, or its server lacks the keys."""
    return isinstance(error, OSError) or has_moved(error) or "READONLY" in str(error)


def has_moved(error: Exception) -> bool:
    """Whether the server says that another one of its cluster has the keys."""
    return isinstance(error, ErrorReply) and str(error).startswith(("MOVED ", "ASK "))


def _known_answer(text: str) -> StoreUnavailable | None:
    """The meaning of an error from the server; None for an error of the script itself."""
    for pattern, reason in _REFUSALS:
        if re.search(pattern, text):
            return StoreRefused(reason)
    for pattern, reason in _OUTAGES:
        if re.search(pattern, text):
            return StoreUnready(reason)
    return None


def _describe(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {describe_ssl_error(error)}"
    if error.errno:
        return os.strerror(error.errno) if error.errno > 0 else str(error.strerror)
    return NO_ANSWER if isinstance(error, TimeoutError) else CONNECTION_LOST
