"""The settings: names, kinds, meanings, and every default, once, with its reason.

`load` reads the environment and a `.env` file, which the environment overrides, and reports all
problems at once. An empty variable counts as unset; blanks round a value do not count. Nothing
is written to `os.environ`, and no secret shows in a repr or in a problem.

How the values are used is not known here.
"""

import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import MISSING, Field, dataclass, field, fields
from io import StringIO
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, get_args
from urllib.parse import SplitResult, unquote, urlsplit

from dotenv.parser import Binding, parse_stream
from environs import Env, EnvValidationError, ValidationError, validate

from rustygate.core import log_levels
from rustygate.core.clients import Clients, ClientsError, read_clients
from rustygate.core.cors import read_origins
from rustygate.system import tls

KEY = "OPENAI_API_KEY"
KEY_FILE = "OPENAI_API_KEY_FILE"
ADMIN_KEY, ADMIN_KEY_FILE = "ADMIN_KEY", "ADMIN_KEY_FILE"
CLIENTS = "CLIENTS_FILE"

# Where systemd puts what LoadCredential names, and under which name the key is looked for there.
CREDENTIALS = "CREDENTIALS_DIRECTORY"
CREDENTIAL = "openai_api_key"

TLS_CERT, TLS_KEY = "TLS_CERT_FILE", "TLS_KEY_FILE"
TRUST_FILE = "SSL_CERT_FILE"
TRUST = (TRUST_FILE, "SSL_CERT_DIR")

# Secrets, and the variables that name a file which holds one instead.
FILES = {KEY: KEY_FILE, ADMIN_KEY: ADMIN_KEY_FILE}

# Known by both spellings, of which the lower one counts first (as urllib and curl have it).
PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")

# Keys and ids go into the head of each request; a longer file was named by mistake.
KEY_LIMIT = 4096

# A few hundred bytes a client; what is much larger was named by mistake.
_CLIENTS_SIZE = 16 << 20

# Below this length, a few characters shown would be too many.
_MASKABLE = 24
_MASKED = "*" * 8

# A value in a problem is cut here, so that its line can be read.
_SHOWN = 80

UNIX = "unix:"

# What the system has room for in a unix socket's address (unix(7)), less the byte after its end.
_SOCKET_PATH_LIMIT = 107 if sys.platform == "linux" else 103

# Thirty years. Far beyond, sums of nanoseconds no longer fit the loop's timers.
_LONGEST_S = 1_000_000_000


