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


def test_check_prints_each_value_with_its_source_and_ends_with_ok(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text(f"OPENAI_API_KEY={SECRET}\nRATE_LIMIT=3\nPORT=1\n")
    code, stdout, stderr = start("check", PORT="2").ended()
    assert (code, stderr) == (0, "")
    lines = stdout.splitlines()
    assert lines[0] == "# OPENAI_API_KEY=sk-...wxyz  # .env"
    assert lines[-1] == "# OK"
    assert {
        "PORT=2  # environment",
        "RATE_LIMIT=3  # .env",
        "RATE_LIMIT_BURST=20  # default",
        "# CONCURRENCY_LIMIT=none  # default",
        "QUEUE_KEEPALIVE_AFTER=off  # default",
    } < set(lines)
    assert SECRET not in stdout


def test_output_of_check_is_a_dotenv_file(start: Start, tmp_path: Path) -> None:
    awkward = tmp_path / "it's #1 \\ ä"
    awkward.mkdir()
    (awkward / "clients.toml").write_text("")
    given = {
        "ADMIN_KEY": "letmein",
        "CLIENTS_FILE": str(awkward / "clients.toml"),
        "CORS_ALLOW_ORIGINS": "https://a.org,http://b:81",
        "HTTPS_PROXY": "http://me:canary@proxy.example.org:3128",
        "HTTP_PROXY": "http://proxy.example.org:3128",
        "NO_PROXY": "10.0.0.0/8, example.org",
        "RATE_LIMIT": "auto",
        "RATE_LIMIT_TIMEOUT": "1m30s",
        "TOKENS_PER_MINUTE": "200k",
        "QUEUE_BYTES": "256MiB",
        "PYTHONUTF8": "1",
    }
    _, first, _ = start("check", OPENAI_API_KEY=SECRET, **given).ended()
    (tmp_path / ".env").write_text(first)
    code, second, stderr = start("check", OPENAI_API_KEY=SECRET, PYTHONUTF8="1").ended()
    assert (code, stderr) == (0, "")
    values = [[line.partition("  # ")[0] for line in out.splitlines()] for out in (first, second)]
    assert set(values[0]) ^ set(values[1]) == {
        "# ADMIN_KEY=********",
        "# ADMIN_KEY=none",
        "# HTTPS_PROXY=http://********@proxy.example.org:3128",
        "# HTTPS_PROXY=none",
    }
    assert "RATE_LIMIT_TIMEOUT=90  # .env" in second.splitlines()


def test_check_shows_the_file_of_a_key(start: Start, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(SECRET)
    _, stdout, _ = start("check", OPENAI_API_KEY_FILE="key").ended()
    assert stdout.splitlines()[:2] == [
        "# OPENAI_API_KEY=sk-...wxyz  # OPENAI_API_KEY_FILE",
        "OPENAI_API_KEY_FILE=key  # environment",
    ]


def test_check_shows_that_the_key_is_a_systemd_credential(start: Start, tmp_path: Path) -> None:
    (tmp_path / "openai_api_key").write_text(SECRET)
    _, stdout, _ = start("check", CREDENTIALS_DIRECTORY=str(tmp_path)).ended()
    first, second, *_ = stdout.splitlines()
    assert first == "# OPENAI_API_KEY=sk-...wxyz  # systemd credential"
    assert second.startswith("OPENAI_BASE_URL=")


def explained(stdout: str, heading: str) -> list[str]:
    """The list under a heading."""
    return stdout.partition(f"# {heading}:\n")[2].partition("#\n")[0].splitlines()


def test_check_explains_the_limits_in_force(start: Start) -> None:
    given = {"RATE_LIMIT": "auto", "TOKENS_PER_MINUTE": "5000", "CONCURRENCY_LIMIT": "7"}
    _, stdout, _ = start("check", OPENAI_API_KEY=SECRET, **given).ended()
    limits = explained(stdout, "Limits in force")
    assert [line.partition(":")[0] for line in limits] == [
        "# - requests",
        "# - tokens",
        "# - in flight",
        "# - each model's requests and tokens per minute",
        "# - waiting",
    ]
    assert "20 of its requests in flight" in limits[0]
    assert "5000 per minute" in limits[1]


def test_check_shows_the_clients_own_limits(start: Start, tmp_path: Path) -> None:
    (tmp_path / "clients.toml").write_text(
        f"""
        [client.search]
        key_sha256 = "{"a" * 64}"
        weight = 2
        priority = "interactive"
        requests_per_second = 4.5
        tokens_per_minute = 50000
        concurrency = 8
        models = ["gpt-4o*", "o3"]
        [client.other]
        key_sha256 = "{"b" * 64}"
        requests_per_second = 1
        burst = 10
        """
    )
    _, stdout, _ = start("check", OPENAI_API_KEY=SECRET, CLIENTS_FILE="clients.toml").ended()
    assert explained(stdout, "Clients of clients.toml") == [
        "# - search: weight 2, class interactive at best; 4.5 requests per second, 5 at once; "
        "50000 tokens per minute; 8 exchanges in flight; models gpt-4o*, o3",
        "# - other: weight 1, class default at best; 1 request per second, 10 at once",
    ]


def test_check_shows_whose_prices_apply(start: Start, tmp_path: Path) -> None:
    _, stdout, _ = start("check", OPENAI_API_KEY=SECRET).ended()
    assert "\n# Price list: OpenAI, from genai-prices " in stdout
    (tmp_path / "prices.toml").write_text(
        '[model."gpt-4o*"]\ninput_usd_per_mtok = 2.5\noutput_usd_per_mtok = 10\n'
        "[model.local]\ninput_usd_per_mtok = 0.02\ncached_input_usd_per_mtok = 0\n"
        "output_usd_per_mtok = 0.08\n"
    )
    url = "https://api.groq.com/openai/v1"
    _, stdout, _ = start(
        "check", OPENAI_API_KEY=SECRET, PRICES_FILE="prices.toml", OPENAI_BASE_URL=url
    ).ended()
    assert "\n# Price list: Groq, from genai-prices " in stdout
    assert explained(
        stdout, "Prices in prices.toml, which take precedence, in dollars per million tokens"
    ) == [
        "# - gpt-4o*: input 2.5, cached input 2.5, output 10",
        "# - local: input 0.02, cached input 0, output 0.08",
    ]


@pytest.mark.parametrize("command", ["serve", "check"])
def test_bad_prices_file_is_bad_configuration(start: Start, tmp_path: Path, command: str) -> None:
    (tmp_path / "prices.toml").write_text("[model.a]\ninput_usd_per_mtok = -1\n")
    code, stdout, stderr = start(command, OPENAI_API_KEY=SECRET, PRICES_FILE="prices.toml").ended()
    assert (code, stdout) == (2, "")
    problem = "rustygate: PRICES_FILE='prices.toml': model.'a'"
    expected = "expected dollars per million tokens, from 0 to 1000000"
    assert stderr.splitlines() == [
        f"{problem}.input_usd_per_mtok=-1: {expected}",
        f"{problem}.output_usd_per_mtok: not set; {expected}",
    ]


def test_check_masks_the_password_of_a_proxy(start: Start) -> None:
    proxy = "http://me:canary@proxy.example.org:3128"
    code, stdout, _ = start("check", OPENAI_API_KEY=SECRET, HTTPS_PROXY=proxy).ended()
    assert code == 0
    assert "\n# HTTPS_PROXY=http://********@proxy.example.org:3128  # environment\n" in stdout


def test_check_warns_about_listening_for_other_machines(start: Start) -> None:
    code, _, stderr = start("check", OPENAI_API_KEY=SECRET, BIND_ADDRESS="0.0.0.0").ended()
    assert code == 0
    assert stderr.startswith(
        "rustygate: warning: BIND_ADDRESS=0.0.0.0 lets other machines connect"
    )
    assert "uses the upstream key" in stderr


def test_check_names_misspelt_variables(start: Start, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("RATE_LIMTI=3\n")
    code, _, stderr = start("check", OPENAI_API_KEY=SECRET, rate_limit="4").ended()
    assert code == 0
    assert stderr.splitlines() == [
        "rustygate: warning: RATE_LIMTI: did you mean RATE_LIMIT? It is set in .env and has no "
        "effect",
        "rustygate: warning: rate_limit: did you mean RATE_LIMIT? It is set in the environment "
        "and has no effect",
    ]


@pytest.mark.parametrize("command", ["serve", "check"])
def test_misspelt_key_is_named_after_the_missing_one(start: Start, command: str) -> None:
    code, stdout, stderr = start(command, OPENAI_APIKEY=SECRET).ended()
    assert (code, stdout) == (2, "")
    first, second = stderr.splitlines()
    assert first.startswith("rustygate: OPENAI_API_KEY: not set; expected ")
    assert second.startswith("rustygate: warning: OPENAI_APIKEY: did you mean OPENAI_API_KEY? ")


@pytest.mark.parametrize("command", ["serve", "check"])
def test_gate_as_its_own_upstream_is_bad_configuration(start: Start, command: str) -> None:
    url = "http://localhost:8080/v1"
    code, stdout, stderr = start(command, OPENAI_API_KEY=SECRET, OPENAI_BASE_URL=url).ended()
    assert (code, stdout) == (2, "")
    assert stderr.startswith(f"rustygate: OPENAI_BASE_URL={url}: expected another address ")
    assert stderr.count("\n") == 1


def test_line_breaks_in_paths_and_patterns_stay_in_their_comments(
    start: Start, tmp_path: Path
) -> None:
    file = tmp_path / "a\nPORT=1\nb.toml"
    models = r'models = ["a\nRATE_LIMIT=999\n\u001b[31m"]'
    file.write_text(f'[client.x]\nkey_sha256 = "{"a" * 64}"\n{models}\n')
    code, stdout, _ = start("check", OPENAI_API_KEY=SECRET, CLIENTS_FILE=str(file)).ended()
    assert code == 0
    assert r"# - x: weight 1, class default at best; models a\nRATE_LIMIT=999\n\x1b[31m" in stdout
    (tmp_path / ".env").write_text(stdout)
    again = start("check", OPENAI_API_KEY=SECRET)
    code, stdout, stderr = again.ended()
    assert (code, stderr) == (0, "")
    assert "\nPORT=8080  #" in stdout
    assert "\nRATE_LIMIT=10  #" in stdout
