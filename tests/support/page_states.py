"""States of a gate as the live page gets them, with something in every section."""

from typing import Any

State = dict[str, Any]

# What the page shows for a value that it does not know: an en dash.
DASH = "\u2013"

# Names that a stranger may choose. Nothing in them may become markup, or turn around or hide the
# text beside them.
NASTY_NAMES = {
    "markup": "<img src=x onerror=document.title='owned'><script>alert(1)</script>",
    "quotes": "\"'`--></title></script><b>&amp;&#60;",
    "right-to-left": "\u202egnp.exe\u2067\u200f",
    "control": "a\x00b\x1b[31mred\tc",
    "long": "n" * 10_000,
    "prototype": "__proto__",
    "empty": "",
}


def lane(model: str, **changes: Any) -> State:
    return {
        "model": model,
        "budgets": [
            {"budget": "requests", "level": 125, "limit": 500, "per_minute": 500.0},
            {"budget": "tokens", "level": 1_500_000, "limit": 2_000_000, "per_minute": 2e6},
        ],
        "paused_s": 0.0,
        "waiting": 7,
        "forecast_s": {"interactive": 0.25, "default": 2.5, "batch": 61.0},
        "learned_s": 4.2,
        "others_per_min": {"requests": 30.0, "tokens": 12_000.0},
        "pace_per_min": None,
        "history": [0, 5, 10, 20],
    } | changes


def client(name: str, **changes: Any) -> State:
    return {
        "client": name,
        "weight": 2.0,
        "priority": "default",
        "waiting": 3,
        "in_flight": 1,
        "share": 0.30,
        "share_due": 0.25,
        "tokens_today": 1_234_567,
        "cost_today_usd": 1.5,
        "budget_left": {},
    } | changes


def waiter(number: int, **changes: Any) -> State:
    return {
        "id": f"aaaa-{number}",
        "client": "search",
        "priority": "default",
        "model": "gpt-5",
        "cost": 1200,
        "waited_s": 2.0,
        "expected_s": 1.0,
        "blocked_by": "lane tokens",
    } | changes


def exchange(number: int, **changes: Any) -> State:
    return {
        "at": "2026-11-28T14:00:05.000Z",
        "id": f"bbbb-{number}",
        "request_id": "req_1",
        "client": "search",
        "method": "POST",
        "path": "/v1/responses",
        "model": "gpt-5",
        "status": 200,
        "attempts": 1,
        "queued_ms": 400,
        "first_byte_ms": 600,
        "total_ms": 2600,
        "tokens_in": 1000,
        "tokens_cached": 100,
        "tokens_out": 50,
        "bytes": 4000,
        "outcome": "ok",
    } | changes


def usage(day: str, **changes: Any) -> State:
    return {
        "day": day,
        "exchanges": 1000,
        "refused": 10,
        "tokens_in": 2_000_000,
        "tokens_cached": 500_000,
        "tokens_out": 250_000,
        "tokens_estimated": 0,
        "queued_seconds": 90.0,
        "cost_usd": 2.5,
    } | changes


def worker(number: int, **changes: Any) -> State:
    return {
        "number": number,
        "pid": 4000 + number,
        "state": "serving",
        "in_flight": 4,
        "connections": 1200,
        "restarts": 0,
    } | changes


def page_state(**changes: Any) -> State:
    """A gate that serves two clients and two models."""
    return {
        "now": "2026-11-28T14:00:06.000Z",
        "version": "1.2.3",
        "state": "serving",
        "uptime_s": 11_520.0,
        "in_flight": 12,
        "waiting": 34,
        "admitted_per_s": 9.5,
        "longest_wait_s": 75.0,
        "upstream_429_5m": 0,
        "group": {"state": "single", "members": 1},
        "workers": [],
        "budgets": [{"budget": "requests", "level": 5, "limit": 20, "per_minute": 600.0}],
        "lanes": [lane("gpt-5"), lane("gpt-5-mini", paused_s=3.0)],
        "clients": [client("search"), client("chat", share=0.1)],
        "queue": [waiter(1), waiter(2, blocked_by="turn")],
        "recent": [exchange(2, client="chat"), exchange(1)],
        "refusals": {"queue_timeout": 3},
        "verdicts": {"pass": 0, "pause": 2, "slow": 0},
        "retries": {"upstream_429": 2},
        "history": {"admitted": [10, 50, 45], "waiting": [0, 12, 34]},
        "usage": [usage("2026-11-27"), usage("2026-11-28", cost_usd=None)],
    } | changes
