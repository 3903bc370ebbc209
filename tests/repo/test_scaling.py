"""The parts of `scripts/scaling` at a small size."""

from xml.etree import ElementTree

import pytest

from scripts import scaling
from scripts.benchmarks.organisation import KINDS, Plan, describe, simulate
from scripts.benchmarks.panels import Panel, panels
from tests.support.redis import NONE_INSTALLED, SERVERS


@pytest.mark.skipif(not SERVERS, reason=NONE_INSTALLED)
def test_small_organisation_uses_its_quota() -> None:
    plan = Plan(gates=3, apps=60, models=1, tokens_per_minute=6_000_000)
    outcome = simulate(plan, 5)
    assert (outcome.errors, outcome.refused) == (0, 0)
    assert outcome.used == pytest.approx(1, abs=0.1)
    assert outcome.apps[0] >= 0.95
    assert set(outcome.waits) == {kind.priority for kind in KINDS}
    assert 0 < outcome.calls <= 3 * 60 * 5
    assert 50 < outcome.redis_us < 20_000
    assert describe(plan, outcome)[0].startswith("3 gates, 60 apps, 1 models with 6,000,000 tok")


def test_simulated_gates_share_their_quota() -> None:
    per_s, fairness = scaling.simulated_gates(2, 3)
    assert per_s == pytest.approx(scaling.QUOTA.rate, rel=0.03)
    assert 0.99 <= fairness <= 1


def test_panels_are_drawn_to_scale() -> None:
    first = Panel("up", (0, 10), 5, {"a": [(1, 0), (3, 10)]})
    second = Panel("down", (0, 1), 0.5, {"b": [(1, 1), (2, 0)]})
    drawn = ElementTree.fromstring(panels("title", "x", first, second))
    lines = [line.attrib["points"] for line in drawn.findall("{*}polyline")]
    assert lines == ["60.0,230.0 590.0,60.0", "60.0,310.0 325.0,480.0"]
    texts = [text.text for text in drawn.findall("{*}text")]
    assert {"title", "x", "up", "down", "a", "b", "10", "0.5"} <= set(texts)
