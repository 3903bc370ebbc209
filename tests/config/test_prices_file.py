"""The prices file: read as a whole or rejected."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rustygate.config import read_prices_file
from tests.config.problems import KEY, problems

PRICES = "[model.a]\ninput_usd_per_mtok = 1\noutput_usd_per_mtok = 2\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_prices_are_read_with_and_without_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(PRICES.replace("\n", "\r\n"), encoding)
    assert list(read_prices_file(str(file))) == ["a"]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(os.mkfifo, "not a pipe", id="pipe"),
        pytest.param(lambda path: path.write_bytes(b"\xff"), "UTF-8", id="not UTF-8"),
        pytest.param(lambda path: path.mkdir(), "Is a directory", id="directory"),
        pytest.param(lambda path: None, "No such file", id="missing"),
    ],
)
def test_unreadable_prices_file_is_rejected(
    tmp_path: Path, make: Callable[[Path], object], reason: str
) -> None:
    file = tmp_path / "prices.toml"
    make(file)
    [problem] = problems(KEY | {"PRICES_FILE": str(file)})
    assert problem.startswith("PRICES_FILE=")
    assert reason in problem


def test_problems_of_both_tables_are_reported_together(tmp_path: Path) -> None:
    (tmp_path / "prices.toml").write_text("[model.a]\n")
    (tmp_path / "clients.toml").write_text("[clients]\n")
    files = {
        "PRICES_FILE": str(tmp_path / "prices.toml"),
        "CLIENTS_FILE": str(tmp_path / "clients.toml"),
    }
    found = problems(KEY | files)
    assert [problem.partition("=")[0] for problem in found] == [
        "CLIENTS_FILE",
        "PRICES_FILE",
        "PRICES_FILE",
    ]
