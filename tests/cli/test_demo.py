"""`rustygate demo`: a gate in front of a simulator, without a key."""

import json
import os
import shlex
import socket
from pathlib import Path
from typing import Any

from tests.cli.processes import SECRET, connect, get
from tests.conftest import Start
from tests.support.certificates import Authority


def test_demo_ignores_the_configured_key_and_upstream(start: Start, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("OPENAI_API_KEY_FILE=missing\nOPENAI_BASE_URL=nowhere\n")
    settings = {"RATE_LIMIT": "7", "RUST_LOG": "info"}
    settings |= {"http_proxy": "http://127.0.0.1:1", "SSL_CERT_FILE": "missing"}
    demo = start("demo", OPENAI_API_KEY=SECRET, PORT="0", **settings)
    assert "No key is needed" in demo.stdout.readline()
    url = demo.wait_for_line(demo.stdout, r"curl (\S+)/v1/")[1]
    simulator = demo.wait_for_line(demo.stdout, r"(http://127\.0\.0\.1:\d+)/simulator/stats")[1]
    assert demo.wait_for_line(demo.stderr, r"rate_limit=(\S+)")[1] == "7.0"
    client = connect(url)
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
    client.request(
        "POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"}
    )
    completion: dict[str, Any] = json.load(client.getresponse())
    assert completion["choices"][0]["message"]["content"]
    client.close()
    stats = get(simulator, "/simulator/stats")[1].decode()
    assert "/v1/chat/completions" in stats
    assert SECRET[-4:] not in stats


def test_banner_of_the_demo_comes_before_log_lines(start: Start) -> None:
    demo = start("demo", PORT="0", options={"preexec_fn": lambda: os.dup2(1, 2)})
    assert demo.stdout.readline().startswith("RustyGate demo. ")
    banner = list(iter(demo.stdout.readline, "Press Ctrl-C to stop.\n"))
    assert not any("listening" in line for line in banner)
    assert demo.stdout.readline() == "\n"
    assert "listening" in demo.stdout.readline()


def test_demo_over_tls_prints_an_https_url(start: Start, authority: Authority) -> None:
    demo = start("demo", PORT="0", **authority.issue("localhost"))
    assert demo.wait_for_line(demo.stdout, r"curl (\S+)/v1/")[1].startswith("https://127.0.0.1:")


def test_demo_on_a_unix_socket_prints_a_curl_command_for_it(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "the gate.sock"
    demo = start("demo", BIND_ADDRESS=f"unix:{path}")
    line = demo.wait_for_line(demo.stdout, r"(curl .*/v1/chat/completions) ")[1]
    assert shlex.split(line) == [
        *("curl", "--unix-socket", str(path)),
        "http://localhost/v1/chat/completions",
    ]
    assert start("health", f"unix:{path}").ended() == (0, "OK\n", "")


def test_demo_reports_bad_configuration_like_the_gate(start: Start) -> None:
    code, _, stderr = start("demo", RATE_LIMIT="x").ended()
    assert code == 2
    assert stderr.startswith("rustygate: RATE_LIMIT='x': expected ")


def test_demo_traffic_reports_each_clients_waits(start: Start) -> None:
    demo = start("demo", "--traffic", PORT="0", RATE_LIMIT="20", RATE_LIMIT_BURST="1")
    clients = ("hog", "chat", "batch")
    line = r".*\| ".join(rf"{client} +\d+ served" for client in clients)
    demo.wait_for_line(demo.stdout, f"^{line}")
    served = demo.wait_for_line(
        demo.stdout, r"^hog +(\d+) served, waited .* chat .*batch +(\d+) served"
    )
    assert int(served[1]) >= int(served[2])
    demo.signal()
    code, _, stderr = demo.ended()
    assert (code, stderr) == (0, "")


def test_demo_reports_a_port_in_use(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, stdout, stderr = start("demo", PORT=str(taken.getsockname()[1])).ended()
    assert (code, stdout) == (1, "")
    assert stderr.endswith("Address already in use\n")
    assert stderr.count("\n") == 1
