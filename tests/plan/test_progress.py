"""The progress of a long plan."""

from io import StringIO

import pytest

from rustygate.cli import main
from rustygate.plan import progress
from rustygate.plan.forecast import Plan
from rustygate.plan.progress import Progress

PLAN = Plan((), rpm=500, tpm=None)
TEXT = "plan with 500 requests and unlimited tokens a minute"


def shown(*, is_terminal: bool, seconds_each: float) -> str:
    """What is shown of a plan of a thousand requests."""
    now, stream = [0.0], StringIO()
    line = Progress(1000, stream, is_terminal=is_terminal, clock=lambda: now[0])
    observe = line.start_run(PLAN)
    for _ in range(1000):
        now[0] += seconds_each
        observe("web", 0.0)
    line.clear()
    return stream.getvalue()


def test_short_plan_shows_nothing() -> None:
    assert shown(is_terminal=True, seconds_each=0.00099) == ""
    assert shown(is_terminal=False, seconds_each=0.00099) == ""


def test_long_plan_prints_a_line_now_and_then() -> None:
    lines = shown(is_terminal=False, seconds_each=0.03).splitlines()
    assert lines == [
        f"{TEXT}: 6% of 1000 requests",
        f"{TEXT}: 45% of 1000 requests",
        f"{TEXT}: 83% of 1000 requests",
    ]


def test_line_is_redrawn_and_removed_on_a_terminal() -> None:
    _, *parts = shown(is_terminal=True, seconds_each=0.003).split("\r\x1b[K")
    assert parts[0] == f"{TEXT}: 38% of 1000 requests"
    assert parts[-2] == f"{TEXT}: 90% of 1000 requests"
    assert parts[-1] == ""
    assert not any("\n" in part for part in parts)


def test_plan_shows_its_progress_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "DELAY_S", 0)
    arguments = ["--rpm", "60", "--tpm", "0", "--client", "web:1/s:10"]
    assert main(["plan", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err.startswith("plan with 60 requests and unlimited tokens a minute: ")
    assert "plan with" not in out