class ConfigError(Exception):
    """The configuration will not do; `problems` has a line for each reason."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Kind:
    """What values a setting takes.

    Args:
        expected: the same in words, to follow "expected".
        parser: the method of `_Env` that reads it.
        check: raises `ValidationError` for a value that could be read but will not do.
        unset: the word for None.
        secret: whether values are masked wherever they are shown.
        hide: what may be shown of one that is not.
    """

    expected: str
    parser: str
    check: Callable[[Any], Any] | None = None
    unset: str = "none"
    secret: bool = False
    hide: Callable[[str], str] = str


def _whole(least: int, most: int | None = None) -> Kind:
    limits = f"of {least} or more" if most is None else f"from {least} to {most}"
    return Kind(f"a whole number {limits}", "int", validate.Range(least, most))


def _seconds(*, zero: bool) -> Kind:
    limits = f"from 0 to {_LONGEST_S}" if zero else f"above 0, up to {_LONGEST_S}"
    check = validate.Range(0, _LONGEST_S, min_inclusive=zero)
    return Kind(f"a number of seconds {limits}", "float", check)


def _off_or_seconds() -> Kind:
    check = validate.Range(0, _LONGEST_S, min_inclusive=False)
    return Kind(f"a number of seconds above 0, up to {_LONGEST_S}, or off", "lapse", check, "off")


def _id_of(what: str) -> Kind:
    return Kind(f"{what}'s id: visible ASCII characters, no blanks", "str", _check_header_value)


# `\Z`, for `$` would let a newline pass.
_check_header_value = validate.Regexp(rf"[!-~]{{1,{KEY_LIMIT}}}\Z")


def _check_base_url(value: str) -> None:
    _url_parts(value)
    if re.search(r"[@?#]", value):
        raise ValidationError("no base URL")


def _check_proxy(value: str) -> None:
    parts = _url_parts(_with_scheme(value))
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if parts.path not in ("", "/") or re.search(r"[?#]", value) or ":" in user:
        raise ValidationError("no proxy")
    # What HTTP's basic authentication can carry without further words (RFC 7617, 2.1).
    if not (user + password).isascii():
        raise ValidationError("no credentials")


def _url_parts(value: str) -> SplitResult:
    """An http or https URL with a host, taken apart."""
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError as error:
        raise ValidationError("no URL") from error
    if not re.fullmatch(r"https?://[!-~]+", value, re.I) or port == 0:
        raise ValidationError("no URL")
    _check_address(parts.hostname or "")
    return parts


def _with_scheme(proxy: str) -> str:
    return proxy if "://" in proxy else f"http://{proxy}"


def _check_bind_address(value: str) -> None:
    if not value.startswith(UNIX):
        _check_address(value)
        return
    path = value.removeprefix(UNIX)
    sayable = path.startswith("/") and path.isprintable()
    if not sayable or len(os.fsencode(path)) > _SOCKET_PATH_LIMIT:
        raise ValidationError("no path for a socket")


def _check_address(value: str) -> None:
    """An IP address or a host name; a name that ends in a number is a broken address."""
    try:
        ip_address(value)
    except ValueError:
        label = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
        if not re.fullmatch(rf"({label}\.)*(?![0-9]+\Z){label}", value):
            raise ValidationError("no address") from None


def _check_origins(value: str) -> None:
    try:
        read_origins(value)
    except ValueError as error:
        raise ValidationError(str(error)) from error


def _check_rust_log(value: str) -> None:
    try:
        log_levels.levels(value)
    except ValueError as error:
        raise ValidationError(str(error)) from error


_KEY = Kind(
    f"OpenAI's key (visible ASCII characters, no blanks), or {KEY_FILE} with the path of a file "
    "that holds it; `rustygate demo` needs none",
    "str",
    _check_header_value,
    secret=True,
)
_ADMIN_KEY = Kind(
    f"a key of visible ASCII characters, no blanks, or {ADMIN_KEY_FILE} with the path of a file "
    "that holds it",
    "str",
    _check_header_value,
    secret=True,
)
_BASE_URL = Kind(
    "an http or https URL without query, fragment, user or password",
    "base_url",
    _check_base_url,
)
_ADDRESS = Kind(
    f"an IP address, a host name, or {UNIX} and an absolute path of at most "
    f"{_SOCKET_PATH_LIMIT} bytes",
    "str",
    _check_bind_address,
)
_FILE = Kind("the path of a file", "str")
_PROXY = Kind(
    "an http or https URL of a proxy, such as http://user:password@proxy.example.org:3128",
    "proxy",
    _check_proxy,
    hide=lambda url: without_password(url),
)
_HOSTS = Kind("host names", "str")
_DIRECTORY = Kind("the path of a directory", "str")
_ORIGINS = Kind(
    "origins such as https://app.example.org or http://localhost:3000, comma-separated, or *",
    "origins",
    _check_origins,
)
_RUST_LOG = Kind(
    "trace, debug, info, warn, error, off, or directives such as rustygate=info,other=debug",
    "str",
    _check_rust_log,
)
_LOG_FORMAT = Kind("text or json", "str", validate.OneOf(["text", "json"]))
_RATE = Kind(
    "a positive number of requests per second, or auto",
    "rate",
    validate.Range(0, min_inclusive=False),
    unset="auto",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the gate is told. Each field is its variable's name in lower case, and comes with
    its kind and its meaning; seconds are float, sizes are bytes."""

    openai_api_key: Annotated[
        str, _KEY, f"the upstream key; `{KEY_FILE}` reads it from a file instead"
    ] = field(repr=False)
    # The official SDKs' own default.
    openai_base_url: Annotated[
        str, _BASE_URL, "any OpenAI-compatible upstream; `/v1/X` here goes to `BASE/X`"
    ] = "https://api.openai.com/v1"
    openai_org_id: Annotated[
        str | None,
        _id_of("an organization"),
        "sent as `OpenAI-Organization` when the client sent none",
    ] = None
    openai_project_id: Annotated[
        str | None,
        _id_of("a project"),
        "sent as `OpenAI-Project` when the client sent none",
    ] = None
    # As the Rust one's: apps that point at it need no change.
    port: Annotated[int, _whole(0, 65535), "listening port; 0: the system chooses one"] = 8080
    # Whoever can connect spends the key, so nobody but this machine unless it is asked for.
    bind_address: Annotated[
        str, _ADDRESS, "address or host name to listen on, or `unix:/path` of a socket"
    ] = "127.0.0.1"
    # Behind loopback, a unix socket or a proxy nobody listens in.
    tls_cert_file: Annotated[
        str | None,
        _FILE,
        "a PEM file with the certificate, and those between it and its root, to serve HTTPS with",
    ] = None
    tls_key_file: Annotated[str | None, _FILE, "a PEM file with the certificate's key"] = None
    # A page in somebody's browser must not spend the key.
    cors_allow_origins: Annotated[
        tuple[str, ...] | None,
        _ORIGINS,
        "origins whose web pages may use the gate, comma-separated; `*`: any",
    ] = None
    # From the gate's own machine none is needed; from elsewhere nothing is shown without.
    admin_key: Annotated[
        str | None,
        _ADMIN_KEY,
        f"key that `/metrics` wants; `{ADMIN_KEY_FILE}` reads it from a file instead",
    ] = field(default=None, repr=False)
    # As the Rust one's.
    rust_log: Annotated[
        str,
        _RUST_LOG,
        "`trace`, `debug`, `info`, `warn`, `error`, `off`, or directives as "
        "`rustygate=info,other=debug` (ours counts)",
    ] = "debug"
    # Read by people first; collectors ask for JSON.
    log_format: Annotated[str, _LOG_FORMAT, "`text` or `json` (one object a line)"] = "text"
    # Whoever can connect is served, as the Rust one did.
    clients_file: Annotated[
        str | None,
        _FILE,
        "TOML file of the clients that may use the gate, with the hashes of their keys; read "
        "again on SIGHUP",
    ] = None
    # Both as the Rust one promised.
    rate_limit: Annotated[
        float | None,
        _RATE,
        "requests per second, any positive number; `auto`: no limit of the gate's own",
    ] = 10.0
    rate_limit_burst: Annotated[
        int, _whole(1), "requests that may go at once after a quiet time"
    ] = 20
    # Longer than a burst takes to pass, shorter than people and load balancers wait.
    rate_limit_timeout: Annotated[
        float, _seconds(zero=True), "seconds a request may wait for admission"
    ] = 30.0
    # Upstream's own limits are not known beforehand.
    tokens_per_minute: Annotated[int | None, _whole(1), "token budget over all models"] = None
    concurrency_limit: Annotated[int | None, _whole(1), "exchanges in flight upstream"] = None
    # A waiter costs a few kilobytes and a socket: this many are no trouble.
    queue_limit: Annotated[int, _whole(0), "requests that may wait for admission"] = 10_000
    # 256 MiB: what a small machine can spare.
    queue_bytes: Annotated[
        int,
        _whole(0),
        "bytes of request bodies held or read ahead; beyond, they wait in their sockets",
    ] = 256 << 20
    # A head sent early can only be 200; who needs that must say so.
    queue_keepalive_after: Annotated[
        float | None,
        _off_or_seconds(),
        "seconds of waiting after which a streaming request gets its 200 and keepalives while it "
        "queues",
    ] = None
    # Proxies and load balancers cut idle connections after 30 to 60 seconds.
    sse_keepalive_interval: Annotated[
        float, _seconds(zero=True), "idle seconds before a keepalive in a stream; 0 turns it off"
    ] = 15.0
    # Together 100 KiB a stream: some seconds of text, and a thousand streams in 100 MiB.
    sse_channel_capacity: Annotated[
        int, _whole(1), "messages that may wait for a slow client before upstream is paused"
    ] = 100
    sse_buffer_capacity: Annotated[
        int,
        _whole(1),
        "bytes reckoned per such message: a stream holds at most about CHANNEL x BUFFER bytes",
    ] = 1024
    # As QUEUE_LIMIT: who waits has a connection. One that idles costs some kilobytes.
    connection_limit: Annotated[
        int, _whole(1), "connections at a time, over all listeners; more get 503"
    ] = 10_000
    # 8 MiB: long conversations and a few images inline.
    max_buffered_body: Annotated[
        int,
        _whole(0),
        "request bodies up to this many bytes are held, so that they can be sent again; larger "
        "or multipart ones are streamed through",
    ] = 8 << 20
    # 512 MiB: OpenAI takes files of that size.
    max_body_size: Annotated[int, _whole(1), "larger request bodies get 413"] = 512 << 20
    # As many as the official SDKs make.
    upstream_retries: Annotated[
        int,
        _whole(0),
        "times a request is sent again: after no connection, a reset, or a 429 or overload that "
        "has room later",
    ] = 2
    # A healthy handshake takes well under a second; one lost packet is repeated within three.
    upstream_connect_timeout: Annotated[
        float, _seconds(zero=False), "seconds to connect to upstream"
    ] = 5.0
    # The official SDKs' own: reasoning models are silent for minutes.
    upstream_read_timeout: Annotated[
        float, _seconds(zero=False), "seconds of silence from upstream"
    ] = 600.0
    # As usual in the environment; without, upstream is asked directly.
    https_proxy: Annotated[
        str | None, _PROXY, "proxy for an upstream with `https`, by CONNECT"
    ] = field(default=None, repr=False)
    http_proxy: Annotated[str | None, _PROXY, "proxy for an upstream with `http`"] = field(
        default=None, repr=False
    )
    no_proxy: Annotated[
        str | None, _HOSTS, "hosts and domains to be asked directly, comma-separated; `*`: all"
    ] = None
    # The system's authorities suffice for public upstreams and need no list of ours.
    ssl_cert_file: Annotated[
        str | None, _FILE, "a PEM file of authorities to trust upstream by, beside the system's"
    ] = None
    ssl_cert_dir: Annotated[
        str | None, _DIRECTORY, "the same as a directory that `openssl rehash` has prepared"
    ] = None
    # Most answers end within it; what supervises the gate must wait longer than this.
    drain_timeout: Annotated[
        float, _seconds(zero=True), "seconds that SIGTERM gives exchanges in flight"
    ] = 30.0

    @property
    def stream_capacity(self) -> int:
        """Bytes that one stream may hold for a slow client."""
        return self.sse_channel_capacity * self.sse_buffer_capacity

    @property
    def proxy(self) -> str | None:
        """The proxy on the way to upstream, if there is one."""
        parts = urlsplit(self.openai_base_url)
        proxy = self.https_proxy if parts.scheme == "https" else self.http_proxy
        if proxy is None or self.no_proxy is None:
            return proxy
        # It takes long to import, and few need it. Requests relies on it too.
        from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

        port = parts.port or (443 if parts.scheme == "https" else 80)
        host = f"{parts.hostname}:{port}"
        return None if proxy_bypass_environment(host, {"no": self.no_proxy}) else proxy

    @property
    def socket_path(self) -> str | None:
        """The path of the unix socket to listen on, if it is one."""
        address = self.bind_address
        return address.removeprefix(UNIX) if address.startswith(UNIX) else None

    @property
    def open_to_others(self) -> bool:
        """Whether others than this machine may spend the key without one of their own."""
        return self.exposed and self.clients_file is None

    @property
    def exposed(self) -> bool:
        """Whether others than this machine may be able to connect."""
        if self.socket_path is not None:
            return False
        try:
            return not ip_address(self.bind_address).is_loopback
        except ValueError:
            return self.bind_address.lower() != "localhost"


