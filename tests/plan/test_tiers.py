"""`rustygate plan --find-tier`: the lowest limits under which no client waits too long."""

from dataclasses import replace

import pytest

from rustygate.cli import main
from rustygate.plan.demand import Demand
from rustygate.plan.forecast import Forecast, Plan, forecast
from rustygate.plan.tiers import TIERS, LowestLimits, NoTierSufficesError, TierSearch


def plan_of(*clients: str, duration_s: float = 600) -> Plan:
    return Plan(tuple(map(Demand.parse, clients)), duration_s=duration_s)


def search(plan: Plan, limit_s: float) -> LowestLimits:
    return TierSearch(plan, limit_s, lambda plan: lambda client, wait_s: None).run()


def waits_too_long(result: Forecast, limit_s: float) -> bool:
    """Whether a client's p95 wait is longer, where a refused request waits forever."""
    for outcome in result.outcomes.values():
        late = sum(wait_s > limit_s for wait_s in outcome.waits_s)
        late += outcome.refused + outcome.failed
        if late > 0.05 * (len(outcome.waits_s) + outcome.refused + outcome.failed):
            return True
    return False


@pytest.mark.parametrize(
    ("clients", "limit_s"),
    [
        (("web:2/s:800",), 5),
        (("web:1/s:100:interactive", "batch:200@60:500:batch"), 20),
        (("job:400@once:10",), 60),
    ],
    ids=["steady", "two classes", "at once"],
)
def test_lowest_limits_suffice_and_much_lower_ones_do_not(
    clients: tuple[str, ...], limit_s: float
) -> None:
    found = search(plan_of(*clients), limit_s)
    assert found.tier in TIERS
    assert found.plan.rpm
    assert found.plan.tpm
    assert forecast(found.plan) == found.forecast
    assert not waits_too_long(found.forecast, limit_s)
    for lower in (
        replace(found.plan, rpm=int(found.plan.rpm * 0.85)),
        replace(found.plan, tpm=int(found.plan.tpm * 0.85)),
    ):
        assert waits_too_long(forecast(lower), limit_s)


def test_tier_is_the_lowest_that_suffices() -> None:
    assert search(plan_of("web:1/s:100"), 5).tier == TIERS[0]
    assert search(plan_of("web:1/s:1000"), 5).tier == TIERS[1]
    assert search(plan_of("web:10/s:1000"), 5).tier == TIERS[2]


def test_demand_above_every_tier_still_gets_its_limits() -> None:
    found = search(plan_of("job:300@once:400000", duration_s=60), 10)
    assert found.tier is None
    assert found.plan.tpm
    assert 50_000_000 < found.plan.tpm < 200_000_000


def test_limits_cover_the_steady_demand_even_if_waits_are_allowed() -> None:
    """Otherwise the queue would grow, although few requests are late in the planned time."""
    found = search(plan_of("web:5/s:100"), 3600)
    assert found.plan.rpm
    assert found.plan.tpm
    assert 300 <= found.plan.rpm <= 310
    assert 30_000 <= found.plan.tpm <= 31_000


def test_longest_wait_is_not_refused_before_it_is_over() -> None:
    found = search(plan_of("job:400@once:10"), 300)
    assert found.plan.timeout_s == 300
    assert found.forecast.outcomes["job"].refused <= 20
    assert found.forecast.outcomes["job"].quantile(0.9) > 30


def test_wait_that_no_limit_prevents_is_reported() -> None:
    """Until a model's first response only some of its requests are in flight."""
    with pytest.raises(NoTierSufficesError) as caught:
        search(plan_of("calm:1/s:1", "job:1000@once:10"), 0.5)
    assert caught.value.client == "job"


def test_lowest_limits_are_printed_with_the_forecast(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", "--find-tier", "5", "--hours", "0.1", "--client", "web:1/s:100"]
    assert main(arguments) == 0
    tier, limits, blank, header, web, _, used = capsys.readouterr().out.splitlines()
    assert tier == "lowest tier: 500 requests and 30000 tokens a minute"
    rpm, tpm = (int(word) for word in limits.split() if word.isdecimal())
    assert limits == f"lowest limits: {rpm} requests and {tpm} tokens a minute"
    assert 55 <= rpm <= 80
    assert 5500 <= tpm <= 8000
    assert (blank, header.split()[0], web.split()[0]) == ("", "client", "web")
    assert f"of {rpm} requests a minute used" in used


def test_impossible_wait_is_a_one_line_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--find-tier", "0.5", "--client", "job:1000@once:10"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("rustygate: no limits suffice: even without any, more than 5% ")
    assert "requests of job wait longer than 0.5 s" in err
