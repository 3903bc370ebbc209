"""`rustygate usage`: where it reads, what it prints, and how it fails."""

import asyncio
import csv
import json
import os
import pty
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from rustygate.cli import main
from rustygate.config.redis_url import parse_redis_url
from rustygate.core.usage_rows import UsageKey, UsageTotals
from rustygate.telemetry.usage.redis_usage_store import RedisUsageStore
from rustygate.telemetry.usage.sqlite_report import FILE_NAME
from rustygate.telemetry.usage.sqlite_store import SqliteUsageStore
from tests.support.process import PROCESS_TIMEOUT_S, ROOT
from tests.support.redis import RedisServer
from tests.support.upstream import loopback_socket

TODAY = datetime.now(UTC).date()


def day(ago: int) -> str:
    return (TODAY - timedelta(days=ago)).isoformat()


USAGE = {
    UsageKey(day(0), "search", "gpt-4o"): UsageTotals(
        exchanges=3, tokens_in=1000, tokens_out=50, queued_us=1_500_000, cost_nano_usd=3_000_000
    ),
    UsageKey(day(1), "search", "o3"): UsageTotals(exchanges=2, tokens_in=10, unpriced=2),
    UsageKey(day(0), "chat", "gpt-4o"): UsageTotals(exchanges=1, refused=1),
    UsageKey(day(30), "chat", "gpt-4o"): UsageTotals(exchanges=40, tokens_in=7),
}


def record(directory: Path, usage: Mapping[UsageKey, UsageTotals]) -> None:
    async def add() -> None:
        store = SqliteUsageStore(directory / FILE_NAME)
        await store.open()
        await store.add(usage)
        await store.close()

    asyncio.run(add())


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a usage record, set as DATA_DIR; the working directory is another."""
    directory = tmp_path / "data"
    directory.mkdir()
    record(directory, USAGE)
    monkeypatch.setenv("DATA_DIR", str(directory))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return directory


def report(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, object]]:
    assert main(["usage", "--format", "json", *arguments]) == 0
    rows: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    return rows


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit code and the one line on stderr."""
    code = main(["usage", *arguments])
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr.startswith("rustygate: ")
    assert stderr.count("\n") == 1
    return code, stderr.removeprefix("rustygate: ").rstrip("\n")


# Reports.


@pytest.mark.usefixtures("data_dir")
def test_default_report_has_seven_days_by_client_model_and_day(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = report(capsys)
    assert [(row["client"], row["model"], row["day"]) for row in rows] == [
        ("chat", "gpt-4o", day(0)),
        ("search", "gpt-4o", day(0)),
        ("search", "o3", day(1)),
    ]
    assert rows[1] == {
        "client": "search",
        "model": "gpt-4o",
        "day": day(0),
        "exchanges": 3,
        "refused": 0,
        "tokens_in": 1000,
        "tokens_cached": 0,
        "tokens_out": 50,
        "tokens_estimated": 0,
        "queued_seconds": 1.5,
        "cost_usd": 0.003,
    }


@pytest.mark.usefixtures("data_dir")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--by", "client"], {("chat",): 1, ("search",): 5}),
        (["--by", "client", "--since", "31d"], {("chat",): 41, ("search",): 5}),
        (["--by", "day", "--since", day(1)], {(day(1),): 2, (day(0),): 4}),
        (["--by", "day", "--since", "31d", "--until", day(1)], {(day(30),): 40, (day(1),): 2}),
        (
            ["--by", "model,client", "--client", "search"],
            {("gpt-4o", "search"): 3, ("o3", "search"): 2},
        ),
        (["--by", "client", "--client", "nobody"], {}),
        (["--by", "client", "--client", "x' OR '1'='1"], {}),
        (["--by", "client", "--since", "today"], {("chat",): 1, ("search",): 3}),
    ],
)
def test_report_is_as_asked(
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    expected: dict[tuple[str, ...], int],
) -> None:
    rows = report(capsys, *arguments)
    columns = arguments[1].split(",")
    found = {tuple(str(row[column]) for column in columns): row["exchanges"] for row in rows}
    assert found == expected
    assert all(list(row)[: len(columns)] == columns for row in rows)


