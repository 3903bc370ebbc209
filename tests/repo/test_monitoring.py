"""The alert rules for Prometheus and the dashboard for Grafana.

Both use only metrics that exist. `promtool` (from Debian's `prometheus` package) checks their
queries, and evaluates each query of the dashboard over every series of a gate.
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
from rustygate.admission.group.local_store import LocalGroup, LocalStore
from rustygate.config import Settings
from rustygate.core.bucket import TokenBucket
from rustygate.core.verdict import Action
from rustygate.errors import reasons
from rustygate.exchange import MS, Exchange
from rustygate.telemetry.worker_metrics import WorkerStatus
from tests.support.metrics import GROUP_TYPES, TYPES, WORKER_TYPES, Scrape, metrics_of, settle

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "scripts/alerts.yml"
DASHBOARD: dict[str, Any] = json.loads((ROOT / "scripts/grafana-dashboard.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
VARIABLES: list[dict[str, Any]] = DASHBOARD["templating"]["list"]
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
]

# Grafana's initial values of the variables.
DEFAULTS = {"$job": ".*", "$instance": ".*", "$__rate_interval": "1m"}

each_panel = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])


def targets(panel: dict[str, Any]) -> list[dict[str, Any]]:
    """A panel's queries."""
    queries_of_panel: list[dict[str, Any]] = panel["targets"]
    return queries_of_panel


def queries() -> list[str]:
    """All PromQL queries of the dashboard and the alert rules."""
    used = [target["expr"] for panel in PANELS for target in targets(panel)]
    used += [each["query"] for each in VARIABLES]
    return used + [rule["expr"] for rule in RULES]


def names_in(text: str) -> set[str]:
    return set(re.findall(r"\brustygate_\w+", text))


async def scrape_full_gate() -> Scrape:
    settings = Settings(openai_api_key="sk-test", concurrency_limit=9)
    gate = Gate(settings, LocalStore(LocalGroup()))
    lane = gate.lanes.get("m").budgets
    lane.known, lane.requests = True, TokenBucket(1, 5)
    metrics = metrics_of(gate, lambda: [WorkerStatus(1, 4001, "serving", 0, 0, 0)])
    metrics.count_retry("upstream_429")
    metrics.count_upstream_429("m", Action.PAUSE)
    for reason in (None, "queue_timeout"):
        outcome = "refused" if reason else "ok"
        exchange = Exchange("a", "POST", "/v1/x", model="m", outcome=outcome, reason=reason)
        exchange.status, exchange.attempts, exchange.tokens_in, exchange.tokens_out = 200, 1, 1, 1
        exchange.first_byte = exchange.settled = exchange.arrived + MS
        settle(metrics, exchange)
    scrape = Scrape(metrics.text())
    await gate.leave_group()
    return scrape


@pytest.fixture(scope="module")
def scrape() -> Scrape:
    """A scrape of a gate with workers in a group, with a sample of every metric."""
    return asyncio.run(scrape_full_gate())


def promtool(*arguments: str, cwd: Path = ROOT) -> None:
    """Run promtool. Fails with its output."""
    path = shutil.which("promtool")
    if path is None:
        pytest.skip("promtool is not installed")
    result = subprocess.run(
        [path, *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


# Rules and dashboard.


def test_queries_use_every_metric_and_no_other(scrape: Scrape) -> None:
    available = {sample.name for family in scrape.families for sample in family.samples}
    used = set().union(*map(names_in, queries()))
    assert used <= available
    # Any part of a histogram counts as its use.
    parts = r"_(total|bucket|sum|count)$"
    assert {re.sub(parts, "", name) for name in used} == {
        **TYPES,
        **GROUP_TYPES,
        **WORKER_TYPES,
    }.keys()


def test_reasons_in_queries_exist() -> None:
    labels_of_sample = re.findall(r'reason=~?"([^"$]+)"', " ".join(queries()))
    assert labels_of_sample
    assert {reason for each in labels_of_sample for reason in each.split("|")} <= reasons()


# Alerts.


def test_rules_are_valid() -> None:
    promtool("check", "rules", str(ALERTS))


def test_alerts_fire_as_their_tests_say() -> None:
    promtool("test", "rules", "tests/alerts.yml")


def test_each_alert_is_tested_firing_and_silent() -> None:
    tests = yaml.safe_load((ROOT / "tests/alerts.yml").read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    for fires in (True, False):
        covered = {case["alertname"] for case in cases if bool(case.get("exp_alerts")) is fires}
        assert covered == {rule["alert"] for rule in RULES}


# The dashboard.


def series(scrape: Scrape) -> Iterator[dict[str, str]]:
    """All series of a scrape, growing over some minutes."""
    for family in scrape.families:
        for sample in family.samples:
            labels_of_sample = {"job": "gate", "instance": "a:8080"} | sample.labels
            labels = ",".join(
                f"{name}={json.dumps(value)}" for name, value in labels_of_sample.items()
            )
            yield {"series": f"{sample.name}{{{labels}}}", "values": "1+1x10"}


def with_defaults(query: str) -> str:
    for variable, value in DEFAULTS.items():
        query = query.replace(variable, value)
    assert "$" not in query
    return query


def test_each_query_of_the_dashboard_has_a_result(scrape: Scrape, tmp_path: Path) -> None:
    cases = [
        {
            "expr": f"count({with_defaults(target['expr'])}) > bool 0",
            "eval_time": "3m",
            "exp_samples": [{"labels": "{}", "value": 1}],
        }
        for panel in PANELS
        for target in targets(panel)
    ]
    # Several scrapes within the interval of a rate.
    test = {"interval": "20s", "input_series": list(series(scrape)), "promql_expr_test": cases}
    (tmp_path / "dashboard.yml").write_text(
        yaml.safe_dump({"evaluation_interval": "20s", "tests": [test | {"name": "dashboard"}]})
    )
    promtool("test", "rules", "dashboard.yml", cwd=tmp_path)


@each_panel
def test_labels_used_by_a_panel_exist(panel: dict[str, Any], scrape: Scrape) -> None:
    """Prometheus accepts `sum by` a label that does not exist."""
    for target in targets(panel):
        grouped = re.findall(r"by \(([^)]+)\)", target["expr"])
        used = set(re.findall(r"\w+", " ".join(grouped)))
        used |= set(re.findall(r"\b(\w+)=~?\"", target["expr"]))
        used |= set(re.findall(r"{{(\w+)}}", target.get("legendFormat", "")))
        samples = [sample for name in names_in(target["expr"]) for sample in scrape.samples(name)]
        available = {"job", "instance"}.union(*(labels for labels, _ in samples))
        assert used <= available


@each_panel
def test_panel_uses_the_selected_source_and_gates(panel: dict[str, Any]) -> None:
    source = {"type": "prometheus", "uid": "${datasource}"}
    assert panel["datasource"] == source
    for target in targets(panel):
        assert target["datasource"] == source
        used = len(re.findall(r"\brustygate_\w+", target["expr"]))
        assert target["expr"].count('{job=~"$job",instance=~"$instance"') == used
    queries = [target["refId"] for target in targets(panel)]
    assert len(queries) == len(set(queries))


def test_variables_exist_and_use_the_selected_source() -> None:
    assert [each["name"] for each in VARIABLES] == ["datasource", "job", "instance"]
    for variable in VARIABLES[1:]:
        assert variable["datasource"]["uid"] == "${datasource}"
        assert variable["query"] == variable["definition"]


def test_panels_have_unique_ids_and_titles() -> None:
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
