"""`rustygate serve` as a process: what it prints, how it ends, and how it reacts to signals."""

import json
import os
import pty
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from loguru import logger

from rustygate.cli.gate_server import log_listening
from rustygate.config import load
from tests.cli.processes import SECRET, connect, get, in_flight, serve
from tests.conftest import Start
from tests.support.certificates import Authority
from tests.support.process import PROCESS_TIMEOUT_S, ROOT


def wait_for_waiter(url: str) -> None:
    """Until a request waits in the queue."""
    deadline = time.monotonic() + PROCESS_TIMEOUT_S
    while b'rustygate_waiters{class="default"} 1\n' not in get(url, "/metrics")[1]:
        assert time.monotonic() < deadline


def test_serve_logs_its_url_and_stops_cleanly(start: Start) -> None:
    gate = serve(start, LOG_FORMAT="json", RATE_LIMIT="3")
    line = json.loads(gate.stderr.readline())
    assert (line["level"], line["message"], line["rate_limit"]) == ("info", "listening", 3)
    assert line["upstream"] == "https://api.openai.com/v1"
    assert get(line["url"], "/health") == (200, b"OK")
    assert line["page"] == line["url"] + "/gate"
    assert get(line["url"], "/gate")[0] == 200
    gate.signal()
    code, stdout, stderr = gate.ended()
    assert (code, stdout) == (0, "")
    assert [json.loads(left)["message"] for left in stderr.splitlines()] == ["draining", "stopped"]


def test_stopped_reader_of_the_log_holds_up_no_request(start: Start) -> None:
    gate = serve(start, LOG_FORMAT="json")
    url = json.loads(gate.stderr.readline())["url"]
    connection = connect(url)
    # Their lines are longer than a pipe holds.
    for _ in range(500):
        connection.request("GET", f"/v1/{'x' * 150}", headers={"Origin": "https://page.example"})
        response = connection.getresponse()
        assert response.status == 403
        response.read()
    connection.close()
    gate.signal()
    code, _, stderr = gate.ended()
    assert code == 0
    lines = [json.loads(line) for line in stderr.splitlines()]
    assert [line["status"] for line in lines if line["message"] == "exchange"] == [403] * 500
    assert lines[-1]["message"] == "stopped"


