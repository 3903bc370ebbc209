"""REDIS_URL: the address of a Redis or Valkey, as its parts.

`redis`, `rediss` (TLS) and `unix` have the form that redis-py reads, but a host must be named, and
what redis-py ignores or takes for options of its own is refused. It has no URLs for Sentinel and
Cluster: the schemes are those of other Python libraries, `redis+sentinel` with the name of the
master before the database, and `redis+cluster`; both with TLS as `rediss+...`.
"""

import re
from dataclasses import dataclass, field
from typing import Literal, NamedTuple
from urllib.parse import parse_qsl, unquote

Kind = Literal["server", "sentinel", "cluster"]

_SCHEMES: dict[str, tuple[Kind, bool]] = {
    "redis": ("server", False),
    "rediss": ("server", True),
    "unix": ("server", False),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}

_SENTINEL_OPTIONS = ("sentinel_username", "sentinel_password")
_OPTIONS = ("db", "username", "password")

_DEFAULT_PORT, _DEFAULT_SENTINEL_PORT = 6379, 26379

# What Redis itself can count.
_LAST_DATABASE = (1 << 31) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisUrl:
    """The parts of REDIS_URL.

    Args:
        hosts: the server's address, those of the sentinels, or those of some nodes of a cluster;
            empty for a unix socket.
        path: of the unix socket, if it is one.
        master: the name by which the sentinels know the server.
        sentinel_username, sentinel_password: for the sentinels, if they require them.
    """

    kind: Kind
    hosts: tuple[tuple[str, int], ...] = ()
    path: str | None = None
    tls: bool = False
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    database: int = 0
    master: str | None = None
    sentinel_username: str | None = field(default=None, repr=False)
    sentinel_password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        """The address in words, without user and password."""
        if self.path is not None:
            return self.path
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
                         for host, port in self.hosts)  # fmt: skip
        if self.kind == "sentinel":
            return f"{self.master} of the sentinels {hosts}"
        return f"cluster {hosts}" if self.kind == "cluster" else hosts


def parse_redis_url(url: str) -> RedisUrl:
    """The parts of a URL. Raises ValueError with a reason that repeats none of it."""
    parts = _split(url)
    kind, tls = _SCHEMES[parts.scheme]
    options = _options(parts.query, kind)
    user, _, password = parts.credentials.partition(":")
    path = _socket_path(parts) if parts.scheme == "unix" else None
    master, database = _master_and_database("" if path else parts.path, kind, options)
    return RedisUrl(
        kind=kind,
        hosts=() if path else _hosts(parts.hosts, kind),
        path=path,
        tls=tls,
        username=unquote(user) or options.get("username"),
        password=unquote(password) or options.get("password"),
        database=database,
        master=master,
        sentinel_username=options.get("sentinel_username"),
        sentinel_password=options.get("sentinel_password"),
    )


class _Parts(NamedTuple):
    scheme: str
    credentials: str
    hosts: str
    path: str
    query: str


def _split(url: str) -> _Parts:
    """The parts by RFC 3986, appendix B; `urlsplit` refuses several hosts with IPv6 addresses."""
    scheme, found, rest = url.partition("://")
    if not found or scheme.lower() not in _SCHEMES:
        raise ValueError(f"it begins with none of {', '.join(f'{each}://' for each in _SCHEMES)}")
    if not re.fullmatch(r"[!-~]*", rest):
        raise ValueError("it contains a space or a character that is not ASCII")
    before, _, query = rest.partition("?")
    authority, slash, path = before.partition("/")
    if "#" in rest or "@" in path:
        raise ValueError("in a password, / ? # @ must be written as %2F %3F %23 %40")
    credentials, _, hosts = authority.rpartition("@")
    return _Parts(scheme.lower(), credentials, hosts, slash + path, query)


def _options(query: str, kind: Kind) -> dict[str, str]:
    """The options after the question mark, decoded."""
    known = (*_OPTIONS, *_SENTINEL_OPTIONS) if kind == "sentinel" else _OPTIONS
    try:
        options = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise ValueError("after the ?, options are written as name=value") from None
    # Not the name of the unknown one: it may be part of a password with a question mark.
    if not {name for name, _ in options} <= set(known):
        raise ValueError(f"after the ?, only {', '.join(known)} are allowed")
    return dict(options)


def _socket_path(parts: _Parts) -> str:
    path = unquote(parts.path)
    if parts.hosts or len(path) < 2 or not path.isprintable():
        raise ValueError("the path of the socket is not absolute: unix:///path")
    return path


def _master_and_database(path: str, kind: Kind, options: dict[str, str]) -> tuple[str | None, int]:
    """The text between the hosts and the question mark: the master's name, the database."""
    steps = [unquote(step) for step in path.split("/")[1:] if step]
    master = None
    if kind == "sentinel":
        if not steps:
            raise ValueError("the master's name is missing: host:26379/mymaster")
        master = steps.pop(0)
    if len(steps) > 1 or (steps and "db" in options):
        raise ValueError("it names more than one database")
    database = _database(steps[0] if steps else options.get("db", "0"))
    if kind == "cluster" and database:
        raise ValueError("a cluster has only the database 0")
    return master, database


def _database(number: str) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", number) or int(number) > _LAST_DATABASE:
        raise ValueError("the database is not a number")
    return int(number)


def _hosts(text: str, kind: Kind) -> tuple[tuple[str, int], ...]:
    default = _DEFAULT_SENTINEL_PORT if kind == "sentinel" else _DEFAULT_PORT
    hosts = text.split(",")
    if kind == "server" and len(hosts) > 1:
        raise ValueError("only redis+sentinel and redis+cluster have several hosts")
    return tuple(_host(each, default) for each in hosts)


def _host(text: str, default_port: int) -> tuple[str, int]:
    found = re.fullmatch(r"(?:\[([^\[\]]+)\]|([^:\[\]]+))(?::([0-9]{1,5}))?", text)
    if not found:
        raise ValueError("it has no host, or a port that is not a number")
    address, name, port = found.groups()
    number = default_port if port is None else int(port)
    if not 0 < number < 1 << 16:
        raise ValueError("its port is not from 1 to 65535")
    return address or unquote(name), number
