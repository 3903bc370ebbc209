"""DATA_DIR: created, locked for one gate, and with broken files put aside."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rustygate.system.data_dir import (
    LOCK_FILE,
    DataDir,
    DataDirInUse,
    data_dir_problem,
    put_aside,
)
from tests.cli.processes import SECRET, serve
from tests.conftest import Start
from tests.support.disks import read_only
from tests.support.process import ROOT

# 2026-11-28 14:30:05 UTC, and some nanoseconds.
NOON_NS = 1_795_876_205_123_456_789


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has the directory `data`."""
    code = (
        "import sys; from rustygate.system.data_dir import DataDir; "
        "held = DataDir(sys.argv[1]); print(flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "data")],
        env={"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdin
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_missing_directory_is_created_for_its_owner_only(tmp_path: Path) -> None:
    directory = DataDir(tmp_path / "new" / "data")
    assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700
    assert (directory.path / LOCK_FILE).read_text() == f"{os.getpid()}\n"
    directory.close()


def test_mode_of_an_existing_directory_stays(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    DataDir(tmp_path).close()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o750


def test_directory_is_for_one_process(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    with pytest.raises(DataDirInUse) as raised:
        DataDir(tmp_path / "data")
    assert str(raised.value) == (
        f"DATA_DIR={tmp_path}/data is in use by another gate (process {holder.pid}); give each "
        "gate its own directory"
    )


def test_directory_of_a_killed_process_is_free(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    holder.kill()
    holder.wait()
    DataDir(tmp_path / "data").close()


def test_closed_directory_is_free(tmp_path: Path) -> None:
    DataDir(tmp_path).close()
    DataDir(tmp_path).close()


def test_second_gate_is_refused_in_one_line(start: Start, tmp_path: Path) -> None:
    directory = tmp_path / "data"
    first = serve(start, DATA_DIR=str(directory))
    first.listening_url()
    second = start("serve", OPENAI_API_KEY=SECRET, PORT="0", DATA_DIR=str(directory))
    assert second.ended() == (
        1,
        "",
        f"rustygate: DATA_DIR={directory} is in use by another gate (process {first.pid}); give "
        "each gate its own directory\n",
    )
    first.signal()
    assert first.exit_code() == 0
    third = serve(start, DATA_DIR=str(directory))
    third.listening_url()


def test_state_directory_of_systemd_is_used(start: Start, tmp_path: Path) -> None:
    state = f"{tmp_path}/one:{tmp_path}/two"
    process = start("check", OPENAI_API_KEY=SECRET, STATE_DIRECTORY=state)
    assert f"DATA_DIR={tmp_path}/one  # STATE_DIRECTORY\n" in process.ended()[1]
    process = start("check", OPENAI_API_KEY=SECRET, STATE_DIRECTORY=state, DATA_DIR="other")
    assert "DATA_DIR=other  # environment\n" in process.ended()[1]


def test_data_dir_that_is_a_file_is_bad_configuration(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for path in (file, file / "below"):
        code, _, stderr = start("check", OPENAI_API_KEY=SECRET, DATA_DIR=str(path)).ended()
        assert code == 2
        # A long path is shortened.
        assert stderr.startswith("rustygate: DATA_DIR='/")
        assert stderr.endswith(": expected the path of a directory (Not a directory)\n")
        assert stderr.count("\n") == 1


def test_check_warns_of_a_directory_that_cannot_be_written(start: Start, tmp_path: Path) -> None:
    with read_only(tmp_path / "data") as directory:
        assert data_dir_problem(str(directory)) == "Read-only file system"
        with pytest.raises(OSError, match="Read-only file system"):
            DataDir(directory)
        code, _, stderr = start("check", OPENAI_API_KEY=SECRET, DATA_DIR=str(directory)).ended()
    assert (code, stderr) == (
        0,
        f"rustygate: warning: DATA_DIR={directory} cannot be written to (Read-only file system): "
        "usage and the levels of limits are kept in memory and lost when the gate stops\n",
    )


def test_gate_serves_without_a_directory_that_cannot_be_written(
    start: Start, tmp_path: Path
) -> None:
    with read_only(tmp_path / "data") as directory:
        gate = serve(start, DATA_DIR=str(directory))
        gate.wait_for_line(
            gate.stderr,
            f"DATA_DIR={directory} cannot be written to .Read-only file system.: usage and "
            "the levels of limits are kept in memory and lost when the gate stops",
        )
        gate.wait_for_line(gate.stderr, "listening .*usage=.?in memory, lost when the gate stops")
        gate.signal()
        assert gate.exit_code() == 0


@pytest.mark.parametrize("path", ["x", "x/y/z"])
def test_writable_directory_is_no_problem(tmp_path: Path, path: str) -> None:
    assert data_dir_problem(str(tmp_path / path)) is None
    assert not (tmp_path / "x").exists()


def test_broken_file_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "usage.db"
    names = set()
    for content in ("first", "second", "third"):
        path.write_text(content)
        (tmp_path / "usage.db-wal").write_text("log")
        aside = put_aside(path, NOON_NS, ("", "-wal", "-shm"))
        assert aside.read_text() == content
        assert Path(f"{aside}-wal").read_text() == "log"
        names.add(aside.name)
    base = "usage.db.broken-20261128T143005Z"
    assert names == {base, f"{base}-2", f"{base}-3"}
    assert len(list(tmp_path.iterdir())) == 6
