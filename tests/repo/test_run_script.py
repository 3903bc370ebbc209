"""`scripts/run`: which `rustygate` command it runs, with stubs for the installation."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Prints the arguments that it is given, one per line.
RUSTYGATE_STUB = """#!/bin/sh
printf '%s\\n' "$@"
"""
INSTALL_STUB = """#!/bin/sh
"""


def write_executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A directory with the scripts, where the installation and the command are stubs."""
    write_executable(tmp_path / "scripts/install", INSTALL_STUB)
    write_executable(tmp_path / ".venv/bin/rustygate", RUSTYGATE_STUB)
    for script in ("run", "dev", "rustygate"):
        shutil.copy(ROOT / "scripts" / script, tmp_path / "scripts")
    return tmp_path


def run(repository: Path, *arguments: str, script: str = "run", **environ: str) -> tuple[str, str]:
    """The arguments of the `rustygate` that runs, and what is printed to stderr."""
    completed = subprocess.run(
        [repository / "scripts" / script, *arguments],
        cwd="/",
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    return completed.stdout, completed.stderr


@pytest.mark.parametrize("variable", ["OPENAI_API_KEY", "OPENAI_API_KEY_FILE"])
def test_run_serves_with_a_key_in_the_environment(repository: Path, variable: str) -> None:
    stdout, stderr = run(repository, **{variable: "sk-x"})
    assert stdout == "serve\n"
    assert stderr == "running rustygate serve; other commands: scripts/rustygate --help\n"


@pytest.mark.parametrize(
    "line", ["OPENAI_API_KEY=sk-x", "export OPENAI_API_KEY = sk-x", "OPENAI_API_KEY_FILE=key"]
)
def test_run_serves_with_a_key_in_dotenv(repository: Path, line: str) -> None:
    (repository / ".env").write_text(f"PORT=1\n{line}\n")
    assert run(repository)[0] == "serve\n"


def test_run_serves_with_a_systemd_credential(repository: Path) -> None:
    (repository / "openai_api_key").touch()
    assert run(repository, CREDENTIALS_DIRECTORY=str(repository))[0] == "serve\n"


@pytest.mark.parametrize("line", ["", "OPENAI_API_KEY=", "#OPENAI_API_KEY=sk-x"])
def test_run_without_a_key_runs_the_demo(repository: Path, line: str) -> None:
    (repository / ".env").write_text(f"{line}\n")
    stdout, stderr = run(repository, CREDENTIALS_DIRECTORY=str(repository))
    assert stdout == "demo\n"
    assert stderr == (
        "running rustygate demo (no OPENAI_API_KEY in the environment or in .env); "
        "other commands: scripts/rustygate --help\n"
    )


@pytest.mark.parametrize("key", [{}, {"OPENAI_API_KEY": "sk-x"}], ids=["no key", "key"])
@pytest.mark.parametrize("script", ["run", "dev", "rustygate"])
def test_arguments_reach_rustygate_unchanged(
    repository: Path, script: str, key: dict[str, str]
) -> None:
    stdout, stderr = run(repository, "plan", "--client", "a b", script=script, **key)
    assert stdout == "plan\n--client\na b\n"
    expected = "running rustygate plan --client a b; other commands: scripts/rustygate --help\n"
    assert stderr == ("" if script == "rustygate" else expected)
