"""What is made of the metrics: alert rules for Prometheus, a dashboard for Grafana.

Both ask only for what there is, and `promtool` (of Debian's `prometheus` package) understands all
that they ask; it evaluates each of the dashboard's questions over every series that a gate shows.
"""

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rustygate.admission.gate import Gate
from rustygate.config import Settings
from rustygate.core.bucket import TokenBucket
from rustygate.errors import reasons
from rustygate.exchange import MS, Exchange
from rustygate.telemetry.metrics import Metrics
from tests.support.metrics import TYPES, Scrape

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "scripts/alerts.yml"
DASHBOARD: dict[str, Any] = json.loads((ROOT / "scripts/grafana-dashboard.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
VARIABLES: list[dict[str, Any]] = DASHBOARD["templating"]["list"]
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
]

# What Grafana puts in place of its variables, as they are at first.
CHOSEN = {"$job": ".*", "$instance": ".*", "$__rate_interval": "1m"}

each_panel = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])


def targets(panel: dict[str, Any]) -> list[dict[str, Any]]:
    """A panel's queries."""
    made: list[dict[str, Any]] = panel["targets"]
    return made


def queries() -> list[str]:
    """All PromQL in the dashboard and in the alert rules."""
    asked = [target["expr"] for panel in PANELS for target in targets(panel)]
    asked += [each["query"] for each in VARIABLES]
    return asked + [rule["expr"] for rule in RULES]


def names_in(text: str) -> set[str]:
    return set(re.findall(r"\brustygate_\w+", text))


async def scraped() -> Scrape:
    gate = Gate(Settings(openai_api_key="sk-test", concurrency_limit=9))
    lane = gate.lanes.queue("m").lane
    lane.known, lane.requests = True, TokenBucket(1, 5)
    counts = Metrics(gate)
    counts.count_retry("upstream_429")
    for reason in (None, "queue_timeout"):
        outcome = "refused" if reason else "ok"
        over = Exchange("a", "POST", "/v1/x", model="m", outcome=outcome, reason=reason)
        over.status, over.attempts, over.tokens_in, over.tokens_out = 200, 1, 1, 1
        over.first_byte = over.settled = over.arrived + MS
        counts.settle(over)
    return Scrape(counts.text())


@pytest.fixture(scope="module")
def shown() -> Scrape:
    """A scrape of a gate that has something of everything to show."""
    return asyncio.run(scraped())


def promtool(*arguments: str, cwd: Path = ROOT) -> None:
    """Run it; what it complains of is the failure."""
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("there is no promtool")
    ran = subprocess.run([found, *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


# Both.


def test_what_is_requested_is_shown_and_all_of_it(shown: Scrape) -> None:
    there = {sample.name for family in shown.families for sample in family.samples}
    asked = set().union(*map(names_in, queries()))
    assert asked <= there
    # All there is, whatever part of a histogram is asked for.
    parts = r"_(total|bucket|sum|count)$"
    assert {re.sub(parts, "", name) for name in asked} == set(TYPES)


def test_reasons_that_are_asked_for_are_there() -> None:
    named = re.findall(r'reason=~?"([^"$]+)"', " ".join(queries()))
    assert named
    assert {reason for each in named for reason in each.split("|")} <= reasons()


# Alerts.


def test_rules_are_prometheus_s() -> None:
    promtool("check", "rules", str(ALERTS))


def test_alerts_are_raised_when_they_should_and_only_then() -> None:
    promtool("test", "rules", "tests/alerts.yml")


def test_each_alert_is_tested_both_ways() -> None:
    tests = yaml.safe_load((ROOT / "tests/alerts.yml").read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    for raised in (True, False):
        tested = {case["alertname"] for case in cases if bool(case.get("exp_alerts")) is raised}
        assert tested == {rule["alert"] for rule in RULES}


# The dashboard.


def series(shown: Scrape) -> Iterator[dict[str, str]]:
    """All that was shown, as it looks from Prometheus over some minutes: all of it grows."""
    for family in shown.families:
        for sample in family.samples:
            named = {"job": "gate", "instance": "a:8080"} | sample.labels
            labels = ",".join(f"{name}={json.dumps(value)}" for name, value in named.items())
            yield {"series": f"{sample.name}{{{labels}}}", "values": "1+1x10"}


def chosen(query: str) -> str:
    for variable, value in CHOSEN.items():
        query = query.replace(variable, value)
    assert "$" not in query
    return query


def test_each_question_of_the_dashboard_has_an_answer(shown: Scrape, tmp_path: Path) -> None:
    cases = [
        {
            "expr": f"count({chosen(target['expr'])}) > bool 0",
            "eval_time": "3m",
            "exp_samples": [{"labels": "{}", "value": 1}],
        }
        for panel in PANELS
        for target in targets(panel)
    ]
    # More than the interval of a rate.
    test = {"interval": "20s", "input_series": list(series(shown)), "promql_expr_test": cases}
    (tmp_path / "dashboard.yml").write_text(
        yaml.safe_dump({"evaluation_interval": "20s", "tests": [test | {"name": "dashboard"}]})
    )
    promtool("test", "rules", "dashboard.yml", cwd=tmp_path)


@each_panel
def test_labels_that_a_panel_asks_for_are_there(panel: dict[str, Any], shown: Scrape) -> None:
    """Prometheus sums by a label that is not there without a word."""
    for target in targets(panel):
        grouped = re.findall(r"by \(([^)]+)\)", target["expr"])
        asked = set(re.findall(r"\w+", " ".join(grouped)))
        asked |= set(re.findall(r"\b(\w+)=~?\"", target["expr"]))
        asked |= set(re.findall(r"{{(\w+)}}", target.get("legendFormat", "")))
        samples = [sample for name in names_in(target["expr"]) for sample in shown.samples(name)]
        there = {"job", "instance"}.union(*(labels for labels, _ in samples))
        assert asked <= there


@each_panel
def test_panel_asks_the_chosen_source_about_the_chosen_gates(panel: dict[str, Any]) -> None:
    source = {"type": "prometheus", "uid": "${datasource}"}
    assert panel["datasource"] == source
    for target in targets(panel):
        assert target["datasource"] == source
        asked = len(re.findall(r"\brustygate_\w+", target["expr"]))
        assert target["expr"].count('{job=~"$job",instance=~"$instance"') == asked
    queries = [target["refId"] for target in targets(panel)]
    assert len(queries) == len(set(queries))


def test_variables_are_there_and_ask_the_chosen_source() -> None:
    assert [each["name"] for each in VARIABLES] == ["datasource", "job", "instance"]
    for variable in VARIABLES[1:]:
        assert variable["datasource"]["uid"] == "${datasource}"
        assert variable["query"] == variable["definition"]


def test_panels_have_numbers_of_their_own_and_titles() -> None:
    for field in ("id", "title"):
        assert len({panel[field] for panel in PANELS}) == len(PANELS)


def test_panels_of_the_dashboard_do_not_overlap() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in PANELS:
        at = panel["gridPos"]
        covered = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not covered & cells
        assert max(x for x, _ in covered) < 24
        cells |= covered
