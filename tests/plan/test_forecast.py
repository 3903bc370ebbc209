"""`rustygate plan`: the gate's own code on a virtual clock, in front of a quota."""

import argparse
import re
import time
import tracemalloc

import pytest

from rustygate.cli import main
from rustygate.plan.demand import Demand
from rustygate.plan.forecast import Forecast, Plan, forecast, requests_of
from rustygate.plan.table import rows


def run_plan(*clients: str, **options: object) -> Forecast:
    return forecast(Plan(tuple(map(Demand.parse, clients)), **options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "demand"),
    [
        ("web:2/s:800", Demand("web", 2, None, 800)),
        ("web:90/m:800", Demand("web", 1.5, None, 800)),
        ("web:36/h:0", Demand("web", 0.01, None, 0)),
        ("batch:1000@once:3000", Demand("batch", 1000, 0, 3000)),
        ("batch:10@60:30:batch", Demand("batch", 10, 60, 30, "batch")),
        ("web:0.5/s:8:interactive:2.5", Demand("web", 0.5, None, 8, "interactive", 2.5)),
        ("web:1/s:8k", Demand("web", 1, None, 8000)),
        ("batch:10@60:1.5k:batch", Demand("batch", 10, 60, 1500, "batch")),
        ("web:1/s:8s", None),
        ("web:1/s:-8", None),
        ("web:1/s:", None),
        ("web:1/s:8::3", None),
        ("web:1/s", None),
        ("web:1/d:8", None),
        ("web:0/s:8", None),
        ("web:-1/s:8", None),
        ("web:1/s:8:urgent", None),
        (":1/s:8", None),
        ("web:0." + "0" * 322 + "5/h:8", None),
        ("web:0.5@once:8", None),
        ("web:1@" + "9" * 20 + ":8", None),
        ("web:1/s:8:batch:0", None),
        ("web:1/s:8:batch:1001", None),
    ],
)
def test_demand_is_parsed(text: str, demand: Demand | None) -> None:
    if demand is None:
        with pytest.raises(argparse.ArgumentTypeError, match="expected NAME"):
            Demand.parse(text)
    else:
        assert Demand.parse(text) == demand


def test_demand_below_the_quota_does_not_wait() -> None:
    result = run_plan("web:1/s:100", rpm=500, tpm=200_000)
    assert result.outcomes["web"].quantile(1) == 0
    assert len(result.outcomes["web"].waits_s) == pytest.approx(3600, rel=0.05)


@pytest.mark.parametrize(("rpm", "tpm", "tokens"), [(60, None, 10), (None, 6000, 100)])
def test_demand_above_the_quota_uses_all_of_the_quota(
    rpm: int | None, tpm: int | None, tokens: int
) -> None:
    result = run_plan(f"a:1/s:{tokens}", f"b:1/s:{tokens}", rpm=rpm, tpm=tpm, duration_s=600)
    assert max(result.used_requests or 0, result.used_tokens or 0) > 0.95
    counts = [len(result.outcomes[name].waits_s) for name in "ab"]
    assert counts[0] == pytest.approx(counts[1], rel=0.05)
    assert result.outcomes["a"].failed == 0


def test_batch_takes_as_long_as_the_quota_requires() -> None:
    result = run_plan("batch:180@once:10", rpm=60, tpm=None, timeout_s=1000)
    assert result.duration_s == pytest.approx(120, rel=0.02)
    assert result.outcomes["batch"].quantile(0.5) == pytest.approx(30, rel=0.1)


def test_batch_does_not_delay_an_interactive_client() -> None:
    clients = ("web:1/s:100:interactive", "batch:2000@once:100:batch")
    result = run_plan(*clients, rpm=120, tpm=None, timeout_s=3600, duration_s=600)
    assert result.outcomes["web"].quantile(0.95) < 2
    assert result.outcomes["batch"].quantile(0.5) > 100


def test_same_plan_gives_the_same_forecast() -> None:
    assert run_plan("web:9/s:100", duration_s=60) == run_plan("web:9/s:100", duration_s=60)