@dataclass(frozen=True, slots=True)
class Variable:
    """A setting as documentation shows it; `default` is in the variable's own words."""

    name: str
    default: str
    meaning: str


def variables() -> Iterator[Variable]:
    """All settings, in the order of the README's table."""
    for setting in fields(Settings):
        kind, meaning = _about(setting)
        required = setting.default is MISSING
        default = "required" if required else _written(kind, setting.default)
        yield Variable(setting.name.upper(), default, meaning)


def describe(settings: Settings) -> Iterator[tuple[str, str]]:
    """Each variable with its value in force; secrets are masked."""
    for setting in fields(Settings):
        kind, _ = _about(setting)
        yield setting.name.upper(), _written(kind, getattr(settings, setting.name))


def limits(settings: Settings) -> Iterator[str]:
    """Which limits are in force, in a sentence each."""
    if settings.rate_limit is None:
        yield (
            "requests: none of the gate's own; before a model's first answer, "
            f"{settings.rate_limit_burst} of its requests in flight"
        )
    else:
        yield (
            f"requests: {settings.rate_limit:g} a second over all models, after a quiet time "
            f"{settings.rate_limit_burst} at once"
        )
    if settings.tokens_per_minute is not None:
        yield f"tokens: {settings.tokens_per_minute} a minute over all models"
    if settings.concurrency_limit is not None:
        yield f"in flight: {settings.concurrency_limit} exchanges"
    yield "each model's requests and tokens a minute: what upstream's answers tell"
    yield (
        f"waiting: {settings.queue_limit} requests, each for {settings.rate_limit_timeout:g} s or "
        "as long as its client waits, whichever is less"
    )