@pytest.mark.parametrize("command", ["serve", "demo", "simulate"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_the_command_cleanly(
    start: Start, command: str, number: signal.Signals
) -> None:
    if command == "simulate":
        process = start("simulate", "--port", "0")
        process.wait_for_line(process.stdout, "Simulator listening on ")
    else:
        process = start(command, OPENAI_API_KEY=SECRET, PORT="0", RUST_LOG="info")
        process.listening_url()
    process.signal(number)
    code, _, stderr = process.ended()
    assert code == 0
    assert "Traceback" not in stderr


def test_key_is_removed_from_the_environment(tmp_path: Path) -> None:
    """A child process, here `env`, does not inherit it."""
    code = (
        "import os, subprocess, sys\n"
        "from contextlib import asynccontextmanager\n"
        "from rustygate.cli import gate_server, main\n"
        "@asynccontextmanager\n"
        "async def running_gate(settings, signals, *more, **options):\n"
        "    assert settings.openai_api_key\n"
        "    signals.put_nowait(15)\n"
        "    yield subprocess.run(['env'])\n"
        "gate_server.running_gate = running_gate\n"
        "sys.exit(main(['serve']) or 'OPENAI_API_KEY' in os.environ)"
    )
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OPENAI_API_KEY": SECRET}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environ, capture_output=True, text=True
    )
    assert (ended.returncode, SECRET in ended.stdout) == (0, False), ended.stderr


def test_serve_warns_when_other_machines_can_connect() -> None:
    lines: list[str] = []
    sink = logger.add(lines.append, format="{level} {message}")
    log_listening(
        load({"OPENAI_API_KEY": SECRET, "BIND_ADDRESS": "0.0.0.0"}),
        "http://0.0.0.0:8080",
        "in memory",
    )
    logger.remove(sink)
    assert [line.split()[:2] for line in lines] == [
        ["INFO", "listening"],
        ["WARNING", "BIND_ADDRESS=0.0.0.0"],
    ]


def test_serve_names_misspelt_variables_in_its_log(start: Start) -> None:
    gate = serve(start, RATE_LIMTI="3", OPENAI_BASE_URL="https://api.openai.com")
    gate.listening_url()
    line = gate.wait_for_line(gate.stderr, "WARN.* (RATE_LIMTI: did you mean RATE_LIMIT[?] .*)")[1]
    assert line.endswith("? It is set in the environment and has no effect")
    gate.wait_for_line(gate.stderr, "WARN.*OPENAI_BASE_URL=https://api.openai.com has no /v1")


@pytest.mark.parametrize("command", [["serve"], []], ids=["serve", "default"])
def test_flags_override_port_and_address(start: Start, tmp_path: Path, command: list[str]) -> None:
    (tmp_path / ".env").write_text("PORT=1\n")
    given = {"OPENAI_API_KEY": SECRET, "PORT": "2", "BIND_ADDRESS": "192.0.2.1"}
    gate = start(*command, "--port", "0", "--bind", "127.0.0.2", **given)
    assert gate.listening_url().startswith("http://127.0.0.2:")


def test_bad_flag_is_reported_like_the_setting(start: Start) -> None:
    gate = start("--port", "70000", OPENAI_API_KEY=SECRET)
    expected = "rustygate: PORT='70000': expected a whole number from 0 to 65535\n"
    assert gate.ended() == (2, "", expected)


def test_address_of_another_machine_is_a_one_line_error(start: Start) -> None:
    gate = serve(start, BIND_ADDRESS="192.0.2.1", PORT="8080")
    reason = "Cannot assign requested address"
    expected = f"rustygate: cannot listen on 192.0.2.1, port 8080: {reason}\n"
    assert gate.ended() == (1, "", expected)


def test_port_in_use_is_a_one_line_error(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        gate = serve(start, PORT=str(port))
        expected = f"rustygate: cannot listen on 127.0.0.1, port {port}: Address already in use\n"
        assert gate.ended() == (1, "", expected)


def test_health_accepts_the_gates_own_certificate_for_any_name(
    start: Start, authority: Authority
) -> None:
    files = authority.issue("gate.example.org")
    url = serve(start, None, **files).listening_url()
    assert url.startswith("https://127.0.0.1:")
    port = str(urlsplit(url).port)
    assert start("health", PORT=port, **files).ended() == (0, "OK\n", "")
    code, _, stderr = start("health", url).ended()
    assert code == 1
    assert stderr.startswith(f"rustygate: {url} does not respond: ")
    assert "certificate" in stderr
    assert start("health", f"http://127.0.0.1:{port}").exit_code() == 1


def test_missing_tls_key_is_a_one_line_error(start: Start, authority: Authority) -> None:
    files = authority.issue("gate.example.org") | {"TLS_KEY_FILE": "missing"}
    code, stdout, stderr = serve(start, None, **files).ended()
    assert (code, stdout) == (2, "")
    reason = "expected the path of a PEM file with a key (No such file or directory)"
    assert stderr == f"rustygate: TLS_KEY_FILE='missing': {reason}\n"


def test_unix_socket_is_served_and_removed_on_exit(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "gate.sock"
    gate = serve(start, BIND_ADDRESS=f"unix:{path}")
    assert gate.listening_url() == f"unix:{path}"
    gate.signal()
    code, _, stderr = gate.ended()
    assert code == 0
    assert "BIND_ADDRESS" not in stderr
    assert not path.exists()


def test_unix_socket_left_by_a_crash_is_replaced(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "gate.sock"
    crashed = serve(start, BIND_ADDRESS=f"unix:{path}")
    crashed.listening_url()
    crashed.signal(signal.SIGKILL)
    crashed.exit_code()
    assert path.is_socket()
    gate = serve(start, BIND_ADDRESS=f"unix:{path}")
    gate.listening_url()
    second = serve(start, BIND_ADDRESS=f"unix:{path}")
    reason = "another process is listening on it"
    assert second.ended() == (1, "", f"rustygate: cannot listen on unix:{path}: {reason}\n")
    assert start("health", f"unix:{path}").ended() == (0, "OK\n", "")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("file", "the path exists and is not a socket"),
        ("missing/gate.sock", "No such file or directory"),
    ],
)
def test_unusable_socket_path_is_a_one_line_error(
    start: Start, tmp_path: Path, path: str, reason: str
) -> None:
    (tmp_path / "file").write_text("precious")
    address = f"unix:{tmp_path / path}"
    expected = f"rustygate: cannot listen on {address}: {reason}\n"
    assert serve(start, BIND_ADDRESS=address).ended() == (1, "", expected)
    assert (tmp_path / "file").read_text() == "precious"


def test_proxy_is_used_and_its_password_never_logged(
    start: Start, upstream: socket.socket
) -> None:
    proxy = f"http://me:canary@127.0.0.1:{upstream.getsockname()[1]}"
    gate = serve(start, OPENAI_BASE_URL="https://upstream.test/v1", https_proxy=proxy)
    line = gate.stderr.readline()
    assert f" proxy=http://********@127.0.0.1:{upstream.getsockname()[1]} " in line
    client = connect(line.split("url=")[1].split(" ")[0])
    client.request("GET", "/v1/models")
    accepted, _ = upstream.accept()
    with accepted:
        assert accepted.recv(65536).startswith(b"CONNECT upstream.test:443 HTTP/1.1\r\n")
        accepted.sendall(b"HTTP/1.1 407 No\r\n\r\n")
        assert client.getresponse().status == 502
    client.close()
    gate.signal()
    code, _, stderr = gate.ended()
    assert code == 0
    assert "canary" not in line + stderr


def test_drain_lets_an_exchange_finish(start: Start, upstream: socket.socket) -> None:
    gate = serve(start, upstream)
    client, accepted = in_flight(gate.listening_url(), upstream)
    with accepted:
        gate.signal()
        gate.wait_for_line(gate.stderr, "draining")
        accepted.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")
        response = client.getresponse()
        assert (response.status, response.read()) == (200, b"done")
    client.close()
    code, _, stderr = gate.ended()
    assert code == 0
    assert "outcome=ok" in stderr


@pytest.mark.parametrize(("exchanges", "left"), [(1, "1 exchange left"), (2, "2 exchanges left")])
def test_drain_says_how_many_exchanges_are_left(
    start: Start, upstream: socket.socket, exchanges: int, left: str
) -> None:
    """A waiter, which is refused at once, does not count."""
    gate = serve(start, upstream, CONCURRENCY_LIMIT=str(exchanges))
    url = gate.listening_url()
    clients, sockets = zip(*(in_flight(url, upstream) for _ in range(exchanges)), strict=True)
    waiter = connect(url)
    waiter.request("GET", "/v1/models")
    wait_for_waiter(url)
    gate.signal(signal.SIGINT)
    line = gate.wait_for_line(gate.stderr, "draining.*")[0]
    assert line == f"draining: {left}, for up to 30 s; a second signal stops now"
    gate.signal(signal.SIGINT)
    assert gate.exit_code() == 0
    for each in (*clients, *sockets, waiter):
        each.close()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_stops_at_once(
    start: Start, upstream: socket.socket, second: signal.Signals
) -> None:
    gate = serve(start, upstream, DRAIN_TIMEOUT="3600")
    client, accepted = in_flight(gate.listening_url(), upstream)
    with accepted:
        gate.signal()
        gate.wait_for_line(gate.stderr, "draining")
        gate.signal(second)
        code, _, stderr = gate.ended()
    client.close()
    assert code == 0
    assert "outcome=aborted" in stderr
    assert "Traceback" not in stderr


def test_gate_writes_no_file(start: Start, tmp_path: Path) -> None:
    """A container may have a read-only root filesystem."""

    def write_nothing() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    tmp_path.chmod(0o555)
    nowhere = {"HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    gate = serve(start, None, options={"preexec_fn": write_nothing}, **nowhere)
    assert get(gate.listening_url(), "/health") == (200, b"OK")
    gate.signal()
    assert gate.exit_code() == 0
    assert list(tmp_path.iterdir()) == []


def test_gate_survives_a_closed_stderr(start: Start) -> None:
    gate = serve(start, LOG_FORMAT="json")
    url = json.loads(gate.stderr.readline())["url"]
    gate.stderr.close()
    assert get(url, "/nothing")[0] == 404
    assert get(url, "/health") == (200, b"OK")
    gate.signal()
    assert gate.exit_code() == 0


def test_malformed_request_is_not_logged(start: Start) -> None:
    gate = serve(start, RUST_LOG="trace")
    parts = urlsplit(gate.listening_url())
    assert parts.hostname
    assert parts.port
    with socket.create_connection((parts.hostname, parts.port), PROCESS_TIMEOUT_S) as client:
        client.sendall(b"GET /v1/x HTTP/1.1\r\nAuthorization : sk-canary\r\nbad\0header\r\n\r\n")
        assert b" 400 " in client.recv(65536)
    gate.signal()
    code, _, stderr = gate.ended()
    assert code == 0
    assert "canary" not in stderr


@pytest.mark.parametrize(
    ("environ", "colored"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "xterm", "LOG_FORMAT": "json"}, False),
        ({"TERM": "dumb"}, False),
    ],
    ids=["terminal", "NO_COLOR", "json", "dumb"],
)
def test_log_is_colored_on_a_terminal_only(
    start: Start, environ: dict[str, Any], colored: bool
) -> None:
    master, slave = pty.openpty()
    options = {"preexec_fn": lambda: os.dup2(slave, 2)}
    gate = serve(start, None, options=options, **environ)
    with open(master, "rb", buffering=0) as terminal:
        line = b""
        while b"\n" not in line:
            line += terminal.read(1000)
        gate.signal()
        assert gate.exit_code() == 0
    os.close(slave)
    assert b"listening" in line
    assert (b"\x1b[32m INFO\x1b[0m" in line) is colored
    assert (b"\x1b" in line) is colored