def test_observer_gets_the_wait_of_each_request() -> None:
    seen: list[tuple[str, float | None]] = []
    plan = Plan((Demand.parse("a:90@once:1"), Demand.parse("b:3@30:1")), rpm=60, tpm=None)
    result = forecast(plan, lambda client, wait_s: seen.append((client, wait_s)))
    assert requests_of(plan) == {"a": 90, "b": 3}
    for client, outcome in result.outcomes.items():
        waits = [wait_s for name, wait_s in seen if name == client]
        assert sorted(wait_s for wait_s in waits if wait_s is not None) == sorted(outcome.waits_s)
        assert waits.count(None) == outcome.refused + outcome.failed
        assert len(waits) == requests_of(plan)[client]


def test_exception_of_the_observer_ends_the_run() -> None:
    seen = []

    def stop(client: str, wait_s: float | None) -> None:
        seen.append(wait_s)
        raise LookupError

    with pytest.raises(ExceptionGroup) as caught:
        forecast(Plan((Demand.parse("a:10000@once:1"),)), stop)
    assert caught.value.subgroup(LookupError) is not None
    assert len(seen) < 1000


def test_requests_are_counted_as_they_arrive() -> None:
    plan = Plan((Demand.parse("web:2/s:1"),), rpm=None, tpm=None, duration_s=100)
    assert requests_of(plan)["web"] == len(forecast(plan).outcomes["web"].waits_s)


def test_plan_of_a_day_runs_in_seconds() -> None:
    began = time.process_time()
    result = run_plan(
        "web:30/m:500", "job:2000@once:1000:batch", duration_s=86_400, timeout_s=86_400
    )
    assert len(result.outcomes["web"].waits_s) == pytest.approx(43_200, rel=0.05)
    assert time.process_time() - began < 60


def test_requests_that_arrive_together_are_not_all_held_in_memory() -> None:
    """Requests refused on arrival free their memory before many more arrive."""
    tracemalloc.start()
    try:
        result = run_plan("job:10@once:1", "flood:4000@5:1", rpm=60, tpm=None, timeout_s=1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert result.outcomes["flood"].refused > 3000
    assert peak < 8_000_000


@pytest.mark.parametrize("client", ["job:20000000@once:1", "web:1000/s:1"])
def test_plan_with_too_many_requests_is_a_usage_error(
    client: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "--hours", "24", "--client", client]) == 2
    assert "expected at most 10,000,000 requests" in capsys.readouterr().err


def test_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--rpm", "60", "--tpm", "0", "--hours", "0.1", "--client", "web:3/s:10"]
    assert main(["plan", *arguments]) == 0
    header, web, _, used = capsys.readouterr().out.splitlines()
    assert header.split() == ["client", "requests", "admitted", "refused"] + [
        word for share in ("p50", "p95", "max") for word in (share, "s")
    ]
    name, requests, admitted, refused, *waits = web.split()
    assert (name, int(requests)) == ("web", int(admitted) + int(refused))
    assert [float(wait) for wait in waits] == sorted(float(wait) for wait in waits)
    assert "of 60 requests a minute used, tokens unlimited" in used


def test_colors_do_not_change_the_text_of_the_table() -> None:
    plan = Plan((Demand.parse("calm:1@once:1"), Demand.parse("late:9@10:1")), rpm=3, timeout_s=1)
    plain, colored = (list(rows(plan, forecast(plan), colored=each)) for each in (False, True))
    assert [re.sub(r"\x1b\[\d+m", "", row) for row in colored] == plain
    assert ["\x1b" in row for row in colored] == [True, False, True, False, False]


@pytest.mark.parametrize(
    "arguments",
    [[], ["--client", "x"], ["--rpm", "-1", "--client", "a:1/s:1"], ["--hours", "nan"]],
    ids=str,
)
def test_invalid_argument_is_a_usage_error(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main(["plan", *arguments])
    assert exited.value.code == 2
