"""The clients file: read as a whole or rejected."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rustygate.config import (
    read_clients_file,
)
from tests.config.problems import KEY, problems

CLIENTS = f"[client.a]\nkey_sha256 = '{'0' * 64}'\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_clients_are_read_with_and_without_a_byte_order_mark(
    tmp_path: Path, encoding: str
) -> None:
    file = tmp_path / "clients.toml"
    file.write_text(CLIENTS.replace("\n", "\r\n"), encoding)
    assert repr(read_clients_file(str(file))) == "<Clients a>"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(os.mkfifo, "not a pipe", id="pipe"),
        pytest.param(
            lambda path: path.write_text(CLIENTS + "#" * (16 << 20)),
            "at most 16777216",
            id="large",
        ),
        pytest.param(lambda path: path.write_bytes(b"\xff"), "UTF-8", id="not UTF-8"),
        pytest.param(lambda path: path.mkdir(), "Is a directory", id="directory"),
    ],
)
def test_unreadable_clients_file_is_rejected(
    tmp_path: Path, make: Callable[[Path], object], reason: str
) -> None:
    """Loading neither blocks nor accepts a part of the file."""
    file = tmp_path / "clients.toml"
    make(file)
    [problem] = problems(KEY | {"CLIENTS_FILE": str(file)})
    assert problem.startswith("CLIENTS_FILE=")
    assert reason in problem
