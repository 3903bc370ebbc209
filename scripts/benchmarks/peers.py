"""Who is measured beside the gate, and how each is installed and started.

Versions stand here, so that a run can be repeated. Installed is only what `--peers` asks for,
each in a folder of its own in the user's cache. Access logs are as each has them by default.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import which

from scripts.benchmarks.load import Failed

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rustygate-bench"

LIMITERS = ("aiolimiter==1.3.0", "pyrate-limiter==4.5.1", "throttled-py==3.5.0")


@dataclass(frozen=True, slots=True)
class Start:
    """How a proxy is started before an upstream; `headers` are what it wants of a request."""

    command: tuple[str, ...]
    environ: Mapping[str, str]
    headers: str = ""


@dataclass(frozen=True, slots=True)
class Peer:
    """A proxy of somebody else's.

    `install` fills its folder and raises Failed; `start` takes that folder, the port to listen on
    and upstream's URL.
    """

    name: str
    version: str
    install: Callable[[Path], None]
    start: Callable[[Path, int, str], Start]
    any_path: bool = False


def run(*command: str) -> None:
    """Run an installer. Raises Failed with the last thing it said."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(f"{command[0]}: {error}") from error
    if done.returncode:
        last = (done.stderr or done.stdout).strip().rpartition("\n")[2]
        raise Failed(f"not installed: {last[:200]}")


def once(home: Path, version: str, install: Callable[[Path], None]) -> None:
    """Install into a folder, unless that version is there already."""
    stamp = home / "installed"
    if stamp.exists() and stamp.read_text() == version:
        return
    home.mkdir(parents=True, exist_ok=True)
    install(home)
    stamp.write_text(version)


def in_environment(*requirements: str) -> Callable[[Path], None]:
    """Installs packages of PyPI into an environment of their own."""

    def install(home: Path) -> None:
        run(sys.executable, "-m", "venv", "--clear", str(home / "venv"))
        run(str(home / "venv/bin/python"), "-m", "pip", "--quiet", "install", *requirements)

    return install


def install_limiters() -> Path:
    """The limiters that admission is compared with, in a folder to be imported from."""

    def install(home: Path) -> None:
        target = str(home / "packages")
        run(sys.executable, "-m", "pip", "--quiet", "install", "--target", target, *LIMITERS)

    once(CACHE / "limiters", " ".join(LIMITERS), install)
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
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        location / {{
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


def nginx() -> str:
    found = which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        raise Failed("not installed (Debian, Ubuntu: apt install nginx-light)")
    return found


def start_nginx(home: Path, port: int, upstream: str) -> Start:
    user = "root" if os.geteuid() == 0 else "nobody"
    address = upstream.removeprefix("http://")
    settings = NGINX.format(home=home, port=port, upstream=address, user=user)
    (home / "nginx.conf").write_text(settings)
    return Start((nginx(), "-p", str(home), "-c", str(home / "nginx.conf")), {})


LITELLM = "litellm[proxy]==1.108.7"
LITELLM_CONFIG = """model_list:
  - model_name: gpt-4o
    litellm_params: {{model: openai/gpt-4o, api_base: "{upstream}/v1", api_key: sk-bench}}
litellm_settings: {{telemetry: false}}
general_settings: {{master_key: sk-bench}}
"""


def start_litellm(home: Path, port: int, upstream: str) -> Start:
    settings = home / "config.yaml"
    settings.write_text(LITELLM_CONFIG.format(upstream=upstream))
    command = ("--config", str(settings), "--host", "127.0.0.1", "--port", str(port))
    environ = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION"}
    path = f"{home / 'venv/bin'}:{os.environ['PATH']}"
    return Start((str(home / "venv/bin/litellm"), *command), environ | {"PATH": path})


PORTKEY = "@portkey-ai/gateway@1.15.2"


def install_portkey(home: Path) -> None:
    run("npm", "install", "--no-audit", "--no-fund", "--prefix", str(home), PORTKEY)


def start_portkey(home: Path, port: int, upstream: str) -> Start:
    server = home / "node_modules/@portkey-ai/gateway/build/start-server.js"
    headers = f"x-portkey-provider: openai\r\nx-portkey-custom-host: {upstream}/v1\r\n"
    command = ("node", str(server), "--headless", f"--port={port}")
    return Start(command, {"NODE_ENV": "production"}, headers)


FORWARD = "openai-forward==0.8.1"


def start_forward(home: Path, port: int, upstream: str) -> Start:
    route = f'[{{"base_url":"{upstream}","route":"/","type":"openai"}}]'
    command = (str(home / "venv/bin/openai-forward"), "run", f"--port={port}")
    return Start(command, {"FORWARD_CONFIG": route})


PEERS = (
    Peer("nginx", "of the system", lambda home: None, start_nginx, any_path=True),
    Peer("LiteLLM", LITELLM, in_environment(LITELLM), start_litellm),
    Peer("Portkey", PORTKEY, install_portkey, start_portkey),
    Peer("openai-forward", FORWARD, in_environment(FORWARD, "PyYAML"), start_forward),
)