@pytest.mark.usefixtures("data_dir")
def test_table_shows_unknown_costs_and_totals(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["usage", "--by", "client"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "client exchanges refused tokens in cached tokens out estimated queued s cost USD",
        "chat 1 1 0 0 0 0 0.0 0.0000",
        "search 5 0 1,010 0 50 0 1.5 >= 0.0030",
        "total 6 1 1,010 0 50 0 1.5 >= 0.0030",
    ]
    assert max(map(len, lines)) <= 99


@pytest.mark.usefixtures("data_dir")
def test_csv_has_a_row_for_each_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["usage", "--format", "csv", "--by", "client,day"]) == 0
    text = capsys.readouterr().out
    assert text.endswith("\r\n")
    assert text.count("\r\n") == text.count("\n") == 4
    assert [row[:3] for row in csv.reader(text.splitlines())][1:] == [
        ["chat", day(0), "1"],
        ["search", day(1), "2"],
        ["search", day(0), "3"],
    ]


@pytest.mark.usefixtures("data_dir")
def test_days_without_usage_are_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    days = ["--since", "2020-01-01", "--until", "2020-01"]
    assert main(["usage", *days]) == 0
    assert capsys.readouterr().out == "no usage from 2020-01-01 to 2020-01-31 (UTC)\n"
    assert report(capsys, *days) == []
    assert main(["usage", *days, "--format", "csv", "--by", "day"]) == 0
    assert capsys.readouterr().out.startswith("day,exchanges,")


def _rest_of(terminal: int) -> bytes:
    """All that was written to a terminal that no process has open any more."""
    read = b""
    with suppress(OSError):
        while piece := os.read(terminal, 65536):
            read += piece
    return read


def test_table_fits_a_terminal_and_has_colour(data_dir: Path) -> None:
    master, slave = pty.openpty()
    environ = {"DATA_DIR": str(data_dir), "TERM": "xterm", "COLUMNS": "80"}
    command = [sys.executable, "-m", "rustygate", "usage", "--by", "client,model"]
    try:
        subprocess.run(
            [*command, "--client", "search"],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environ},
            stdout=slave,
            check=True,
            timeout=PROCESS_TIMEOUT_S,
        )
        os.close(slave)
        shown = _rest_of(master).decode()
    finally:
        os.close(master)
    header, priced, unpriced, last = shown.splitlines()
    assert header.startswith("\x1b[2mclient")
    assert "refused" not in header
    assert len(priced) <= 80
    assert unpriced.endswith("\x1b[33munknown\x1b[0m")
    assert last.startswith("\x1b[1mtotal")


# The database.


