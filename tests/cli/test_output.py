"""Output that cannot be printed: a closed stream, a reader that has left, or a full disk."""

import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rustygate.cli import main
from rustygate.cli.output import OutputError, print_lines
from tests.cli.processes import SECRET, get
from tests.conftest import Start

STDOUT, STDERR = 1, 2

FULL = "No space left on device"
CLOSED = "Bad file descriptor"


Output = Callable[[int], dict[str, Any]]


def full(descriptor: int) -> dict[str, Any]:
    """Options of a process whose output goes to a full disk."""
    return _before_start(lambda: os.dup2(os.open("/dev/full", os.O_WRONLY), descriptor))


def closed(descriptor: int) -> dict[str, Any]:
    """Options of a process with a closed output."""
    return _before_start(lambda: os.close(descriptor))


def unread(descriptor: int) -> dict[str, Any]:
    """Options of a process whose output is a pipe without a reader."""
    return _before_start(lambda: os.dup2(_pipe_without_reader(), descriptor))


def _before_start(action: Callable[[], object]) -> dict[str, Any]:
    return {"preexec_fn": action}


def _pipe_without_reader() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


COMMANDS = [
    ["check"],
    ["plan", "--client", "a:10@once:10"],
    ["key", "a"],
    ["key", "a", "--toml"],
    ["help"],
    ["--version"],
    ["demo"],
    ["demo", "--traffic"],
]
SETTINGS = {"OPENAI_API_KEY": SECRET, "PORT": "0", "RUST_LOG": "error"}


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_full_stdout_is_a_one_line_error(start: Start, arguments: list[str]) -> None:
    code, _, stderr = start(*arguments, options=full(STDOUT), **SETTINGS).ended()
    assert code == 1
    errors = re.sub(r"^rg-.*\n", "", stderr)
    assert errors == f"rustygate: cannot write to stdout: {FULL}\n"


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_reader_that_has_left_ends_a_command_silently(start: Start, arguments: list[str]) -> None:
    code, _, stderr = start(*arguments, options=unread(STDOUT), **SETTINGS).ended()
    assert (code, re.sub(r"^rg-.*\n", "", stderr)) == (1, "")


@pytest.mark.parametrize("arguments", [["check"], ["key", "a"], ["demo"]], ids=" ".join)
def test_closed_stdout_is_a_one_line_error(start: Start, arguments: list[str]) -> None:
    code, _, stderr = start(*arguments, options=closed(STDOUT), **SETTINGS).ended()
    assert (code, stderr) == (1, f"rustygate: cannot write to stdout: {CLOSED}\n")


@pytest.mark.parametrize("output", [full, closed, unread])
def test_errors_that_cannot_be_printed_keep_the_exit_code(start: Start, output: Output) -> None:
    for command in (["check"], ["check", "--unknown"]):
        assert start(*command, RATE_LIMIT="x", options=output(STDERR)).exit_code() == 2


def test_traffic_ends_when_the_reader_of_its_table_leaves(start: Start) -> None:
    demo = start("demo", "--traffic", **SETTINGS)
    demo.wait_for_line(demo.stdout, "^for the limits")
    demo.stdout.close()
    assert demo.exit_code() == 1
    assert demo.stderr.read() == ""


@pytest.mark.parametrize(
    ("output", "reason"), [(full, FULL), (closed, CLOSED), (unread, "Broken pipe")]
)
@pytest.mark.parametrize("content", [None, "# none yet\n"], ids=["new file", "existing file"])
def test_key_that_cannot_be_shown_is_not_added(
    start: Start,
    tmp_path: Path,
    output: Output,
    reason: str,
    content: str | None,
) -> None:
    file = tmp_path / "clients.toml"
    if content is not None:
        file.write_text(content)
    key = start("key", "a", "--append", str(file), options=output(STDOUT))
    expected = f"rustygate: cannot show the key: {reason}; {file} is unchanged\n"
    assert key.ended() == (1, "", expected)
    assert (file.read_text() if file.exists() else None) == content
    assert list(tmp_path.iterdir()) == ([] if content is None else [file])


@pytest.mark.parametrize("output", [full, closed, unread])
@pytest.mark.parametrize("flag", ["--toml", "--hash-only"])
def test_table_is_not_printed_without_its_key(start: Start, flag: str, output: Output) -> None:
    assert start("key", "a", flag, options=output(STDERR)).ended() == (1, "", "")


def test_simulator_keeps_serving_when_its_reader_has_left(start: Start) -> None:
    simulator = start("simulate", "--port", "0")
    url = simulator.wait_for_line(simulator.stdout, r"listening on (\S+)/v1,")[1]
    simulator.stdout.close()
    for _ in range(2):
        assert get(url, "/v1/models")[0] == 200
    simulator.signal()
    assert simulator.exit_code() == 0
    assert simulator.stderr.read() == ""


def test_health_check_succeeds_without_output(start: Start) -> None:
    gate = start(**SETTINGS | {"RUST_LOG": "info"})
    url = gate.listening_url()
    for output in (full, closed, unread):
        assert start("health", url, options=output(STDOUT)).ended() == (0, "", "")


def test_nothing_for_a_closed_stderr_goes_to_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("sys.stderr", None)
        assert main(["key", "a", "--toml"]) == 1
        with pytest.raises(OutputError, match=r"^cannot write to stderr: Bad file descriptor$"):
            print_lines("a", stream="stderr")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", b"caf\\xe9 \\u6a21\n"),
        ("latin-1", b"caf\xe9 \\u6a21\n"),
        ("utf-8", "café 模\n".encode()),
    ],
)
def test_characters_that_the_locale_lacks_are_escaped(
    monkeypatch: pytest.MonkeyPatch, encoding: str, shown: bytes
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding))
    print_lines("café 模")
    assert written.getvalue() == shown
