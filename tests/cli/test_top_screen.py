"""The screen of `rustygate top`: what fits, what stands out, and names that try to break it."""

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from rustygate.cli.top_screen import can_show, count, duration, screen


def lane(**fields: Any) -> dict[str, Any]:
    budgets = [
        {"budget": "requests", "level": 428, "limit": 500},
        {"budget": "tokens", "level": -20, "limit": 2_000_000},
    ]
    forecast = {"interactive": 0.065, "default": 1.5, "batch": None}
    given = {"model": "gpt-4o", "budgets": budgets, "paused_s": 0.0, "waiting": 7, "in_flight": 2}
    return given | {"forecast_s": forecast} | fields


def client(**fields: Any) -> dict[str, Any]:
    given = {"client": "search", "weight": 2.0, "priority": "batch", "waiting": 3, "in_flight": 1}
    usage = {"share": 0.25, "share_due": 0.5, "tokens_today": 12_345, "cost_today_usd": 1.5}
    return given | usage | fields


def waiter(**fields: Any) -> dict[str, Any]:
    given = {"client": "search", "model": "gpt-4o", "cost": 64, "waited_s": 8.9}
    return given | {"expected_s": 0.25, "blocked_by": "tokens"} | fields


def settled(**fields: Any) -> dict[str, Any]:
    given = {"client": "search", "model": None, "status": 200, "outcome": "ok"}
    return given | {"queued_ms": 9000, "total_ms": None} | fields


def state(**fields: Any) -> dict[str, Any]:
    given = {
        "state": "serving",
        "uptime_s": 3 * 3600 + 300,
        "in_flight": 12,
        "waiting": 3456,
        "admitted_per_s": 9.84,
        "longest_wait_s": 12.3,
        "upstream_429_5m": 0,
        "group": {"state": "single", "members": 1},
        "workers": [],
        "refusals": {"queue_full": 1, "queue_timeout": 3, "draining": 0},
        "lanes": [lane()],
        "clients": [client()],
        "queue": [waiter()],
        "recent": [settled()],
    }
    return given | fields


def shown(height: int = 24, width: int = 80, notice: str = "", **fields: Any) -> list[str]:
    """The lines of the screen, without trailing blanks."""
    output = StringIO()
    console = Console(file=output, width=width, height=height, color_system=None)
    console.print(screen(state(**fields), height, notice))
    return [line.rstrip() for line in output.getvalue().splitlines()]


def test_screen_shows_the_state() -> None:
    assert [" ".join(line.split()) for line in shown()] == [
        "RustyGate serving up 3h05m upstream's 429s in 5 min 0",
        "in flight 12 waiting 3,456 admitted 9.8/s longest wait 12.3 s",
        "refused queue_timeout 3 queue_full 1",
        "q quits",
        "LANES",
        "model requests tokens waiting paused wait by class",
        "gpt-4o 428/500 -20/2.0M 7 - 65 ms 1.5 s -",
        "CLIENTS",
        "client weight class waiting in flight share/due tokens cost",
        "search 2 batch 3 1 25%/50% 12.3k $1.50",
        "NEXT",
        "client model cost waited expected waits for",
        "search gpt-4o 64 8.9 s 250 ms tokens",
        "LAST",
        "client model status outcome queued total",
        "search - 200 ok 9.0 s -",
    ]


@pytest.mark.parametrize(
    ("states", "text"),
    [(["serving"] * 3, "3 workers"), (["serving", "silent", "starting"], "1 of 3 workers")],
    ids=["all", "one"],
)
def test_serving_workers_are_counted(states: list[str], text: str) -> None:
    [first, *_] = shown(workers=[{"state": each} for each in states])
    assert first == f"RustyGate  serving  up 3h05m  {text}  upstream's 429s in 5 min 0"


def test_gate_alone_and_a_group_are_named() -> None:
    [first, *_] = shown(state="alone", group={"state": "alone", "members": 3})
    assert first == (
        "RustyGate  alone  up 3h05m  group alone, 3 gates  upstream's 429s in 5 min 0"
    )


@pytest.mark.parametrize("height", [24, 30, 50, 10, 5, 1])
def test_screen_fits_the_terminal(height: int) -> None:
    lists: dict[str, Any] = {
        "lanes": [lane(model=f"m{number}") for number in range(30)],
        "clients": [client(client=f"c{number}") for number in range(300)],
        "queue": [waiter() for _ in range(20)],
        "recent": [settled() for _ in range(50)],
    }
    lines = shown(height, **lists)
    assert len(lines) <= max(height, 4)
    if height >= 24:
        assert len(lines) >= height - 1
        for title in ("LANES", "CLIENTS", "NEXT", "LAST"):
            assert any(line.startswith(title) for line in lines)
    assert all(len(line) <= 80 for line in lines)