def load(environ: Mapping[str, str] | None = None, *, dotenv: Path | None = None) -> Settings:
    """The settings in `environ`, by default the process's, over those in the file `dotenv`.

    Values in the file are taken as written; nothing in them is expanded. A file that is not there
    is no problem. Raises ConfigError.
    """
    problems: list[str] = []
    given = _with_proxies(_read_dotenv(dotenv, problems) if dotenv else {})
    given |= _with_proxies(os.environ if environ is None else environ)
    given = {name: value.strip() for name, value in given.items() if value.strip()}
    _find_credential(given)
    for name in FILES:
        if FILES[name] in given:
            _take_key_from_file(given, name, problems)
    env = _Env(given)
    values = {setting.name: env.read(setting) for setting in fields(Settings)}
    problems += env.problems()
    problems += _tls_problems(given)
    if TRUST_FILE in given and (fault := tls.bundle_fault(given[TRUST_FILE])):
        problems.append(_wrong(given, TRUST_FILE, f"a PEM file of certificates ({fault})"))
    if CLIENTS in given:
        problems += _clients_problems(given)
    if problems:
        raise ConfigError(problems)
    return Settings(**values)


def read_clients_file(path: str) -> Clients:
    """The clients of a file. Raises ClientsError."""
    try:
        # Opening a pipe would wait for who writes to it, and it can be read only once.
        if stat.S_ISFIFO(os.stat(path).st_mode):
            raise ClientsError(["expected a file that can be read again, no pipe"])
        with open(path, "rb") as file:
            text = file.read(_CLIENTS_SIZE + 1)
    except OSError as error:
        raise ClientsError([f"expected a readable file ({error.strerror})"]) from error
    # What is cut off may be clients, or the limits of one.
    if len(text) > _CLIENTS_SIZE:
        raise ClientsError([f"expected a file of at most {_CLIENTS_SIZE} bytes"])
    try:
        return read_clients(text.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ClientsError(["expected a file in UTF-8"]) from error


def _clients_problems(given: Mapping[str, str]) -> list[str]:
    try:
        read_clients_file(given[CLIENTS])
    except ClientsError as error:
        return [f"{CLIENTS}={_shown(given[CLIENTS])}: {each}" for each in error.problems]
    return []


class _Env(Env):
    """environs over a mapping of ours instead of `os.environ`, collecting what is wrong."""

    def __init__(self, given: Mapping[str, str]) -> None:
        super().__init__(eager=False)
        self._given = given

    def _get_value(self, env_key: str, default: Any) -> Any:
        return self._given.get(env_key, default)

    def read(self, setting: Field[Any]) -> Any:
        kind, _ = _about(setting)
        default = ... if setting.default is MISSING else setting.default
        return getattr(self, kind.parser)(setting.name.upper(), default, validate=kind.check)

    def base_url(self, name: str, default: str, **options: Any) -> str | None:
        url = self.str(name, default, **options)
        return url.rstrip("/") if url else None

    def proxy(self, name: str, default: str, **options: Any) -> str | None:
        url = self.str(name, default, **options)
        return _with_scheme(url) if url else None

    def origins(self, name: str, default: str, **options: Any) -> tuple[str, ...] | None:
        listed = self.str(name, default, **options)
        return read_origins(listed) if listed else None

    def rate(self, name: str, default: float, **options: Any) -> float | None:
        return self._float_or("auto", name, default, **options)

    def lapse(self, name: str, default: float | None, **options: Any) -> float | None:
        return self._float_or("off", name, default, **options)

    def _float_or(
        self, word: str, name: str, default: float | None, **options: Any
    ) -> float | None:
        if self._given.get(name, "").lower() == word:
            return None
        return self.float(name, default, **options)

    def problems(self) -> list[str]:
        """A line for each variable that was read in vain."""
        try:
            self.seal()
        except EnvValidationError as error:
            wrong = set(error.error_messages)
            # What is wrong with a key's file was said when it was read.
            wrong -= {name for name, file in FILES.items() if file in self._given}
            return [self._problem(each) for each in fields(Settings) if each.name.upper() in wrong]
        return []

    def _problem(self, setting: Field[Any]) -> str:
        name = setting.name.upper()
        kind, _ = _about(setting)
        if name not in self._given:
            return f"{name}: not set; expected {kind.expected}"
        value = _MASKED if kind.secret else _shown(kind.hide(self._given[name]))
        return f"{name}={value}: expected {kind.expected}"


def forget_secrets(environ: MutableMapping[str, str] = os.environ) -> None:
    """Take the secrets out of the environment once they are read: of what is printed, dumped or
    handed to another process, none holds them. What the kernel shows of a process's start (Linux:
    /proc/PID/environ) stays as it was."""
    for setting in fields(Settings):
        kind, _ = _about(setting)
        if kind.secret:
            environ.pop(setting.name.upper(), None)


def _find_credential(given: dict[str, str]) -> None:
    """Where no variable tells of the key, systemd's credential does, if there is one."""
    if CREDENTIALS not in given or given.keys() & {KEY, KEY_FILE}:
        return
    path = os.path.join(given[CREDENTIALS], CREDENTIAL)
    if os.path.exists(path):
        given[KEY_FILE] = path


def _take_key_from_file(given: dict[str, str], name: str, problems: list[str]) -> None:
    path = given[FILES[name]]
    shown = f"{FILES[name]}={_shown(path)}"
    if name in given:
        problems.append(f"{shown}: expected only one of {name} and {FILES[name]} to be set")
        return
    try:
        with open(path, "rb") as file:
            key = file.read(KEY_LIMIT + 5).decode("utf-8-sig").strip()
        _check_header_value(key)
    except (OSError, ValueError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it holds something else"
        problems.append(f"{shown}: expected the path of a file that holds one key ({reason})")
    else:
        given[name] = key


def _tls_problems(given: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with what HTTPS is to be served with."""
    cert, key = given.get(TLS_CERT), given.get(TLS_KEY)
    if cert is None or key is None:
        for name in given.keys() & {TLS_CERT, TLS_KEY}:
            yield _wrong(given, name, f"{TLS_CERT} and {TLS_KEY} to be set together")
        return
    if given.get("BIND_ADDRESS", "").startswith(UNIX):
        yield _wrong(given, TLS_CERT, "a BIND_ADDRESS that is no unix socket")
    cert_fault = tls.pem_fault(cert, tls.CERTIFICATE)
    key_fault = tls.pem_fault(key, tls.PRIVATE_KEY)
    if cert_fault:
        yield _wrong(given, TLS_CERT, f"the path of a PEM file with a certificate ({cert_fault})")
    if key_fault:
        yield _wrong(given, TLS_KEY, f"the path of a PEM file with a key ({key_fault})")
    if not cert_fault and not key_fault and (fault := tls.pair_fault(cert, key)):
        yield _wrong(
            given, TLS_KEY, f"the key of {TLS_CERT}'s certificate, not encrypted ({fault})"
        )


def _wrong(given: Mapping[str, str], name: str, expected: str) -> str:
    return f"{name}={_shown(given[name])}: expected {expected}"


def _with_proxies(given: Mapping[str, str]) -> dict[str, str]:
    """With the proxies' variables under one spelling."""
    lower = {name: given[name.lower()] for name in PROXIES if name.lower() in given}
    return {**given, **lower}


def _read_dotenv(path: Path, problems: list[str]) -> dict[str, str]:
    try:
        text = path.read_text("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        # Some keep a virtual environment there.
        return {}
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        problems.append(f"{path}: expected a readable file of NAME=value lines ({reason})")
        return {}
    values = {}
    for binding in parse_stream(StringIO(text)):
        if binding.key is not None and binding.value is not None:
            values[binding.key] = binding.value
        elif binding.error or binding.key is not None:
            problems.append(f"{path} line {_line(binding)}: expected NAME=value")
    return values


def _line(binding: Binding) -> int:
    """A binding's line; what the parser tells is where the blank lines before it begin."""
    text = binding.original.string
    return binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")


def mask(secret: str) -> str:
    """A secret as it may be shown: its owner may know it again, and nobody else learns it."""
    return f"{secret[:3]}...{secret[-4:]}" if len(secret) >= _MASKABLE else _MASKED


def without_password(url: str) -> str:
    """A URL as it may be shown, or what was meant to be one."""
    return re.sub(r"^(\w+://)?.*@", rf"\1{_MASKED}@", url, flags=re.S)


def _shown(value: str) -> str:
    """A value in a problem: on one line, without what a URL may hide or a key put there."""
    value = re.sub(r"//[^/]*@", f"//{_MASKED}@", value)
    value = re.sub(r"(//.*?[?#]).*", rf"\1{_MASKED}", value, flags=re.S)
    value = re.sub(r"sk-\S+", _MASKED, value)
    return ascii(value if len(value) <= _SHOWN else value[:_SHOWN] + "...")


def _about(setting: Field[Any]) -> tuple[Kind, str]:
    kind, meaning = get_args(setting.type)[1:]
    return kind, meaning


def _written(kind: Kind, value: Any) -> str:
    """A value as its variable would say it."""
    if value is None:
        return kind.unset
    if kind.secret:
        return mask(value)
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value).removesuffix(".0") if isinstance(value, float) else kind.hide(str(value))
