"""The benchmark runs from end to end and reports its figures; the figures are not judged."""

import asyncio
import json
import sys
from pathlib import Path
from time import monotonic

import pytest

from rustygate.core.bucket import TokenBucket
from scripts.benchmarks import envoy, ranges
from scripts.benchmarks.flood import Answers, flood_figures
from scripts.benchmarks.group_cost import QUEUED_RATE, Load, RedisUse
from scripts.benchmarks.instructions import (
    NO_COUNTER,
    PERF,
    VALGRIND,
    Counter,
    find_counter,
    require_separate_events,
)
from scripts.benchmarks.load import MeasurementFailed, send_in_turn
from scripts.benchmarks.peers import PEERS, Peer
from scripts.benchmarks.pictures import chart
from scripts.benchmarks.report import Figure, Report
from scripts.benchmarks.slow_clock import SlowClockLoop
from scripts.benchmarks.summary import COSTS, costs
from scripts.benchmarks.upstream import Upstream
from scripts.benchmarks.wire import BODY, RESPONSE, request

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
    assert "| 32 connections, streams of 5 events | CPU us per short stream |" in printed
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


@pytest.mark.parametrize(
    ("counter", "text", "count"),
    [
        pytest.param(VALGRIND, "fn=main\n1 20\nsummary: 114800\n", 114800, id="valgrind"),
        pytest.param(
            PERF, "# started\n\n9876543,,instructions:u,12,100.00,1.2,\n", 9876543, id="perf"
        ),
    ],
)
def test_counter_reads_the_instructions(
    tmp_path: Path, counter: Counter, text: str, count: int
) -> None:
    file = tmp_path / "count"
    file.write_text(text)
    assert counter.read(file) == count


@pytest.mark.parametrize("text", [None, "", "<not supported>,,instructions:u,0,100.00,,\n"])
def test_counter_without_a_count_says_so(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "count"
    if text is not None:
        file.write_text(text)
    with pytest.raises(MeasurementFailed, match="perf counted nothing"):
        PERF.read(file)


def test_machine_without_a_counter_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MeasurementFailed) as failure:
        find_counter()
    assert str(failure.value) == NO_COUNTER


def test_events_that_arrive_together_are_not_counted() -> None:
    require_separate_events(reads=190, events=200)
    with pytest.raises(MeasurementFailed, match="200 events arrived in 189 reads"):
        require_separate_events(reads=189, events=200)


async def test_reads_of_responses_are_counted() -> None:
    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(3):
            await reader.readuntil(BODY)
            writer.write(RESPONSE)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(respond, "127.0.0.1")
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert await send_in_turn(port, request(BODY), 3) == 3


def test_timer_on_a_slow_clock_takes_longer() -> None:
    began = monotonic()
    with asyncio.Runner(loop_factory=lambda: SlowClockLoop(20)) as runner:
        before = runner.get_loop().time()
        runner.run(asyncio.sleep(0.002))
        passed = runner.get_loop().time() - before
    took = monotonic() - began
    assert took >= 0.04
    assert 0.002 <= passed <= took / 20


def cost_report(request: float | None) -> Report:
    report = Report()
    for side, value in (("floor", 100.0), ("RustyGate", request)):
        if value is not None:
            section, load, metric = COSTS[0][1]
            report.add(section, load, side, {metric: value})
    return report


def test_costs_are_ratios_to_the_floor() -> None:
    lines = costs(cost_report(123)).splitlines()
    assert lines[2:] == [
        "| request | 1.23x | not measured |",
        "| event | not measured | not measured |",
        "| short stream | not measured | not measured |",
    ]
    assert "1.23x" not in costs(cost_report(None))


def test_ranges_are_the_lowest_and_the_highest_of_the_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = []
    for value in (110, 131, 120):
        files.append(tmp_path / f"{value}.json")
        files[-1].write_text(json.dumps(cost_report(value).as_json()))
    ranges.main(*map(str, files))
    assert "| request | 1.10 to 1.31 | not measured |" in capsys.readouterr().out


