"""Who may ask, and for how much: the table of clients, as CLIENTS_FILE has it.

```toml
[client.search]
key_sha256 = "<64 hex digits>"
weight = 2
```

Nothing but the hash of a key is ever known here. A table with anything wrong in it is refused
whole, with all that is wrong in one report.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from hashlib import sha256
from math import ceil
from typing import Any

from rustygate.core.bucket import TokenBucket
from rustygate.core.budgets import Budgets
from rustygate.core.priority_class import CLASS_WEIGHTS

# A client's name is a label in logs and metrics.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

# Best first; a client may ask for its own and those behind it.
_RANKED = tuple(CLASS_WEIGHTS)

# No weight makes another's share vanish in rounding, nor its own turn come at infinity.
MIN_WEIGHT, MAX_WEIGHT = 0.001, 1000
_MOST = 10**12


class ClientsError(ValueError):
    """The table will not do; `problems` has a line for each reason, with no key in it."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Limits:
    """A client's own limits; None is no limit. `burst` is what may go at once after a quiet time;
    without it, as much as a second allows."""

    requests_per_second: float | None = None
    burst: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None

    def budgets(self) -> Budgets:
        """Full budgets with these limits."""
        requests = tokens = None
        if self.requests_per_second is not None:
            burst = self.burst or max(1, ceil(self.requests_per_second))
            requests = TokenBucket.from_rate(self.requests_per_second, burst)
        if self.tokens_per_minute is not None:
            tokens = TokenBucket.per_minute(self.tokens_per_minute)
        return Budgets(requests, tokens, self.concurrency)


@dataclass(frozen=True, slots=True)
class Client:
    """One client of the table.

    Args:
        priority: the best class it may ask for.
        models: shell patterns of the models it may ask; none are all.
    """

    name: str
    key_sha256: str = field(repr=False)
    weight: float = 1.0
    priority: str = "default"
    models: tuple[str, ...] = ()
    limits: Limits = Limits()

    def cap_priority(self, asked: str) -> str:
        """The class it gets: the one it asks for, or the best it may have."""
        return max(asked, self.priority, key=_RANKED.index)

    def may_use(self, model: str) -> bool:
        """Whether one of its patterns matches."""
        return not self.models or any(fnmatchcase(model, each) for each in self.models)


class Clients:
    """The table, by name and by key."""

    def __init__(self, clients: Mapping[str, Client]) -> None:
        self.by_name = dict(clients)
        self._by_hash = {client.key_sha256: client for client in clients.values()}

    def __repr__(self) -> str:
        return f"<Clients {', '.join(self.by_name)}>"

    def find_by_key(self, key: str) -> Client | None:
        """Whose key it is. Looked up by its hash, so that time tells nothing of the key."""
        return self._by_hash.get(hash_key(key))


def hash_key(key: str) -> str:
    """A key as the table has it."""
    return sha256(key.encode(errors="surrogateescape")).hexdigest()


def is_valid_name(text: str) -> bool:
    """Whether a client may be called that."""
    return _NAME.fullmatch(text) is not None


def parse_clients(text: str) -> Clients:
    """Read a table. Raises ClientsError."""
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        # The parser's words may hold a piece of the file only as the character it stopped at.
        raise ClientsError([f"expected TOML: {_place(error)}"]) from None
    problems = [
        f"unknown table {name!r}: expected [client.NAME]" for name in table if name != _TOP
    ]
    entries = table.get(_TOP, {})
    if not isinstance(entries, dict):
        raise ClientsError([*problems, "client: expected tables [client.NAME]"])
    clients: dict[str, Client] = {}
    for name, entry in entries.items():
        reading = _Reading(name, entry)
        problems += reading.problems
        if not reading.problems:
            clients[name] = reading.client()
    problems += _shared_keys(clients)
    if problems:
        raise ClientsError(problems)
    return Clients(clients)


_TOP = "client"
_LIMITS = frozenset(limit.name for limit in fields(Limits))


