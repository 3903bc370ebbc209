"""`rustygate check`, and how bad configuration is reported."""

from pathlib import Path

import pytest

from tests.cli.processes import SECRET
from tests.conftest import Start


@pytest.mark.parametrize("arguments", [[], ["serve"], ["check"]], ids=["", "serve", "check"])
def test_bad_configuration_exits_with_2_and_one_line_per_problem(
    start: Start, arguments: list[str]
) -> None:
    code, stdout, stderr = start(*arguments, PORT="x", OPENAI_API_KEY=f"{SECRET}\u00e9").ended()
    assert (code, stdout) == (2, "")
    first, second = stderr.splitlines()
    assert first.startswith("rustygate: OPENAI_API_KEY=********: expected ")
    assert second == "rustygate: PORT='x': expected a whole number from 0 to 65535"


def test_check_prints_settings_with_secrets_masked(start: Start, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"OPENAI_API_KEY={SECRET}\nRATE_LIMIT=3\nPORT=1\n")
    code, stdout, stderr = start("check", PORT="2").ended()
    assert (code, stderr) == (0, "")
    lines = stdout.splitlines()
    assert lines[0] == "OPENAI_API_KEY=sk-...wxyz"
    assert {"PORT=2", "RATE_LIMIT=3", "CONCURRENCY_LIMIT=none"} < set(lines)
    assert SECRET not in stdout


def test_check_explains_the_limits_in_force(start: Start) -> None:
    given = {"RATE_LIMIT": "auto", "TOKENS_PER_MINUTE": "5000", "CONCURRENCY_LIMIT": "7"}
    _, stdout, _ = start("check", OPENAI_API_KEY=SECRET, **given).ended()
    explained = stdout.partition("Limits in force:\n")[2].splitlines()
    assert [line.partition(":")[0] for line in explained] == [
        "- requests",
        "- tokens",
        "- in flight",
        "- each model's requests and tokens per minute",
        "- waiting",
    ]
    assert "20 of its requests in flight" in explained[0]
    assert "5000 per minute" in explained[1]


def test_check_masks_the_password_of_a_proxy(start: Start) -> None:
    proxy = "http://me:canary@proxy.example.org:3128"
    code, stdout, _ = start("check", OPENAI_API_KEY=SECRET, HTTPS_PROXY=proxy).ended()
    assert code == 0
    assert "HTTPS_PROXY=http://********@proxy.example.org:3128\n" in stdout


def test_check_warns_about_listening_for_other_machines(start: Start) -> None:
    code, _, stderr = start("check", OPENAI_API_KEY=SECRET, BIND_ADDRESS="0.0.0.0").ended()
    assert code == 0
    assert stderr.startswith(
        "rustygate: warning: BIND_ADDRESS=0.0.0.0 lets other machines connect"
    )
    assert "spends the upstream key" in stderr
