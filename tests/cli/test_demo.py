"""`rustygate demo`: a gate in front of a simulator, without a key."""

import json
import os
import pty
import re
import shlex
import socket
import termios
from pathlib import Path
from typing import Any

import pytest

from rustygate.cli.demo_table import Statistics
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
    assert demo.wait_for_line(demo.stdout, r"in a browser: (\S+)/gate$")[1] == url
    simulator = demo.wait_for_line(demo.stdout, r"(http://127\.0\.0\.1:\d+)/simulator/stats")[1]
    assert demo.wait_for_line(demo.stderr, r"rate_limit=(\S+)")[1] == "7.0"
    assert b"<title>RustyGate</title>" in get(url, "/gate")[1]
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
    assert max(len(line.rstrip("\n")) for line in banner) in range(70, 81)
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
    page = demo.wait_for_line(demo.stdout, r"as JSON: (curl .*)$")[1]
    assert shlex.split(page)[-2:] == [str(path), "http://localhost/gate/state"]
    assert start("health", f"unix:{path}").ended() == (0, "OK\n", "")


def test_demo_reports_bad_configuration_like_the_gate(start: Start) -> None:
    code, _, stderr = start("demo", RATE_LIMIT="x").ended()
    assert code == 2
    assert stderr.startswith("rustygate: RATE_LIMIT='x': expected ")


TRAFFIC = {"PORT": "0", "RATE_LIMIT": "20", "RATE_LIMIT_BURST": "1"}


def test_demo_traffic_introduces_its_clients_and_their_limits(start: Start) -> None:
    demo = start("demo", "--traffic", **TRAFFIC)
    demo.wait_for_line(demo.stdout, "^Three clients compete:$")
    lines = list(iter(demo.stdout.readline, "\n"))
    assert [line.split()[0] for line in lines] == ["hog", "chat", "batch"]
    assert lines[1] == (
        "  chat   class interactive, 2 requests at a time, 1 s apart, 30 tokens each\n"
    )
    assert demo.stdout.readline() == "for the limits of the gate:\n"
    assert demo.stdout.readline() == (
        "  requests: 20 per second over all models, 1 at once after an idle period\n"
    )


def test_demo_traffic_prints_each_second_a_row_per_client(start: Start) -> None:
    demo = start("demo", "--traffic", **TRAFFIC)
    demo.wait_for_line(demo.stdout, "^second client +class +served +waited s +longest s +failed ")
    rows = [demo.stdout.readline().split() for _ in range(6)]
    assert [row[:3] for row in rows] == [
        [second, *client]
        for second in ("1", "2")
        for client in (["hog", "default"], ["chat", "interactive"], ["batch", "batch"])
    ]
    hog, _, batch = ([int(rows[at][3]), int(rows[at + 3][3])] for at in range(3))
    assert sum(hog) > sum(batch)
    assert [int(row[7]) for row in rows[3:]] == [
        int(first[3]) + int(second[3]) for first, second in zip(rows[:3], rows[3:], strict=True)
    ]
    assert 98 <= sum(int(row[8].rstrip("%")) for row in rows[3:]) <= 102
    demo.signal()
    code, stdout, stderr = demo.ended()
    assert (code, stderr) == (0, "")
    assert "\x1b" not in stdout


def test_demo_traffic_of_a_gate_with_workers_logs_no_exchanges(start: Start) -> None:
    demo = start("demo", "--traffic", WORKERS="2", **TRAFFIC)
    demo.wait_for_line(demo.stdout, r"^ *\d+ chat +interactive +[1-9]")
    demo.signal()
    code, _, stderr = demo.ended()
    assert code == 0
    assert "INFO" not in stderr


@pytest.mark.parametrize("no_color", ["", "1"])
def test_demo_traffic_redraws_its_table_on_a_terminal(start: Start, no_color: str) -> None:
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (25, 80))
    demo = start(
        *("demo", "--traffic"),
        options={"preexec_fn": lambda: os.dup2(slave, 1)},
        **TRAFFIC | {"TERM": "xterm", "NO_COLOR": no_color},
    )
    shown = b""
    with open(master, "rb", buffering=0) as terminal:
        while b"after 2 s" not in shown:
            shown += terminal.read(4096)
        demo.signal()
        assert demo.exit_code() == 0
    os.close(slave)
    table = shown.decode().partition("Three clients")[2].replace("\r\n", "\n")
    # On a busy machine, more tables may have been read.
    first, second, *_ = table.split("\x1b[5F\x1b[J")
    header = re.compile("client  class [^\x1b\n]*")
    for part in (first, second):
        rows = part[part.index(header.search(part)[0]) :].splitlines()  # type: ignore[index]
        assert [row.split()[0] for row in rows[:5]] == ["client", "hog", "chat", "batch", "after"]
        assert max(map(len, rows)) <= 80
    assert ("\x1b[2mclient" in table) is (no_color == "")


def test_row_shows_the_last_second_and_the_total() -> None:
    statistics = Statistics("chat", "interactive")
    for queued_ms in (100, 2000, 300):
        statistics.record(200, queued_ms)
    statistics.record(429, 0)
    assert statistics.row(12) == (
        "chat    interactive       3       0.3        2.0       1        3    25%"
    )
    statistics.record(399, 50)
    statistics.record(400, 70)
    statistics.record(503, 70)
    assert statistics.row(8, colored=True) == (
        "chat    interactive       1       0.1        0.1  \x1b[31m     2\x1b[0m        4    50%"
    )
    assert statistics.row(8) == (
        "chat    interactive       0         -          -       0        4    50%"
    )
    assert Statistics("hog", "default").row(0).split()[-2:] == ["0", "0%"]


def test_demo_reports_a_port_in_use(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, stdout, stderr = start("demo", PORT=str(taken.getsockname()[1])).ended()
    assert (code, stdout) == (1, "")
    assert stderr.endswith("Address already in use\n")
    assert stderr.count("\n") == 1