def _place(error: Exception) -> str:
    place = re.search(r"at line \d+, column \d+|at end of document", str(error))
    return f"it cannot be read {place[0] if place else 'as that'}"


def _shared_keys(clients: Mapping[str, Client]) -> Iterator[str]:
    owner: dict[str, str] = {}
    for client in clients.values():
        first = owner.setdefault(client.key_sha256, client.name)
        if first != client.name:
            yield f"client.{client.name}.key_sha256: is that of client.{first} too"


class _Reading:
    """One entry of the table, and what is wrong with it."""

    def __init__(self, name: str, entry: object) -> None:
        self.problems: list[str] = []
        self._name = name
        self._label = _label(name)
        self._values: dict[str, Any] = {}
        if not is_valid_name(name):
            self._wrong("", "expected a name of letters, digits, `_`, `.` and `-`, at most 64")
        if not isinstance(entry, dict):
            self._wrong("", "expected a table")
            return
        for key, value in entry.items():
            self._read(key, value)
        if "key_sha256" not in entry:
            self._wrong(".key_sha256", f"not set; {_EXPECTED['key_sha256']}")
        if "burst" in entry and "requests_per_second" not in entry:
            self._wrong(".burst", "expected with requests_per_second only")

    def client(self) -> Client:
        own = {key: value for key, value in self._values.items() if key not in _LIMITS}
        limits = {key: value for key, value in self._values.items() if key in _LIMITS}
        return Client(self._name, limits=Limits(**limits), **own)

    def _read(self, key: str, value: object) -> None:
        reader = _READERS.get(key)
        if reader is None:
            self._wrong(f".{_label(key)}", f"unknown; known are {', '.join(_READERS)}")
            return
        read = reader(value)
        if read is None:
            shown = "" if key == "key_sha256" else f"={_shown(value)}"
            self._wrong(f".{key}{shown}", _EXPECTED[key])
        self._values[key] = read

    def _wrong(self, where: str, what: str) -> None:
        self.problems.append(f"client.{self._label}{where}: {what}")


def _label(name: str) -> str:
    return name if is_valid_name(name) else _shown(name)


def _shown(value: object) -> str:
    try:
        text = ascii(value)
    except ValueError:
        # TOML's hexadecimals may have more digits than Python writes in decimal.
        return "(too long to show)"
    return text if len(text) <= 80 else text[:80] + "..."


def _hash(value: object) -> str | None:
    if not isinstance(value, str) or not _SHA256.fullmatch(value.lower()):
        return None
    return value.lower()


def _weight(value: object) -> float | None:
    weight = _rate(value)
    return weight if weight is not None and MIN_WEIGHT <= weight <= MAX_WEIGHT else None


def _rate(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # Compared first: not every integer is a float.
    return float(value) if 0 < value <= _MOST else None


def _count(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 1 <= value <= _MOST else None


def _priority(value: object) -> str | None:
    return value if isinstance(value, str) and value in CLASS_WEIGHTS else None


def _patterns(value: object) -> tuple[str, ...] | None:
    if not isinstance(value, list) or not value:
        return None
    return tuple(value) if all(isinstance(each, str) and each for each in value) else None


_READERS: dict[str, Any] = {
    "key_sha256": _hash,
    "weight": _weight,
    "priority": _priority,
    "requests_per_second": _rate,
    "burst": _count,
    "tokens_per_minute": _count,
    "concurrency": _count,
    "models": _patterns,
}
_EXPECTED = {
    "key_sha256": "expected 64 hex digits; `rustygate key NAME` makes a key and its hash",
    "weight": f"expected a number from {MIN_WEIGHT:g} to {MAX_WEIGHT}",
    "priority": f"expected one of {', '.join(CLASS_WEIGHTS)}",
    "requests_per_second": "expected a number above 0",
    "burst": "expected a whole number of 1 or more",
    "tokens_per_minute": "expected a whole number of 1 or more",
    "concurrency": "expected a whole number of 1 or more",
    "models": 'expected a list of shell patterns such as ["gpt-4o*"]',
}
