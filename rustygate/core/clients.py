"""The clients that may use the gate, and their limits: the table in CLIENTS_FILE.

```toml
[client.search]
key_sha256 = "<64 hex digits>"
weight = 2
tokens_per_day = 2_000_000
```

Only hashes of keys are stored here. A table with any error in it is rejected as a whole, and all
errors are reported at once.
"""

import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from hashlib import sha256
from math import ceil
from typing import Any, NamedTuple

from rustygate.core.bucket import TokenBucket
from rustygate.core.budgets import Budgets
from rustygate.core.fair_order import CLASS_WEIGHTS
from rustygate.core.toml_tables import TomlError, parse_toml, shown

# A client's name is a label in logs and metrics.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

# Best first. A client may use its own class and those after it.
_BEST_FIRST = tuple(CLASS_WEIGHTS)

# With weights in this range, no other client's share vanishes in rounding, and no client's turn
# is infinitely far away.
MIN_WEIGHT, MAX_WEIGHT = 0.001, 1000
MAX_NUMBER = 10**12


class ClientsError(ValueError):
    """The table is invalid. `problems` has a line for each reason; none contains a key."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Limits:
    """A client's own limits; None means no limit.

    `burst` is the number of requests that may be sent at once after a quiet time, by default as
    many as a second allows.
    """

    requests_per_second: float | None = None
    burst: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None

    def budgets(self) -> Budgets:
        """New, full budgets with these limits."""
        requests = tokens = None
        if self.requests_per_second is not None:
            burst = self.burst or max(1, ceil(self.requests_per_second))
            requests = TokenBucket.from_rate(self.requests_per_second, burst)
        if self.tokens_per_minute is not None:
            tokens = TokenBucket.per_minute(self.tokens_per_minute)
        return Budgets(requests, tokens, self.concurrency)


@dataclass(frozen=True, slots=True)
class SpendingLimits:
    """How much a client may spend per day and per month (UTC); None means no limit."""

    tokens_per_day: int | None = None
    tokens_per_month: int | None = None
    usd_per_day: float | None = None
    usd_per_month: float | None = None

    def __bool__(self) -> bool:
        return self != _UNLIMITED


_UNLIMITED = SpendingLimits()


@dataclass(frozen=True, slots=True)
class Client:
    """One client of the table.

    Args:
        priority: the best class it may use.
        models: shell patterns of the models it may use; empty means all models.
    """

    name: str
    key_sha256: str = field(repr=False)
    weight: float = 1.0
    priority: str = "default"
    models: tuple[str, ...] = ()
    limits: Limits = Limits()
    spending: SpendingLimits = SpendingLimits()

    def cap_priority(self, requested: str) -> str:
        """The requested class, or the client's best class if that is lower."""
        return max(requested, self.priority, key=_BEST_FIRST.index)

    def may_use(self, model: str) -> bool:
        """Whether the client may use a model."""
        return not self.models or any(fnmatchcase(model, pattern) for pattern in self.models)


class Clients:
    """The clients of a table, by name and by key."""

    def __init__(self, clients: Mapping[str, Client]) -> None:
        self.by_name = dict(clients)
        self._by_hash = {client.key_sha256: client for client in clients.values()}

    def __repr__(self) -> str:
        return f"<Clients {', '.join(self.by_name)}>"

    def find_by_key(self, key: str) -> Client | None:
        """The client with this key. The lookup is by hash, so its timing reveals nothing."""
        return self._by_hash.get(hash_key(key))


class ClientChanges(NamedTuple):
    """How many clients of a table are new, different or gone."""

    came: int
    changed: int
    went: int


def compare_clients(before: Mapping[str, Client], after: Mapping[str, Client]) -> ClientChanges:
    """What makes a table differ from the one before."""
    common = before.keys() & after.keys()
    changed = sum(before[name] != after[name] for name in common)
    return ClientChanges(len(after) - len(common), changed, len(before) - len(common))


def hash_key(key: str) -> str:
    """The hash of a key, as the table stores it."""
    return sha256(key.encode(errors="surrogateescape")).hexdigest()


def is_valid_name(text: str) -> bool:
    """Whether a text is allowed as the name of a client."""
    return _NAME.fullmatch(text) is not None