def test_rows_that_do_not_fit_are_counted() -> None:
    lines = shown(lanes=[lane(model=f"m{number}") for number in range(30)])
    [title] = [line for line in lines if line.startswith("LANES")]
    rows = [line for line in lines if line.startswith("m") and "/500" in line]
    assert title == f"LANES  {len(rows)} of 30"
    assert rows[0].startswith("m0 ")


def test_rows_that_matter_are_shown_in_their_order_if_not_all_fit() -> None:
    lanes = [lane(model=f"m{number}", waiting=number % 7) for number in range(30)]
    lanes[3]["paused_s"] = 1.0
    clients = [client(client=f"c{number}", waiting=number) for number in range(300)]
    clients[7]["waiting"] = 1000
    lines = shown(lanes=lanes, clients=clients)
    assert [line.split()[0] for line in lines if "/500" in line] == ["m3", "m6"]
    shown_clients = [line.split()[0] for line in lines if "25%/50%" in line]
    assert shown_clients == ["c7", *(f"c{number}" for number in (298, 299))]


def test_rows_of_the_same_importance_come_first_to_last() -> None:
    clients = [client(client=f"c{number}") for number in range(300)]
    assert [line.split()[0] for line in shown(clients=clients) if "25%/50%" in line] == [
        f"c{number}" for number in range(3)
    ]


def test_empty_lists_say_so() -> None:
    lines = shown(lanes=[], clients=[], queue=[], recent=[], refusals={})
    assert lines.count("  none") == 4
    assert "refused  none 0" in lines


def test_notice_takes_the_place_of_the_help() -> None:
    lines = shown(notice="http://localhost:8080 does not respond")
    assert lines[3] == "http://localhost:8080 does not respond"
    assert "q quits" not in lines


@pytest.mark.parametrize(
    "name", ["[red]x[/red]", "a\x1b[2Jb", "\u202egnp.exe", "x" * 10_000, "\r\n", "日本" * 40, ""]
)
def test_name_from_a_stranger_stays_text_in_its_cell(name: str) -> None:
    lines = shown(clients=[client(client=name)], queue=[waiter(model=name)])
    plain = shown()
    assert len(lines) == len(plain)
    assert all(len(line) <= 80 and line.isprintable() for line in lines)
    if name.startswith("["):
        assert any(line.startswith(name) for line in lines)


def test_bad_rows_stand_out() -> None:
    output = StringIO()
    console = Console(file=output, width=100, force_terminal=True, color_system="standard")
    rows = {"lanes": [lane(paused_s=2.0)], "recent": [settled(outcome="refused")]}
    console.print(screen(state(**rows, upstream_429_5m=7), 30))
    bold_red = [line for line in output.getvalue().splitlines() if "\x1b[1;31m" in line]
    assert any("429s in 5 min 7" in line for line in bold_red)
    assert any("gpt-4o" in line and "2.0 s" in line for line in bold_red)
    assert any("refused" in line and "search" in line for line in bold_red)
    assert len(bold_red) == 3


@pytest.mark.parametrize(
    "other",
    [None, [], "state", {}, {"uptime_s": 1}, state(lanes=[{}]), state(uptime_s="?")],
    ids=["nothing", "list", "text", "empty", "too little", "lane of another version", "type"],
)
def test_state_of_anything_else_is_not_shown(other: object) -> None:
    assert can_show(state())
    assert not can_show(other)


def test_unknown_cost_and_share_are_not_zero() -> None:
    row = client(cost_today_usd=None, share=None, share_due=None)
    [line] = [
        line for line in shown(clients=[row]) if line.startswith("search ") and "batch" in line
    ]
    assert "unknown" in line
    assert "%" not in line


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"), (950, "950"), (9999, "9,999"), (10_000, "10.0k"), (123_456, "123.5k"),
        (2_000_000, "2.0M"), (3e9, "3.0G"), (-20, "-20"), (-1_500_000, "-1.5M"), (None, "-"),
    ],
)  # fmt: skip
def test_counts_are_short(number: float | None, text: str) -> None:
    assert count(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"), (0.0849, "85 ms"), (1, "1.0 s"), (59.94, "59.9 s"), (60, "1m00s"),
        (312, "5m12s"), (3600, "1h00m"), (7 * 3600 + 300, "7h05m"), (172_800, "2d00h"),
    ],
)  # fmt: skip
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text
