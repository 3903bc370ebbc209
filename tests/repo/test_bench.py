"""The benchmark runs from end to end and reports its figures; the figures are not judged."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from scripts.benchmarks.pictures import chart
from scripts.benchmarks.report import Figure, Report

ROOT = Path(__file__).parents[2]


async def bench(*arguments: str) -> str:
    """Run the benchmark; returns its output."""
    command = ("-m", "scripts.bench", *arguments)
    child = await asyncio.create_subprocess_exec(
        sys.executable, *command, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await child.communicate()
    assert child.returncode == 0
    return printed.decode()


async def test_bench_prints_a_table_and_writes_its_files(tmp_path: Path) -> None:
    output = tmp_path / "figures.json"
    printed = await bench(
        "--only", "requests", "--rounds", "1", "--seconds", "0.05",
        "--json", str(output), "--pictures", str(tmp_path),
    )  # fmt: skip
    assert "| 32 connections | CPU us per request |" in printed
    assert "Not measured" not in printed
    assert "| 256 connections | added p99 ms |" in (tmp_path / "table.md").read_text()
    sides = {figure["side"] for figure in json.loads(output.read_text())["figures"]}
    assert sides == {"direct", "floor", "RustyGate"}


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        pytest.param(Figure((100.0, 101.0, 110.0)), "101", id="calm"),
        pytest.param(Figure((100.0, 101.0, 190.0)), "~100.5 to 145.5", id="noisy"),
        pytest.param(Figure((100.0,)), "100", id="one round"),
        pytest.param(
            Figure((50.0, 100.0, 400.0), (2.0, 2.1, 2.2)), "2.10x (100)", id="calm ratio"
        ),
        pytest.param(Figure((9.0, 9.0, 9.0), (1, 2, 3)), "~1.50x to 2.50x (9)", id="noisy ratio"),
    ],
)
def test_figure_is_a_range_where_the_rounds_disagree(figure: Figure, text: str) -> None:
    assert str(figure) == text


def test_ratio_is_to_the_floor_in_the_same_round() -> None:
    report = Report()
    for floor, gate in ((100, 150), (200, 320), (100, 170)):
        report.add("requests", "1 connections", "floor", {"CPU us per request": floor})
        report.add("requests", "1 connections", "RustyGate", {"CPU us per request": gate})
    row = report.row(("requests", "1 connections", "CPU us per request"))
    assert row["RustyGate"].ratio == 1.6
    assert row["floor"].ratio is None


def test_skipped_side_is_listed_once() -> None:
    report = Report()
    for _ in range(2):
        report.skip("nginx", "not installed")
    report.add("frames", "50 sockets", "floor", {"CPU us per frame": 20})
    assert report.markdown().count("- nginx: not installed") == 1


def test_chart_has_a_line_per_name() -> None:
    svg = chart("Title", "streams", {"floor": [(1, 20), (1000, 30)], "R&G": [(0, 25)]})
    assert svg.count("<polyline") == 2
    assert "R&amp;G" in svg


def test_side_that_fails_in_a_later_round_has_no_figures() -> None:
    report = Report()
    for side in ("floor", "nginx"):
        report.add("frames", "50 sockets", side, {"CPU us per frame": 20})
    report.forget("frames", "50 sockets", "nginx")
    assert list(report.row(("frames", "50 sockets", "CPU us per frame"))) == ["floor"]
