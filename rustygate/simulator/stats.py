"""Counts of requests, responses and tokens: in total, per API key and per client.

A key is shown by its last characters only. A client is named by the field `user` of the request
body; a request without it counts for its key only. The number of names is bounded: keys and
clients after the first thousand are counted together, under `(others)`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

MAX_NAMES = 1000
OTHERS = "(others)"


@dataclass(slots=True)
class Counts:
    """Counts of one key, of one client, or in total; the names are those of `/simulator/stats`.

    Args:
        by_status: responses whose head was sent, by status.
        by_path: requests by route.
        left: requests whose client disconnected before the end of the response.
        severed: requests whose connection was cut by a fault.
    """

    requests: int = 0
    left: int = 0
    severed: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    by_status: dict[str, int] = field(default_factory=dict)
    by_path: dict[str, int] = field(default_factory=dict)


class RequestRecorder:
    """Records one request in the counts that it belongs to."""

    __slots__ = ("_counts", "_path")

    def __init__(self, path: str, *all_counts: Counts) -> None:
        self._path = path
        self._counts: list[Counts] = []
        for counts in all_counts:
            self.count_for(counts)

    def count_for(self, counts: Counts) -> None:
        """Add counts to record to; a WebSocket may name the same client more than once."""
        if any(counts is counted for counted in self._counts):
            return
        counts.requests += 1
        _increment(counts.by_path, self._path)
        self._counts.append(counts)

    def response_started(self, status: int) -> None:
        for counts in self._counts:
            _increment(counts.by_status, str(status))

    def add_tokens(self, tokens_in: int, tokens_out: int) -> None:
        for counts in self._counts:
            counts.tokens_in += tokens_in
            counts.tokens_out += tokens_out

    def client_disconnected(self) -> None:
        for counts in self._counts:
            counts.left += 1

    def connection_cut(self) -> None:
        for counts in self._counts:
            counts.severed += 1


class Stats:
    """All counts. A reset keeps the numbers of what is open now."""

    __slots__ = ("_clients", "_keys", "_total", "requests_open", "sockets_open", "streams_open")

    def __init__(self) -> None:
        self.requests_open = 0
        self.sockets_open = 0
        self.streams_open = 0
        self.reset()

    def reset(self) -> None:
        """Set all counts to zero."""
        self._total = Counts()
        self._keys: dict[str, Counts] = {}
        self._clients: dict[str, Counts] = {}

    @contextmanager
    def request(self, path: str, key: str) -> Iterator[RequestRecorder]:
        """Count a request, and count it as open while the context lasts."""
        self.requests_open += 1
        try:
            yield RequestRecorder(path, self._total, _get_counts(self._keys, mask_key(key)))
        finally:
            self.requests_open -= 1

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Count an event stream as open while the context lasts."""
        self.streams_open += 1
        try:
            yield
        finally:
            self.streams_open -= 1

    @contextmanager
    def websocket(self) -> Iterator[None]:
        """Count a WebSocket as open while the context lasts."""
        self.sockets_open += 1
        try:
            yield
        finally:
            self.sockets_open -= 1

    def client(self, name: str) -> Counts:
        """The counts of one client."""
        return _get_counts(self._clients, name)

    def snapshot(self) -> dict[str, Any]:
        """The counts as JSON-serializable objects."""
        return {
            "requests_open": self.requests_open,
            "streams_open": self.streams_open,
            "sockets_open": self.sockets_open,
            **asdict(self._total),
            "keys": {name: asdict(counts) for name, counts in self._keys.items()},
            "clients": {name: asdict(counts) for name, counts in self._clients.items()},
        }


def _increment(counts: dict[str, int], name: str) -> None:
    counts[name] = counts.get(name, 0) + 1


def _get_counts(counts_by_name: dict[str, Counts], name: str) -> Counts:
    if name not in counts_by_name and len(counts_by_name) >= MAX_NAMES:
        name = OTHERS
    return counts_by_name.setdefault(name, Counts())


def mask_key(key: str) -> str:
    """The last four characters of a key, or the last half of one shorter than eight."""
    return "..." + key[len(key) - min(4, len(key) // 2) :]