def test_flood_figures_count_waits_of_successes_and_shares_of_errors() -> None:
    light = Answers([0.1 * number for number in range(1, 20)], errors=1)
    assert flood_figures(light, Answers([3.0, 20.0], errors=6)) == pytest.approx(
        {
            "light client p50 s": 1.0,
            "light client p95 s": 1.81,
            "light client errors %": 5,
            "flood longest s": 20,
            "flood errors %": 75,
        }
    )


def test_flood_with_one_success_has_its_wait() -> None:
    assert flood_figures(Answers([0.25]), Answers())["light client p95 s"] == 0.25


def test_flood_without_successes_has_errors_only() -> None:
    assert flood_figures(Answers(errors=3), Answers(errors=9)) == {
        "light client errors %": 100,
        "flood errors %": 100,
    }


def test_seconds_and_percentages_are_not_compared_with_the_floor() -> None:
    report = Report()
    for side in ("floor", "RustyGate"):
        report.add("flood", "any", side, {"p50 s": 2, "errors %": 3, "requests/s": 4})
    ratios = {key[2]: row["RustyGate"].ratio for key, row in report.rows().items()}
    assert ratios == {"p50 s": None, "errors %": None, "requests/s": 1}


def test_upstream_with_a_quota_refuses_what_exceeds_it() -> None:
    upstream = Upstream(TokenBucket.from_rate(0.001, burst=2))
    assert [upstream.has_room() for _ in range(3)] == [True, True, False]
    assert all(Upstream(None).has_room() for _ in range(3))


def test_redis_use_is_given_per_second() -> None:
    before, after = RedisUse(10, 1000, 500, 1.0), RedisUse(90, 9000, 4500, 1.5)
    assert after.figures(before, seconds=2) == {
        "script calls/s of a gate": 10,
        "KB/s to Redis": 4,
        "KB/s from Redis": 2,
        "Redis CPU %": 25,
    }


def test_gates_that_share_a_quota_have_one_for_all() -> None:
    async def send(side: object) -> int:
        return 0

    queued = Load("any", send, QUEUED_RATE)
    assert queued.environ(1) == {"RATE_LIMIT": "50", "RATE_LIMIT_BURST": "1"}
    assert queued.environ(4) == {"RATE_LIMIT": "200", "RATE_LIMIT_BURST": "1"}
    assert Load("any", send).environ(4) == {}


@pytest.mark.parametrize("quota", [None, 10])
def test_envoy_has_a_quota_only_if_asked(quota: int | None) -> None:
    settings = json.loads(envoy.settings(8080, "http://127.0.0.1:9000", quota))
    resources = settings["static_resources"]
    assert str(resources["listeners"]).count("'port_value': 8080") == 1
    assert str(resources["clusters"]).count("'port_value': 9000") == 1
    assert (
        "'max_tokens': 10, 'tokens_per_fill': 1, 'fill_interval': '0.1s'" in str(settings)
    ) == (quota is not None)


# How the settings of each proxy name a quota of ten requests a second.
QUOTAS = {
    "nginx": "rate=10r/s",
    "Envoy": '"max_tokens": 10',
    "LiteLLM": "rpm: 600",
    "openai-forward": "10/second",
    "HiveMind": "default_requests_per_minute = 600",
}


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
@pytest.mark.parametrize("quota", [None, 10])
def test_peers_get_the_quota_that_they_can_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, peer: Peer, quota: int | None
) -> None:
    monkeypatch.setattr("scripts.benchmarks.peers.nginx", lambda: "nginx")
    launch = peer.start(tmp_path, 8080, "http://127.0.0.1:9000", quota)
    written = "".join(file.read_text() for file in tmp_path.iterdir())
    settings = f"{written} {launch.command} {launch.environ} {launch.headers}"
    assert (QUOTAS.get(peer.name, "no quota") in settings) == (
        quota is not None and peer.name in QUOTAS
    )
    assert "8080" in settings
    assert "127.0.0.1" in settings
    assert "9000" in settings
