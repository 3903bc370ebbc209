"""`rustygate key`: what it prints, and how it adds to a clients file."""

import os
import re
import socket
import stat
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rustygate.cli import main
from rustygate.config import append_to_clients_file, read_clients_file
from rustygate.core.clients import hash_key

KEY = r"rg-[\w-]{43}"


def test_key_prints_the_key_and_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "search"]) == 0
    out, err = capsys.readouterr()
    key = re.search(rf"^{KEY}$", out, re.M)
    assert key
    assert out.endswith(f'\n[client.search]\nkey_sha256 = "{hash_key(key[0])}"\n')
    assert err == ""


def test_toml_flag_prints_only_the_table_and_the_key_to_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["key", "a.b", "--toml"]) == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(rf"{KEY}\n", err)
    assert tomllib.loads(out) == {"client": {"a.b": {"key_sha256": hash_key(err.strip())}}}


def test_hash_only_flag_prints_only_the_hash_and_the_key_to_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["key", "search", "--hash-only"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{hash_key(err.strip())}\n"


def test_append_flag_adds_the_table_to_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "clients.toml"
    for name in ("search", "a.b"):
        assert main(["key", name, "--append", str(file)]) == 0
        out, err = capsys.readouterr()
        key = re.search(rf"^{KEY}$", out, re.M)
        assert key
        assert "key_sha256" not in out + err
        client = read_clients_file(str(file)).find_by_key(key[0])
        assert client
        assert client.name == name
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (f'[client.search]\nkey_sha256 = "{"a" * 64}"\n', "client.search already exists"),
        ("[client", "expected TOML: syntax error"),
        ("[client.other]\n", "client.other.key_sha256: not set"),
    ],
    ids=["name exists", "not TOML", "invalid client"],
)
def test_file_that_cannot_take_the_table_is_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, problem: str
) -> None:
    file = tmp_path / "clients.toml"
    file.write_text(content)
    before = file.stat()
    assert main(["key", "search", "--append", str(file)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"rustygate: {file}: {problem}")
    assert file.read_text() == content
    assert file.stat().st_ino == before.st_ino
    assert list(tmp_path.iterdir()) == [file]


def test_file_in_a_missing_directory_is_a_one_line_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "missing" / "clients.toml"
    assert main(["key", "search", "--append", str(file)]) == 1
    assert capsys.readouterr() == (
        "",
        f"rustygate: cannot write {file}: No such file or directory\n",
    )


def table(name: str) -> str:
    return f'[client.{name}]\nkey_sha256 = "{hash_key(name)}"'


def test_append_keeps_comments_mode_and_symbolic_link(tmp_path: Path) -> None:
    file, link = tmp_path / "clients.toml", tmp_path / "link"
    file.write_text(f"# ours\n{table('a')} # last line has no end")
    file.chmod(0o604)
    link.symlink_to(file)
    append_to_clients_file(str(link), "b", table("b"))
    assert link.is_symlink()
    assert file.read_text() == f"# ours\n{table('a')} # last line has no end\n\n{table('b')}\n"
    assert file.stat().st_mode & 0o777 == 0o604


def test_new_file_is_not_readable_by_others(tmp_path: Path) -> None:
    file = tmp_path / "clients.toml"
    append_to_clients_file(str(file), "a", table("a"))
    assert file.read_text() == f"{table('a')}\n"
    assert file.stat().st_mode & 0o777 == 0o640


def test_concurrent_appends_lose_no_client(tmp_path: Path) -> None:
    file = str(tmp_path / "clients.toml")
    names = [f"client{number}" for number in range(20)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: append_to_clients_file(file, name, table(name)), names))
    assert set(read_clients_file(file).by_name) == set(names)


def test_failed_replacement_leaves_no_file_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "clients.toml"
    file.write_text(table("a"))

    def fail(source: str, target: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        append_to_clients_file(str(file), "b", table("b"))
    assert file.read_text() == table("a")
    assert list(tmp_path.iterdir()) == [file]


def _make_null_device(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root can make devices")


def _make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(_make_null_device, id="device"),
        pytest.param(_make_socket, id="socket"),
        pytest.param(os.mkfifo, id="pipe"),
        pytest.param(Path.mkdir, id="directory"),
    ],
)
def test_append_replaces_regular_files_only(
    tmp_path: Path, make: Callable[[Path], object], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "clients.toml"
    make(file)
    before = file.stat()
    link = tmp_path / "link"
    link.symlink_to(file)
    for path in (file, link):
        assert main(["key", "search", "--append", str(path)]) == 2
        expected = f"rustygate: {path}: expected a regular file, such as clients.toml\n"
        assert capsys.readouterr() == ("", expected)
    assert (file.stat().st_mode, file.stat().st_ino) == (before.st_mode, before.st_ino)
