"""The command line, as processes: what they print, how they end, what they do on signals."""

import json
import os
import resource
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from loguru import logger

from rustygate import __version__
from rustygate.cli import main
from rustygate.cli.gate_server import log_listening
from rustygate.config import load
from tests.conftest import Start
from tests.support.certificates import Authority
from tests.support.process import PATIENCE_S, ROOT, Process

SECRET = "sk-proj-0123456789-abcdefghij-wxyz"


@pytest.fixture
def upstream() -> Iterator[socket.socket]:
    """An upstream that accepts connections; the test plays its part."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE_S)
        yield listener


def serve(start: Start, upstream: socket.socket | None = None, **environ: Any) -> Process:
    if upstream:
        environ["OPENAI_BASE_URL"] = f"http://127.0.0.1:{upstream.getsockname()[1]}/v1"
    return start(**{"OPENAI_API_KEY": SECRET, "PORT": "0"} | environ)


def connected(url: str) -> HTTPConnection:
    parts = urlsplit(url)
    assert parts.hostname
    return HTTPConnection(parts.hostname, parts.port, timeout=PATIENCE_S)


def get(url: str, path: str) -> tuple[int, bytes]:
    connection = connected(url)
    connection.request("GET", path, headers={"Authorization": "Bearer any"})
    answer = connection.getresponse()
    got = answer.status, answer.read()
    connection.close()
    return got


def in_flight(url: str, upstream: socket.socket) -> tuple[HTTPConnection, socket.socket]:
    """An exchange whose request has come to upstream, which has not answered yet."""
    client = connected(url)
    client.request("GET", "/v1/models")
    accepted, _ = upstream.accept()
    accepted.settimeout(PATIENCE_S)
    assert accepted.recv(65536).startswith(b"GET /v1/models HTTP/1.1\r\n")
    return client, accepted


# Usage.


def test_version_is_printed(start: Start) -> None:
    assert start("--version").ended() == (0, f"rustygate {__version__}\n", "")


@pytest.mark.parametrize("command", ["serve", "demo", "simulate", "check", "health"])
def test_help_names(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert f"    {command} " in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["fly"],
        ["--fly"],
        ["serve", "more"],
        ["simulate", "--port", "65536"],
        ["simulate", "--port", "x"],
        ["simulate", "--rpm", "-1"],
        ["health", "one", "two"],
    ],
    ids=" ".join,
)
def test_bad_usage_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("usage: rustygate")


# Configuration.


@pytest.mark.parametrize("arguments", [[], ["serve"], ["check"]], ids=["", "serve", "check"])
def test_bad_configuration_ends_with_2_and_a_line_for_each_problem(
    start: Start, arguments: list[str]
) -> None:
    code, stdout, stderr = start(*arguments, PORT="x", OPENAI_API_KEY=f"{SECRET}\u00e9").ended()
    assert (code, stdout) == (2, "")
    first, second = stderr.splitlines()
    assert first.startswith("rustygate: OPENAI_API_KEY=********: expected ")
    assert second == "rustygate: PORT='x': expected a whole number from 0 to 65535"


def test_check_prints_the_settings_in_force_with_secrets_masked(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text(f"OPENAI_API_KEY={SECRET}\nRATE_LIMIT=3\nPORT=1\n")
    code, stdout, stderr = start("check", PORT="2").ended()
    assert (code, stderr) == (0, "")
    lines = stdout.splitlines()
    assert lines[0] == "OPENAI_API_KEY=sk-...wxyz"
    assert {"PORT=2", "RATE_LIMIT=3", "CONCURRENCY_LIMIT=none"} < set(lines)
    assert SECRET not in stdout


def test_check_explains_which_limits_are_in_force(start: Start) -> None:
    given = {"RATE_LIMIT": "auto", "TOKENS_PER_MINUTE": "5000", "CONCURRENCY_LIMIT": "7"}
    _, stdout, _ = start("check", OPENAI_API_KEY=SECRET, **given).ended()
    explained = stdout.partition("Limits in force:\n")[2].splitlines()
    assert [line.partition(":")[0] for line in explained] == [
        "- requests",
        "- tokens",
        "- in flight",
        "- each model's requests and tokens per minute",
        "- waiting",
    ]
    assert "20 of its requests in flight" in explained[0]
    assert "5000 per minute" in explained[1]


def test_check_masks_the_password_of_a_proxy(start: Start) -> None:
    proxy = "http://me:canary@proxy.example.org:3128"
    code, stdout, _ = start("check", OPENAI_API_KEY=SECRET, HTTPS_PROXY=proxy).ended()
    assert code == 0
    assert "HTTPS_PROXY=http://********@proxy.example.org:3128\n" in stdout


def test_check_says_what_listening_for_others_means(start: Start) -> None:
    code, _, stderr = start("check", OPENAI_API_KEY=SECRET, BIND_ADDRESS="0.0.0.0").ended()
    assert code == 0
    assert stderr.startswith(
        "rustygate: warning: BIND_ADDRESS=0.0.0.0 lets other machines connect"
    )
    assert "spends the upstream key" in stderr


# serve


def test_serve_says_where_it_listens_and_ends_cleanly(start: Start) -> None:
    gate = serve(start, LOG_FORMAT="json", RATE_LIMIT="3")
    line = json.loads(gate.stderr.readline())
    assert (line["level"], line["message"], line["rate_limit"]) == ("info", "listening", 3)
    assert line["upstream"] == "https://api.openai.com/v1"
    assert get(line["url"], "/health") == (200, b"OK")
    gate.signal()
    code, stdout, stderr = gate.ended()
    assert (code, stdout) == (0, "")
    assert [json.loads(left)["message"] for left in stderr.splitlines()] == ["draining", "stopped"]


@pytest.mark.parametrize("command", ["serve", "demo", "simulate"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_cleanly(start: Start, command: str, number: signal.Signals) -> None:
    if command == "simulate":
        process = start("simulate", "--port", "0")
        process.until(process.stdout, "Simulator listening on ")
    else:
        process = start(command, OPENAI_API_KEY=SECRET, PORT="0", RUST_LOG="info")
        process.listening()
    process.signal(number)
    code, _, stderr = process.ended()
    assert code == 0
    assert "Traceback" not in stderr


def test_key_is_forgotten_by_the_environment_once_it_is_read(tmp_path: Path) -> None:
    """In a process of its own: what the gate hands on to one that it would start."""
    code = (
        "import os, subprocess, sys\n"
        "from contextlib import asynccontextmanager\n"
        "from rustygate.cli import gate_server, main\n"
        "@asynccontextmanager\n"
        "async def running_gate(settings, signals, *sockets):\n"
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


def test_serve_warns_when_others_can_connect() -> None:
    lines: list[str] = []
    sink = logger.add(lines.append, format="{level} {message}")
    log_listening(
        load({"OPENAI_API_KEY": SECRET, "BIND_ADDRESS": "0.0.0.0"}), "http://0.0.0.0:8080"
    )
    logger.remove(sink)
    assert [line.split()[:2] for line in lines] == [
        ["INFO", "listening"],
        ["WARNING", "BIND_ADDRESS=0.0.0.0"],
    ]


def test_address_of_another_machine_is_one_line(start: Start) -> None:
    gate = serve(start, BIND_ADDRESS="192.0.2.1", PORT="8080")
    reason = "Cannot assign requested address"
    expected = f"rustygate: cannot listen on 192.0.2.1, port 8080: {reason}\n"
    assert gate.ended() == (1, "", expected)


def test_port_in_use_is_one_line(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        gate = serve(start, PORT=str(port))
        expected = f"rustygate: cannot listen on 127.0.0.1, port {port}: Address already in use\n"
        assert gate.ended() == (1, "", expected)


def test_https_is_served_and_asked_by_health_whatever_its_name(
    start: Start, authority: Authority
) -> None:
    files = authority.issue("gate.example.org")
    url = serve(start, None, **files).listening()
    assert url.startswith("https://127.0.0.1:")
    port = str(urlsplit(url).port)
    assert start("health", PORT=port, **files).ended() == (0, "OK\n", "")
    code, _, stderr = start("health", url).ended()
    assert code == 1
    assert stderr.startswith(f"rustygate: {url} does not respond: ")
    assert "certificate" in stderr
    assert start("health", f"http://127.0.0.1:{port}").code() == 1


def test_https_that_cannot_be_served_is_one_line(start: Start, authority: Authority) -> None:
    files = authority.issue("gate.example.org") | {"TLS_KEY_FILE": "missing"}
    code, stdout, stderr = serve(start, None, **files).ended()
    assert (code, stdout) == (2, "")
    reason = "expected the path of a PEM file with a key (No such file or directory)"
    assert stderr == f"rustygate: TLS_KEY_FILE='missing': {reason}\n"


def test_unix_socket_is_served_and_removed_at_the_end(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "gate.sock"
    gate = serve(start, BIND_ADDRESS=f"unix:{path}")
    assert gate.listening() == f"unix:{path}"
    gate.signal()
    code, _, stderr = gate.ended()
    assert code == 0
    assert "BIND_ADDRESS" not in stderr
    assert not path.exists()


def test_unix_socket_that_a_crash_left_is_replaced(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "gate.sock"
    crashed = serve(start, BIND_ADDRESS=f"unix:{path}")
    crashed.listening()
    crashed.signal(signal.SIGKILL)
    crashed.code()
    assert path.is_socket()
    gate = serve(start, BIND_ADDRESS=f"unix:{path}")
    gate.listening()
    second = serve(start, BIND_ADDRESS=f"unix:{path}")
    reason = "another process listens there"
    assert second.ended() == (1, "", f"rustygate: cannot listen on unix:{path}: {reason}\n")
    assert start("health", f"unix:{path}").ended() == (0, "OK\n", "")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("file", "there is a file, and it is no socket"),
        ("missing/gate.sock", "No such file or directory"),
    ],
)
def test_unix_socket_that_cannot_be_had_is_one_line(
    start: Start, tmp_path: Path, path: str, reason: str
) -> None:
    (tmp_path / "file").write_text("precious")
    address = f"unix:{tmp_path / path}"
    expected = f"rustygate: cannot listen on {address}: {reason}\n"
    assert serve(start, BIND_ADDRESS=address).ended() == (1, "", expected)
    assert (tmp_path / "file").read_text() == "precious"


def test_proxy_of_the_environment_is_on_the_way_and_its_password_in_no_line(
    start: Start, upstream: socket.socket
) -> None:
    proxy = f"http://me:canary@127.0.0.1:{upstream.getsockname()[1]}"
    gate = serve(start, OPENAI_BASE_URL="https://upstream.test/v1", https_proxy=proxy)
    line = gate.stderr.readline()
    assert f" proxy=http://********@127.0.0.1:{upstream.getsockname()[1]} " in line
    client = connected(line.split("url=")[1].split(" ")[0])
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
    client, accepted = in_flight(gate.listening(), upstream)
    with accepted:
        gate.signal()
        gate.until(gate.stderr, "draining")
        accepted.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")
        answer = client.getresponse()
        assert (answer.status, answer.read()) == (200, b"done")
    client.close()
    code, _, stderr = gate.ended()
    assert code == 0
    assert "outcome=ok" in stderr


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_it_at_once(
    start: Start, upstream: socket.socket, second: signal.Signals
) -> None:
    gate = serve(start, upstream, DRAIN_TIMEOUT="3600")
    client, accepted = in_flight(gate.listening(), upstream)
    with accepted:
        gate.signal()
        gate.until(gate.stderr, "draining")
        gate.signal(second)
        code, _, stderr = gate.ended()
    client.close()
    assert code == 0
    assert "outcome=aborted" in stderr
    assert "Traceback" not in stderr


def test_gate_writes_no_file(start: Start, tmp_path: Path) -> None:
    """So that it runs on a read-only root."""

    def write_nothing() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    tmp_path.chmod(0o555)
    nowhere = {"HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    gate = serve(start, None, options={"preexec_fn": write_nothing}, **nowhere)
    assert get(gate.listening(), "/health") == (200, b"OK")
    gate.signal()
    assert gate.code() == 0
    assert list(tmp_path.iterdir()) == []


def test_gate_whose_log_nobody_reads_goes_on(start: Start) -> None:
    gate = serve(start, LOG_FORMAT="json")
    url = json.loads(gate.stderr.readline())["url"]
    gate.stderr.close()
    assert get(url, "/nothing")[0] == 404
    assert get(url, "/health") == (200, b"OK")
    gate.signal()
    assert gate.code() == 0


def test_malformed_request_leaves_no_byte_in_the_log(start: Start) -> None:
    gate = serve(start, RUST_LOG="trace")
    parts = urlsplit(gate.listening())
    assert parts.hostname
    assert parts.port
    with socket.create_connection((parts.hostname, parts.port), PATIENCE_S) as client:
        client.sendall(b"GET /v1/x HTTP/1.1\r\nAuthorization : sk-canary\r\nbad\0header\r\n\r\n")
        assert b" 400 " in client.recv(65536)
    gate.signal()
    code, _, stderr = gate.ended()
    assert code == 0
    assert "canary" not in stderr


# health


def test_health_needs_no_key_and_no_proxy(start: Start) -> None:
    url = serve(start).listening()
    nowhere = "http://127.0.0.1:9"
    port = str(urlsplit(url).port)
    for base_url in ([], [url], [f"{url}/"], [f"{url}/v1"]):
        health = start("health", *base_url, PORT=port, http_proxy=nowhere, HTTP_PROXY=nowhere)
        assert health.ended() == (0, "OK\n", "")


def test_health_asks_loopback_when_the_gate_listens_everywhere(start: Start) -> None:
    port = str(urlsplit(serve(start).listening()).port)
    assert start("health", PORT=port, BIND_ADDRESS="0.0.0.0").ended() == (0, "OK\n", "")


def test_health_asks_over_the_unix_socket(start: Start, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/gate.sock"
    serve(start, BIND_ADDRESS=address).listening()
    assert start("health", BIND_ADDRESS=address).ended() == (0, "OK\n", "")


def test_health_fails_when_nobody_answers_on_the_unix_socket(start: Start, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/gate.sock"
    expected = f"rustygate: {address} does not respond: No such file or directory\n"
    assert start("health", BIND_ADDRESS=address).ended() == (1, "", expected)


def test_health_fails_when_nobody_answers(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    expected = f"rustygate: http://127.0.0.1:{port} does not respond: Connection refused\n"
    assert start("health", PORT=port).ended() == (1, "", expected)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", "responds to /health with status 503"),
        (b"SSH-2.0\r\n", "does not respond: BadStatusLine"),
        (b"", "does not respond: RemoteDisconnected"),
    ],
    ids=["refusal", "another protocol", "nothing"],
)
def test_health_fails_when_something_else_answers(
    start: Start, upstream: socket.socket, answer: bytes, complaint: str
) -> None:
    url = f"http://127.0.0.1:{upstream.getsockname()[1]}"
    health = start("health", url)
    accepted, _ = upstream.accept()
    with accepted:
        assert accepted.recv(65536).startswith(b"GET /health HTTP/1.1\r\n")
        accepted.sendall(answer)
    assert health.ended() == (1, "", f"rustygate: {url} {complaint}\n")


@pytest.mark.parametrize(
    "base_url", ["localhost:8080", "ftp://localhost", "http://", "http://h:x"]
)
def test_health_of_no_url_is_bad_usage(base_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["health", base_url]) == 2
    assert "expected a base URL such as http://localhost:8080" in capsys.readouterr().err


# demo and simulate


def test_demo_needs_no_key_and_uses_none(start: Start, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("OPENAI_API_KEY_FILE=missing\nOPENAI_BASE_URL=nowhere\n")
    settings = {"RATE_LIMIT": "7", "RUST_LOG": "info"}
    settings |= {"http_proxy": "http://127.0.0.1:1", "SSL_CERT_FILE": "missing"}
    demo = start("demo", OPENAI_API_KEY=SECRET, PORT="0", **settings)
    assert "No key is needed" in demo.stdout.readline()
    url = demo.until(demo.stdout, r"curl (\S+)/v1/")[1]
    simulator = demo.until(demo.stdout, r"(http://127\.0\.0\.1:\d+)/simulator/stats")[1]
    assert demo.until(demo.stderr, r"rate_limit=(\S+)")[1] == "7.0"
    client = connected(url)
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
    client.request(
        "POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"}
    )
    answer: dict[str, Any] = json.load(client.getresponse())
    assert answer["choices"][0]["message"]["content"]
    client.close()
    stats = get(simulator, "/simulator/stats")[1].decode()
    assert "/v1/chat/completions" in stats
    assert SECRET[-4:] not in stats


def test_demo_by_https_says_so(start: Start, authority: Authority) -> None:
    demo = start("demo", PORT="0", **authority.issue("localhost"))
    assert demo.until(demo.stdout, r"curl (\S+)/v1/")[1].startswith("https://127.0.0.1:")


def test_demo_on_a_unix_socket_says_how_to_ask_it(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "the gate.sock"
    demo = start("demo", BIND_ADDRESS=f"unix:{path}")
    line = demo.until(demo.stdout, r"(curl .*/v1/chat/completions) ")[1]
    assert shlex.split(line) == [
        *("curl", "--unix-socket", str(path)),
        "http://localhost/v1/chat/completions",
    ]
    assert start("health", f"unix:{path}").ended() == (0, "OK\n", "")


def test_demo_is_configured_like_the_gate(start: Start) -> None:
    code, _, stderr = start("demo", RATE_LIMIT="x").ended()
    assert code == 2
    assert stderr.startswith("rustygate: RATE_LIMIT='x': expected ")


def test_demo_lets_clients_share_it_and_tells_who_waits(start: Start) -> None:
    demo = start("demo", "--traffic", PORT="0", RATE_LIMIT="20", RATE_LIMIT_BURST="1")
    demo.until(demo.stdout, r"^hog +\d+ served.*\| chat +\d+ served.*\| batch +\d+ served")
    shares = demo.until(demo.stdout, r"^hog +(\d+) served, waited .* chat .*batch +(\d+) served")
    assert int(shares[1]) >= int(shares[2])
    demo.signal()
    code, _, stderr = demo.ended()
    assert (code, stderr) == (0, "")


def test_demo_tells_of_a_port_in_use(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, stdout, stderr = start("demo", PORT=str(taken.getsockname()[1])).ended()
    assert (code, stdout) == (1, "")
    assert stderr.endswith("Address already in use\n")
    assert stderr.count("\n") == 1


def test_simulate_serves_and_takes_the_simulators_flags(start: Start) -> None:
    simulator = start("simulate", "--port", "0", "--fault", "status=503")
    url = simulator.until(
        simulator.stdout, r"listening on (\S+)/v1, statistics at \1/simulator/stats"
    )[1]
    assert url.startswith("http://127.0.0.1:")
    assert get(url, "/v1/models")[0] == 503
    assert get(url, "/simulator/stats")[0] == 200


def test_simulate_tells_of_a_port_in_use(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, stdout, stderr = start("simulate", "--port", port).ended()
    expected = f"rustygate: cannot listen on 127.0.0.1, port {port}: Address already in use\n"
    assert (code, stdout, stderr) == (1, "", expected)


def test_reader_that_left_is_no_traceback(start: Start) -> None:
    check = start("check", OPENAI_API_KEY=SECRET)
    check.stdout.close()
    assert check.stderr.read() == ""
