"""The settings: names, kinds, meanings, and every default, once, with its reason."""

from dataclasses import Field, dataclass, field
from ipaddress import ip_address
from typing import Annotated, Any, get_args
from urllib.parse import urlsplit

from rustygate.config import kinds
from rustygate.config.kinds import ADMIN_KEY_FILE, KEY_FILE, UNIX, Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the gate is told. Each field is its variable's name in lower case, and comes with
    its kind and its meaning; seconds are float, sizes are bytes."""

    openai_api_key: Annotated[
        str, kinds.UPSTREAM_KEY, f"the upstream key; `{KEY_FILE}` reads it from a file instead"
    ] = field(repr=False)
    # The official SDKs' own default.
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
    # As the Rust one's: apps that point at it need no change.
    port: Annotated[int, kinds.whole(0, 65535), "listening port; 0: the system chooses one"] = 8080
    # Whoever can connect spends the key, so nobody but this machine unless it is asked for.
    bind_address: Annotated[
        str, kinds.ADDRESS, "address or host name to listen on, or `unix:/path` of a socket"
    ] = "127.0.0.1"
    # Behind loopback, a unix socket or a proxy nobody listens in.
    tls_cert_file: Annotated[
        str | None,
        kinds.FILE,
        "a PEM file with the certificate, and those between it and its root, to serve HTTPS with",
    ] = None
    tls_key_file: Annotated[str | None, kinds.FILE, "a PEM file with the certificate's key"] = None
    # A page in somebody's browser must not spend the key.
    cors_allow_origins: Annotated[
        tuple[str, ...] | None,
        kinds.ORIGINS,
        "origins whose web pages may use the gate, comma-separated; `*`: any",
    ] = None
    # From the gate's own machine none is needed; from elsewhere nothing is shown without.
    admin_key: Annotated[
        str | None,
        kinds.ADMIN,
        f"key that `/metrics` wants; `{ADMIN_KEY_FILE}` reads it from a file instead",
    ] = field(default=None, repr=False)
    # As the Rust one's.
    rust_log: Annotated[
        str,
        kinds.RUST_LOG,
        "`trace`, `debug`, `info`, `warn`, `error`, `off`, or directives as "
        "`rustygate=info,other=debug` (ours counts)",
    ] = "debug"
    # Read by people first; collectors ask for JSON.
    log_format: Annotated[str, kinds.LOG_FORMAT, "`text` or `json` (one object a line)"] = "text"
    # Whoever can connect is served, as the Rust one did.
    clients_file: Annotated[
        str | None,
        kinds.FILE,
        "TOML file of the clients that may use the gate, with the hashes of their keys; read "
        "again on SIGHUP",
    ] = None
    # Both as the Rust one promised.
    rate_limit: Annotated[
        float | None,
        kinds.RATE,
        "requests per second, any positive number; `auto`: no limit of the gate's own",
    ] = 10.0
    rate_limit_burst: Annotated[
        int, kinds.whole(1), "requests that may go at once after a quiet time"
    ] = 20
    # Longer than a burst takes to pass, shorter than people and load balancers wait.
    rate_limit_timeout: Annotated[
        float, kinds.seconds(zero=True), "seconds a request may wait for admission"
    ] = 30.0
    # Upstream's own limits are not known beforehand.
    tokens_per_minute: Annotated[int | None, kinds.whole(1), "token budget over all models"] = None
    concurrency_limit: Annotated[int | None, kinds.whole(1), "exchanges in flight upstream"] = None
    # A waiter costs a few kilobytes and a socket: this many are no trouble.
    queue_limit: Annotated[int, kinds.whole(0), "requests that may wait for admission"] = 10_000
    # 256 MiB: what a small machine can spare.
    queue_bytes: Annotated[
        int,
        kinds.whole(0),
        "bytes of request bodies held or read ahead; beyond, they wait in their sockets",
    ] = 256 << 20
    # A head sent early can only be 200; who needs that must say so.
    queue_keepalive_after: Annotated[
        float | None,
        kinds.seconds_or_off(),
        "seconds of waiting after which a streaming request gets its 200 and keepalives while it "
        "queues",
    ] = None
    # Proxies and load balancers cut idle connections after 30 to 60 seconds.
    sse_keepalive_interval: Annotated[
        float,
        kinds.seconds(zero=True),
        "idle seconds before a keepalive in a stream; 0 turns it off",
    ] = 15.0
    # Together 100 KiB a stream: some seconds of text, and a thousand streams in 100 MiB.
    sse_channel_capacity: Annotated[
        int, kinds.whole(1), "messages that may wait for a slow client before upstream is paused"
    ] = 100
    sse_buffer_capacity: Annotated[
        int,
        kinds.whole(1),
        "bytes reckoned per such message: a stream holds at most about CHANNEL x BUFFER bytes",
    ] = 1024
    # As QUEUE_LIMIT: who waits has a connection. One that idles costs some kilobytes.
    connection_limit: Annotated[
        int, kinds.whole(1), "connections at a time, over all listeners; more get 503"
    ] = 10_000
    # 8 MiB: long conversations and a few images inline.
    max_buffered_body: Annotated[
        int,
        kinds.whole(0),
        "request bodies up to this many bytes are held, so that they can be sent again; larger "
        "or multipart ones are streamed through",
    ] = 8 << 20
    # 512 MiB: OpenAI takes files of that size.
    max_body_size: Annotated[int, kinds.whole(1), "larger request bodies get 413"] = 512 << 20
    # As many as the official SDKs make.
    upstream_retries: Annotated[
        int,
        kinds.whole(0),
        "times a request is sent again: after no connection, a reset, or a 429 or overload that "
        "has room later",
    ] = 2
    # A healthy handshake takes well under a second; one lost packet is repeated within three.
    upstream_connect_timeout: Annotated[
        float, kinds.seconds(zero=False), "seconds to connect to upstream"
    ] = 5.0
    # The official SDKs' own: reasoning models are silent for minutes.
    upstream_read_timeout: Annotated[
        float, kinds.seconds(zero=False), "seconds of silence from upstream"
    ] = 600.0
    # As usual in the environment; without, upstream is asked directly.
    https_proxy: Annotated[
        str | None, kinds.PROXY, "proxy for an upstream with `https`, by CONNECT"
    ] = field(default=None, repr=False)
    http_proxy: Annotated[str | None, kinds.PROXY, "proxy for an upstream with `http`"] = field(
        default=None, repr=False
    )
    no_proxy: Annotated[
        str | None,
        kinds.HOSTS,
        "hosts and domains to be asked directly, comma-separated; `*`: all",
    ] = None
    # The system's authorities suffice for public upstreams and need no list of ours.
    ssl_cert_file: Annotated[
        str | None,
        kinds.FILE,
        "a PEM file of authorities to trust upstream by, beside the system's",
    ] = None
    ssl_cert_dir: Annotated[
        str | None, kinds.DIRECTORY, "the same as a directory that `openssl rehash` has prepared"
    ] = None
    # Most answers end within it; what supervises the gate must wait longer than this.
    drain_timeout: Annotated[
        float, kinds.seconds(zero=True), "seconds that SIGTERM gives exchanges in flight"
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


def about(setting: Field[Any]) -> tuple[Kind, str]:
    kind, meaning = get_args(setting.type)[1:]
    return kind, meaning
