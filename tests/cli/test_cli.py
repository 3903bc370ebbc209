"""The command line as a whole: usage, help, and exit codes."""

import subprocess
import sys

import pytest

from rustygate import __version__
from rustygate.cli import COMMANDS, main
from tests.cli.processes import SECRET
from tests.conftest import Start
from tests.support.process import ROOT


def test_version_flag_prints_the_version(start: Start) -> None:
    assert start("--version").ended() == (0, f"rustygate {__version__}\n", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_command_has_its_own_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main([command, "--help"])
    assert exit.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: rustygate {command} ")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_the_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["--help"])
    assert exit.value.code == 0
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
def test_bad_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2
    assert capsys.readouterr().err.startswith("usage: rustygate")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["serv"], "rustygate: error: unknown command 'serv'; did you mean serve?"),
        (["Plan"], "rustygate: error: unknown command 'Plan'; did you mean plan?"),
        (["HELP"], "rustygate: error: unknown command 'HELP'; did you mean help?"),
        (["helth", "x"], "rustygate: error: unknown command 'helth'; did you mean health?"),
        (
            ["help", "chekc"],
            "rustygate help: error: argument COMMAND: unknown command 'chekc'; "
            "did you mean check?",
        ),
        (
            ["fly"],
            f"rustygate: error: unknown command 'fly'; expected {', '.join(COMMANDS)}",
        ),
    ],
)
def test_unknown_command_is_answered_with_the_nearest(
    arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == error


@pytest.mark.parametrize(
    ("arguments", "usage"),
    [
        (["help"], "usage: rustygate [-h] [--version] COMMAND ..."),
        (["help", "plan"], "usage: rustygate plan "),
        (["help", "help"], "usage: rustygate help "),
    ],
    ids=" ".join,
)
def test_help_shows_the_help_of_a_command(
    arguments: list[str], usage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 0
    assert capsys.readouterr().out.startswith(usage)


def test_closed_stdout_causes_no_traceback(start: Start) -> None:
    check = start("check", OPENAI_API_KEY=SECRET)
    check.stdout.close()
    assert check.stderr.read() == ""


def check_imports(code: str, *unwanted: str) -> None:
    """Check that a program imports none of these modules."""
    check = f"import sys\nsys.exit(' '.join({set(unwanted)} & sys.modules.keys()) or 0)"
    process = subprocess.run(
        [sys.executable, "-c", f"{code}\n{check}"], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr


def test_gate_does_without_modules_that_take_much_memory() -> None:
    """frozenlist's compiled module loads the C++ runtime, and importlib.resources imports
    zipfile."""
    code = "import rustygate.cli.gate_server, rustygate.daemon"
    check_imports(code, "frozenlist._frozenlist", "importlib.resources", "zipfile")


def test_health_imports_no_server() -> None:
    """It runs every few seconds in a container, so it must start quickly."""
    code = "from rustygate.cli import main\nmain(['health', 'http://127.0.0.1:9'])"
    check_imports(code, "aiohttp", "rustygate.daemon", "rustygate.simulator")


def test_single_gate_imports_nothing_for_a_database_or_a_group() -> None:
    """It would take memory for nothing."""
    check_imports(
        "import rustygate.cli.gate_server",
        *("sqlite3", "rich", "rustygate.simulator"),
        *("rustygate.admission.group.dispatcher", "rustygate.admission.group.redis_session"),
        "rustygate.core.group_scheduler",
    )