def parse_clients(text: str) -> Clients:
    """Parse a table. Raises ClientsError."""
    try:
        table = parse_toml(text)
    except TomlError as error:
        raise ClientsError([str(error)]) from None
    problems = [
        f"unknown table {name!r}: expected [client.NAME]" for name in table if name != _TABLE
    ]
    entries = table.get(_TABLE, {})
    if not isinstance(entries, dict):
        raise ClientsError([*problems, "client: expected tables [client.NAME]"])
    clients: dict[str, Client] = {}
    for name, entry in entries.items():
        parser = _EntryParser(name, entry)
        problems += parser.problems
        if not parser.problems:
            clients[name] = parser.client()
    problems += _shared_keys(clients)
    if problems:
        raise ClientsError(problems)
    return Clients(clients)


_TABLE = "client"
_LIMIT_KEYS = frozenset(limit.name for limit in fields(Limits))
_SPENDING_KEYS = frozenset(limit.name for limit in fields(SpendingLimits))


def _shared_keys(clients: Mapping[str, Client]) -> Iterator[str]:
    owner: dict[str, str] = {}
    for client in clients.values():
        first = owner.setdefault(client.key_sha256, client.name)
        if first != client.name:
            yield f"client.{client.name}.key_sha256: the same key as client.{first}"


class _EntryParser:
    """Parses one entry of the table and collects its problems."""

    def __init__(self, name: str, entry: object) -> None:
        self.problems: list[str] = []
        self._name = name
        self._label = _label(name)
        self._values: dict[str, Any] = {}
        if not is_valid_name(name):
            self._reject("", "expected a name of at most 64 letters, digits, `_`, `.` and `-`")
        if not isinstance(entry, dict):
            self._reject("", "expected a table")
            return
        for key, value in entry.items():
            self._parse(key, value)
        if "key_sha256" not in entry:
            self._reject(".key_sha256", f"not set; {_EXPECTED['key_sha256']}")
        if "burst" in entry and "requests_per_second" not in entry:
            self._reject(".burst", "expected only together with requests_per_second")

    def client(self) -> Client:
        limits = self._take(_LIMIT_KEYS)
        spending = self._take(_SPENDING_KEYS)
        others = self._take(_PARSERS.keys() - _LIMIT_KEYS - _SPENDING_KEYS)
        return Client(
            self._name, limits=Limits(**limits), spending=SpendingLimits(**spending), **others
        )

    def _take(self, keys: Set[str]) -> dict[str, Any]:
        return {key: value for key, value in self._values.items() if key in keys}

    def _parse(self, key: str, value: object) -> None:
        parse = _PARSERS.get(key)
        if parse is None:
            self._reject(f".{_label(key)}", f"unknown key; expected one of {', '.join(_PARSERS)}")
            return
        parsed = parse(value)
        if parsed is None:
            quoted = "" if key == "key_sha256" else f"={shown(value)}"
            self._reject(f".{key}{quoted}", _EXPECTED[key])
        self._values[key] = parsed

    def _reject(self, key: str, reason: str) -> None:
        self.problems.append(f"client.{self._label}{key}: {reason}")


def _label(name: str) -> str:
    return name if is_valid_name(name) else shown(name)


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
    # Compared before conversion: a float cannot hold every integer.
    return float(value) if 0 < value <= MAX_NUMBER else None


def _count(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 1 <= value <= MAX_NUMBER else None


def _priority(value: object) -> str | None:
    return value if isinstance(value, str) and value in CLASS_WEIGHTS else None


def _patterns(value: object) -> tuple[str, ...] | None:
    if not isinstance(value, list) or not value:
        return None
    return tuple(value) if all(isinstance(item, str) and item for item in value) else None


_PARSERS: dict[str, Any] = {
    "key_sha256": _hash,
    "weight": _weight,
    "priority": _priority,
    "requests_per_second": _rate,
    "burst": _count,
    "tokens_per_minute": _count,
    "concurrency": _count,
    "models": _patterns,
    "tokens_per_day": _count,
    "tokens_per_month": _count,
    "usd_per_day": _rate,
    "usd_per_month": _rate,
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
    "tokens_per_day": "expected a whole number of 1 or more",
    "tokens_per_month": "expected a whole number of 1 or more",
    "usd_per_day": "expected a number above 0",
    "usd_per_month": "expected a number above 0",
}
