"""Every setting: its kind, its meaning, and its default, once, with the reason for it.

To add a setting, add a field to `Settings`, and its row to docs/settings.md. Its variable is the
field's name in upper case.
"""

from dataclasses import Field, dataclass, field
from ipaddress import ip_address
from typing import Annotated, Any, get_args
from urllib.parse import urlsplit

from rustygate.config import kinds
from rustygate.config.kinds import UNIX_PREFIX, Kind
from rustygate.config.names import ADMIN_KEY_FILE, API_KEY_FILE, REDIS_URL_FILE
from rustygate.config.no_proxy import is_bypassed

# A deployment with a Redis of its own needs no other name.
DEFAULT_GROUP = "rustygate"

# aiohttp's parser counts up to 2 GiB; it gets a quarter of a stream's capacity.
_STREAM_CAPACITY_LIMIT = 1 << 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The configuration. Each field is annotated with its type, its kind and its meaning.

    Durations are float seconds, sizes are bytes.
    """

    openai_api_key: Annotated[
        str, kinds.API_KEY, f"the upstream key; `{API_KEY_FILE}` reads it from a file instead"
    ] = field(repr=False)
    # The default of the official SDKs.
    openai_base_url: Annotated[
        str, kinds.BASE_URL, "any OpenAI-compatible upstream; `/v1/X` here goes to `BASE/X`"
    ] = "https://api.openai.com/v1"
    openai_org_id: Annotated[
        str | None,
        kinds.id_of("an organization"),
        "sent as `OpenAI-Organization` when the client sent none",
    ] = None
    openai_project_id: Annotated[
        str | None,
        kinds.id_of("a project"),
        "sent as `OpenAI-Project` when the client sent none",
    ] = None
    # The Rust program's default: apps that point at it need no change.
    port: Annotated[
        int, kinds.whole_number(0, 65535), "listening port; 0: the system chooses a free one"
    ] = 8080
    # Any client that can connect uses the key, so other machines must be admitted explicitly.
    bind_address: Annotated[
        str, kinds.BIND_ADDRESS, "IP address or host name to listen on, or `unix:/path`"
    ] = "127.0.0.1"
    # Loopback, unix sockets and connections from a reverse proxy need no encryption.
    tls_cert_file: Annotated[
        str | None,
        kinds.FILE,
        "PEM file with the certificate and its intermediates; with `TLS_KEY_FILE`, the gate "
        "serves HTTPS; SIGHUP reloads both",
    ] = None
    tls_key_file: Annotated[
        str | None, kinds.FILE, "PEM file with the certificate's private key, not encrypted"
    ] = None
    # A web page in a user's browser must not use the key.
    cors_allow_origins: Annotated[
        tuple[str, ...] | None,
        kinds.ORIGINS,
        "comma-separated origins whose web pages may use the gate; `*`: any",
    ] = None
    # Without a key, the admin pages are served to the gate's own machine only.
    admin_key: Annotated[
        str | None,
        kinds.ADMIN_KEY,
        "key required for `/metrics` and `/gate`; "
        f"`{ADMIN_KEY_FILE}` reads it from a file instead",
    ] = field(default=None, repr=False)
    # The Rust program's default.
    rust_log: Annotated[
        str,
        kinds.RUST_LOG,
        "`trace`, `debug`, `info`, `warn`, `error`, `off`, or directives such as "
        "`rustygate=info,other=debug`; those for other programs are ignored",
    ] = "debug"
    # People read logs first; collectors can be given JSON.
    log_format: Annotated[str, kinds.LOG_FORMAT, "`text` or `json` (one object per line)"] = "text"
    # As in the Rust program, any client that can connect is served.
    clients_file: Annotated[
        str | None,
        kinds.FILE,
        "TOML file with the clients that may use the gate and the hashes of their keys; SIGHUP "
        "reloads it",
    ] = None
    # The price list that comes with the gate has the prices of most models.
    prices_file: Annotated[
        str | None,
        kinds.FILE,
        "TOML file with your own prices per model; they take precedence over the price list",
    ] = None
    # Both as documented for the Rust program.
    rate_limit: Annotated[
        float | None,
        kinds.RATE,
        "requests per second, any positive number; `auto`: only the limits that upstream reports",
    ] = 10.0
    rate_limit_burst: Annotated[
        int, kinds.count(1), "requests that may be sent at once after an idle period"
    ] = 20
    # Longer than a burst takes to clear, shorter than people and load balancers wait.
    rate_limit_timeout: Annotated[
        float, kinds.seconds(zero=True), "seconds a request may wait for admission"
    ] = 30.0
    # Upstream's limits are not known in advance.
    tokens_per_minute: Annotated[int | None, kinds.count(1), "token budget over all models"] = None
    concurrency_limit: Annotated[
        int | None, kinds.count(1), "maximum number of exchanges in flight upstream"
    ] = None
    # A waiter costs a few kilobytes and a socket, so this many are affordable.
    queue_limit: Annotated[
        int, kinds.count(0), "maximum number of requests waiting for admission"
    ] = 10_000
    # 256 MiB: what a small machine can spare.
    queue_bytes: Annotated[
        int,
        kinds.size(0),
        "maximum bytes of buffered request bodies; further bodies stay in their sockets",
    ] = 256 << 20
    # The head of an early response can only be a 200, so clients must opt in.
    queue_keepalive_after: Annotated[
        float | None,
        kinds.seconds_or_off(),
        "seconds without a response, queued or at upstream, after which a streaming request "
        "gets its 200 and keepalives",
    ] = None
    # Proxies and load balancers close idle connections after 30 to 60 seconds.
    sse_keepalive_interval: Annotated[
        float,
        kinds.seconds(zero=True),
        "idle seconds before a keepalive in a stream, or a ping in a WebSocket; 0 turns both off",
    ] = 15.0
    # Together 100 KiB per stream: some seconds of text, and a thousand streams in 100 MiB.
    sse_channel_capacity: Annotated[
        int,
        kinds.count(1),
        "messages that may wait for a slow client before upstream is paused",
    ] = 100
    sse_buffer_capacity: Annotated[
        int,
        kinds.size(1),
        "bytes counted per such message: a stream buffers at most about CHANNEL x BUFFER bytes",
    ] = 1024
    # As many as QUEUE_LIMIT: each waiter has a connection. An idle one costs a few kilobytes.
    connection_limit: Annotated[
        int,
        kinds.count(1),
        "maximum number of open connections, over all listeners; beyond it the longest idle one "
        "is closed, and if none is idle the new one gets 503",
    ] = 10_000
    # 8 MiB: long conversations and a few inline images.
    max_buffered_body: Annotated[
        int,
        kinds.size(0),
        "request bodies up to this many bytes are buffered, forms too, so that they can be read, "
        "counted and sent again; larger bodies are streamed",
    ] = 8 << 20
    # 512 MiB: the largest file that OpenAI accepts.
    max_body_size: Annotated[
        int, kinds.size(1), "request bodies above this many bytes get 413"
    ] = 512 << 20
    # As many as the official SDKs make.
    upstream_retries: Annotated[
        int,
        kinds.whole_number(0),
        "retries of a GET, HEAD, PUT, DELETE or OPTIONS request that upstream left without a "
        "response; other requests are not sent again, and waiting out a 429 is not counted",
    ] = 2
    # A healthy handshake takes well under a second, a lost packet is resent within three, and most
    # servers restart within five.
    upstream_connect_timeout: Annotated[
        float,
        kinds.seconds(zero=False),
        "seconds to connect to upstream; failed connections are tried again within them",
    ] = 5.0
    # The official SDKs' default: reasoning models are silent for minutes.
    upstream_read_timeout: Annotated[
        float,
        kinds.seconds(zero=False),
        "seconds that upstream may be silent, or the client's own read timeout if that is longer",
    ] = 600.0
    # The usual variables; without them the gate connects to upstream directly.
    https_proxy: Annotated[
        str | None, kinds.PROXY, "proxy for an `https` upstream, reached through CONNECT"
    ] = field(default=None, repr=False)
    http_proxy: Annotated[str | None, kinds.PROXY, "proxy for an `http` upstream"] = field(
        default=None, repr=False
    )
    no_proxy: Annotated[
        str | None,
        kinds.HOSTS,
        "comma-separated hosts, domains and CIDR blocks to reach without a proxy; `*`: all",
    ] = None
    # The system's certificate authorities are enough for public upstreams.
    ssl_cert_file: Annotated[
        str | None,
        kinds.FILE,
        "PEM file of certificate authorities to trust for upstream and Redis, besides the "
        "system's",
    ] = None
    ssl_cert_dir: Annotated[
        str | None, kinds.DIRECTORY, "directory of such files, prepared with `openssl rehash`"
    ] = None
    # Without a directory, nothing is written to the disk.
    data_dir: Annotated[
        str | None,
        kinds.DATA_DIRECTORY,
        "directory in which usage and the levels of limits are kept over restarts; each gate "
        "needs its own",
    ] = None
    # A single gate needs no Redis.
    redis_url: Annotated[
        str | None,
        kinds.REDIS_URL,
        "`redis://`, `rediss://` or `unix://` of a Redis or Valkey: gates that name it share one "
        f"quota; `{REDIS_URL_FILE}` reads it from a file instead",
    ] = field(default=None, repr=False)
    gate_group: Annotated[
        str, kinds.GROUP, "which gates share: the same name at the same Redis"
    ] = DEFAULT_GROUP
    # One process serves what most organisations send; see docs/scaling.md.
    workers: Annotated[
        int | None,
        kinds.WORKERS,
        "processes that serve clients, with one quota and one queue; `auto`: one per core",
    ] = 1
    # Most responses end within it. A service manager must wait longer than this.
    drain_timeout: Annotated[
        float,
        kinds.seconds(zero=True),
        "seconds that exchanges in flight get to finish after SIGTERM",
    ] = 30.0

    @property
    def stream_capacity(self) -> int:
        """The bytes that one stream may buffer for a slow client."""
        return min(self.sse_channel_capacity * self.sse_buffer_capacity, _STREAM_CAPACITY_LIMIT)

    @property
    def proxy(self) -> str | None:
        """The proxy between the gate and upstream, if any."""
        parts = urlsplit(self.openai_base_url)
        proxy = self.https_proxy if parts.scheme == "https" else self.http_proxy
        if proxy is None or self.no_proxy is None:
            return proxy
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return None if is_bypassed(parts.hostname or "", port, self.no_proxy) else proxy

    @property
    def socket_path(self) -> str | None:
        """The path of the unix socket to listen on, or None for a TCP port."""
        address = self.bind_address
        return address.removeprefix(UNIX_PREFIX) if address.startswith(UNIX_PREFIX) else None

    @property
    def exposed(self) -> bool:
        """Whether other machines may be able to connect."""
        if self.socket_path is not None:
            return False
        try:
            return not ip_address(self.bind_address).is_loopback
        except ValueError:
            return self.bind_address.lower() != "localhost"


def kind_of(setting: Field[Any]) -> Kind:
    kind: Kind = get_args(setting.type)[1]
    return kind


def meaning_of(setting: Field[Any]) -> str:
    meaning: str = get_args(setting.type)[2]
    return meaning


def variable_of(setting: Field[Any]) -> str:
    return setting.name.upper()
