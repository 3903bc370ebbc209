"""What the simulator saw, as counts: in all, per key and per client.

A key is known by its last characters only. A client is who the body's `user` names; requests
without one count for their key alone. Names are bounded: what comes after the first thousand is
counted together, under `(others)`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

NAMES = 1000
OTHERS = "(others)"


@dataclass(slots=True)
class Tally:
    """Counts of one key, of one client, or of all.

    Args:
        by_status: answers whose head went out, by status.
        by_path: requests by route.
        left: requests whose client was gone before the answer was whole.
        severed: requests whose connection was broken on purpose.
    """

    requests: int = 0
    left: int = 0
    severed: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    by_status: dict[str, int] = field(default_factory=dict)
    by_path: dict[str, int] = field(default_factory=dict)


class Visit:
    """One request, and the tallies it counts for; what is noted before a client is known counts
    for the client too."""

    __slots__ = ("_path", "_tallies")

    def __init__(self, path: str, *tallies: Tally) -> None:
        self._path = path
        self._tallies: list[Tally] = []
        for tally in tallies:
            self.count_for(tally)

    def count_for(self, tally: Tally) -> None:
        """Count for that tally too, from now on; a WebSocket may name its client again."""
        if any(tally is known for known in self._tallies):
            return
        tally.requests += 1
        _count(tally.by_path, self._path)
        self._tallies.append(tally)

    def answered(self, status: int) -> None:
        for tally in self._tallies:
            _count(tally.by_status, str(status))

    def took(self, tokens_in: int, tokens_out: int) -> None:
        for tally in self._tallies:
            tally.tokens_in += tokens_in
            tally.tokens_out += tokens_out

    def left(self) -> None:
        for tally in self._tallies:
            tally.left += 1

    def severed(self) -> None:
        for tally in self._tallies:
            tally.severed += 1


class Stats:
    """All counts; what is open now survives a reset, since it is still open."""

    __slots__ = ("_clients", "_keys", "_total", "requests_open", "sockets_open", "streams_open")

    def __init__(self) -> None:
        self.requests_open = 0
        self.sockets_open = 0
        self.streams_open = 0
        self.reset()

    def reset(self) -> None:
        """Forget what was counted."""
        self._total = Tally()
        self._keys: dict[str, Tally] = {}
        self._clients: dict[str, Tally] = {}

    @contextmanager
    def visit(self, path: str, key: str) -> Iterator[Visit]:
        """Count a request, which is open for the time of the context."""
        self.requests_open += 1
        try:
            yield Visit(path, self._total, _named(self._keys, masked(key)))
        finally:
            self.requests_open -= 1

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Count an event stream as open for the time of the context."""
        self.streams_open += 1
        try:
            yield
        finally:
            self.streams_open -= 1

    @contextmanager
    def socket(self) -> Iterator[None]:
        """Count a WebSocket as open for the time of the context."""
        self.sockets_open += 1
        try:
            yield
        finally:
            self.sockets_open -= 1

    def client(self, name: str) -> Tally:
        """That client's tally."""
        return _named(self._clients, name)

    def snapshot(self) -> dict[str, Any]:
        """The counts as plain objects."""
        return {
            "requests_open": self.requests_open,
            "streams_open": self.streams_open,
            "sockets_open": self.sockets_open,
            **asdict(self._total),
            "keys": {name: asdict(tally) for name, tally in self._keys.items()},
            "clients": {name: asdict(tally) for name, tally in self._clients.items()},
        }


def _count(counts: dict[str, int], name: str) -> None:
    counts[name] = counts.get(name, 0) + 1


def _named(tallies: dict[str, Tally], name: str) -> Tally:
    if name not in tallies and len(tallies) >= NAMES:
        name = OTHERS
    return tallies.setdefault(name, Tally())


def masked(key: str) -> str:
    """A key by its last four characters, or half of it if it is shorter than eight."""
    return "..." + key[len(key) - min(4, len(key) // 2) :]