def test_running_gate_can_be_read(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A gate that is writing keeps the database open, with a transaction in its log."""
    with sqlite3.connect(data_dir / FILE_NAME, isolation_level=None) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE total SET exchanges = 1000")
        assert len(report(capsys)) == 3
        writer.execute("ROLLBACK")
    writer.close()


def test_reading_changes_nothing(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (data_dir / FILE_NAME).read_bytes()
    report(capsys)
    assert (data_dir / FILE_NAME).read_bytes() == before


def test_only_what_the_report_needs_must_be_valid(
    data_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIENTS_FILE", "/missing/clients.toml")
    monkeypatch.setenv("OPENAI_API_KEY_FILE", "/missing/key")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert len(report(capsys)) == 3


def test_directory_of_dotenv_is_read(
    data_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATA_DIR")
    Path(".env").write_text(f"DATA_DIR={data_dir}\n")
    assert len(report(capsys)) == 3


def test_missing_directory_setting_is_bad_usage(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATA_DIR", raising=False)
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    code, error = error_of(capsys)
    assert (code, error.partition(":")[0]) == (2, "DATA_DIR is not set")
    assert "--url" in error


def test_missing_database_is_named(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(data_dir)
    data_dir.mkdir()
    expected = f"cannot read {data_dir}/usage.db: No such file or directory"
    assert error_of(capsys) == (1, expected)
    assert list(data_dir.iterdir()) == []


def test_broken_database_is_left_alone(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = data_dir / FILE_NAME
    file.write_bytes(b"no database" * 1000)
    expected = f"cannot read {file}: file is not a database"
    assert error_of(capsys) == (1, expected)
    assert file.read_bytes().startswith(b"no database")


@pytest.mark.usefixtures("data_dir")
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--since", "24h"], "--since is '24h': expected a number of days such as 7d, today, "),
        (["--until", "7d"], "--until is '7d': expected today, a day such as 2026-11-30 or "),
        (["--by", "cost"], "--by is 'cost': expected one or more of client, model and day"),
        (["--until", "2020-01-01"], "--since is 20"),
    ],
)
def test_bad_usage_is_reported(
    capsys: pytest.CaptureFixture[str], arguments: list[str], error: str
) -> None:
    code, found = error_of(capsys, *arguments)
    assert code == 2
    assert found.startswith(error)


# The Redis of a group.


def test_record_of_a_group_is_read_from_its_redis(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    server = RedisServer(tmp_path)
    url = f"redis://127.0.0.1:{server.port}"

    async def add() -> None:
        store = RedisUsageStore(parse_redis_url(url), "search-gates")
        await store.add(USAGE)
        await store.close()

    try:
        asyncio.run(add())
        monkeypatch.setenv("REDIS_URL", url)
        monkeypatch.setenv("GATE_GROUP", "search-gates")
        assert len(report(capsys)) == 3
        monkeypatch.setenv("GATE_GROUP", "other")
        assert report(capsys) == []
    finally:
        server.close()


def test_redis_that_is_not_there_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with loopback_socket() as bound:
        port = bound.getsockname()[1]
        monkeypatch.setenv("REDIS_URL", f"redis://:canary-password@127.0.0.1:{port}")
        code, error = error_of(capsys)
    assert code == 1
    assert error.startswith("cannot read the usage of group rustygate: Redis: ")
    assert "canary" not in error


# Over HTTP.


class Gate:
    """Answers one request with given bytes, and keeps the request."""

    def __init__(self, answer: bytes) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._answer = answer
        self.request = b""
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        self._listener.settimeout(PROCESS_TIMEOUT_S)
        client, _ = self._listener.accept()
        with client:
            self.request = client.recv(65536)
            client.sendall(self._answer)

    def close(self) -> None:
        self._thread.join()
        self._listener.close()


@pytest.fixture
def gates() -> Iterator[list[Gate]]:
    started: list[Gate] = []
    yield started
    for gate in started:
        gate.close()


def answering(gates: list[Gate], body: bytes, status: str = "200 OK") -> Gate:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n"
    gates.append(Gate(head.encode() + body))
    return gates[-1]


@pytest.mark.usefixtures("data_dir")
def test_gate_is_asked_with_the_admin_key(
    gates: list[Gate], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = report(capsys, "--by", "client")
    gate = answering(gates, json.dumps(rows).encode())
    monkeypatch.setenv("ADMIN_KEY", "canary-admin-key-0123456789")
    asked = ["--since", "today", "--by", "client", "--client", "a&b=é"]
    assert report(capsys, "--url", f"{gate.url}/v1/", *asked) == rows
    line, _, head = gate.request.decode().partition("\r\n")
    method, target, _ = line.split(" ")
    assert (method, urlsplit(target).path) == ("GET", "/gate/usage")
    query = parse_qs(urlsplit(target).query)
    assert query == {"since": ["today"], "by": ["client"], "client": ["a&b=é"]}
    assert "\r\nAuthorization: Bearer canary-admin-key-0123456789\r\n" in head


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"", "401 No", "set ADMIN_KEY or ADMIN_KEY_FILE to its admin key"),
        (b"not found", "404 No", "status 404"),
        (b"{}", "404 No", "status 404"),
        (
            b'{"error": {"message": "Since\\u001b[31m is bad."}}',
            "400 No",
            r"Since\x1b[31m is bad.",
        ),
        (b"[" * 100_000, "400 No", "status 400"),
        (b"OK", "200 OK", "unexpected response; is it a gate?"),
        (b"{}", "200 OK", "unexpected response; is it a gate?"),
        (b"[{}]", "200 OK", "unexpected response; is it a gate?"),
    ],
)
def test_refusal_of_a_gate_is_one_line(
    gates: list[Gate], capsys: pytest.CaptureFixture[str], body: bytes, status: str, reason: str
) -> None:
    url = answering(gates, body, status).url
    assert error_of(capsys, "--url", url) == (1, f"{url} does not report usage: {reason}")


def test_gate_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with loopback_socket() as bound:
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        assert error_of(capsys, "--url", url) == (1, f"{url} does not respond: Connection refused")


def test_bad_url_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    code, error = error_of(capsys, "--url", "localhost:8080")
    assert code == 2
    assert error.startswith("'localhost:8080': expected a base URL such as http://localhost:8080")
