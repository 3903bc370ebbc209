"""Variables that look like settings are named; those of other programs are not."""

from pathlib import Path

import pytest

from rustygate.config import ConfigError, load_configuration, variables
from rustygate.config.misspelt import misspelt
from tests.config.problems import KEY


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("RATE_LIMTI", "RATE_LIMIT"),
        ("RATELIMIT", "RATE_LIMIT"),
        ("rate_limit", "RATE_LIMIT"),
        ("rate_limti", "RATE_LIMIT"),
        ("Rate-Limit", "RATE_LIMIT"),
        ("port", "PORT"),
        ("TOKEN_PER_MINUTE", "TOKENS_PER_MINUTE"),
        ("TOKENS_PER_MIN", "TOKENS_PER_MINUTE"),
        ("BIND_ADRESS", "BIND_ADDRESS"),
        ("BIND_ADDR", "BIND_ADDRESS"),
        ("CLIENT_FILE", "CLIENTS_FILE"),
        ("OPENAI_APIKEY", "OPENAI_API_KEY"),
        ("OPENAI_KEY", "OPENAI_API_KEY"),
        ("openai_api_key_file", "OPENAI_API_KEY_FILE"),
        ("OPENAI_API_BASE", "OPENAI_BASE_URL"),
        ("OPENAI_BASE_URI", "OPENAI_BASE_URL"),
        ("OPENAI_ORGANIZATION", "OPENAI_ORG_ID"),
        ("RUSTYGATE_RATE_LIMIT", "RATE_LIMIT"),
        ("RUSTYGATE_RATE_LIMTI", "RATE_LIMIT"),
        ("LOGFORMAT", "LOG_FORMAT"),
        ("TLS_CERT", "TLS_CERT_FILE"),
        ("tls_key", "TLS_KEY_FILE"),
        ("TLS_KEY_PATH", "TLS_KEY_FILE"),
        ("CORS_ORIGINS", "CORS_ALLOW_ORIGINS"),
    ],
)
def test_misspelt_setting_is_named_with_the_right_one(name: str, meant: str) -> None:
    assert list(misspelt({name: "3"})) == [(name, meant)]


@pytest.mark.parametrize(
    "name",
    [
        *("PORTS", "PATH", "HOST", "LOG_LEVEL", "WORKER_PORT", "RATE_LIMIT_WINDOW_MS"),
        *("AZURE_OPENAI_API_KEY", "MY_OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "GENAI_API_KEY"),
        *("OPENAI_API_KEY_2", "OPENAI_API_TYPE", "OPENAI_API_VERSION", "OPENAI_MODEL"),
        *("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SERVICE_NAME"),
        *("https_proxy", "http_proxy", "no_proxy", "FTP_PROXY", "ftp_proxy", "ALL_PROXY"),
        *("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "CREDENTIALS_DIRECTORY", "WATCHDOG_USEC"),
        *("RUST_BACKTRACE", "RUSTYGATE_ENDPOINT", "RUSTYGATE_MODELS", "COMPOSE_PROFILES"),
        *("REQUESTS_CA_BUNDLE", "GIT_SSL_CERT", "NIX_SSL_CERT_FILE", "TERM", "LS_COLORS"),
    ],
)
def test_variable_of_another_program_is_not_reported(name: str) -> None:
    assert list(misspelt({name: "3"})) == []


def test_settings_are_not_reported() -> None:
    assert list(misspelt({each.name: "1" for each in variables()})) == []


def test_service_link_of_kubernetes_is_not_reported() -> None:
    assert list(misspelt({"RUSTYGATE_PORT": "tcp://10.0.0.7:8080"})) == []
    assert list(misspelt({"RUSTYGATE_PORT": "80"})) == [("RUSTYGATE_PORT", "PORT")]


def test_old_name_is_not_reported_together_with_the_new_one() -> None:
    assert list(misspelt({"OPENAI_API_BASE": "x", "OPENAI_BASE_URL": "y"})) == []


def test_warning_says_where_the_variable_is_set(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("RATE_LIMTI=3\nQUEUE_LIMTI=\n")
    loaded = load_configuration(KEY | {"rate_limit": "4"}, dotenv=dotenv)
    assert loaded.warnings == (
        "RATE_LIMTI: did you mean RATE_LIMIT? It is set in .env and has no effect",
        "rate_limit: did you mean RATE_LIMIT? It is set in the environment and has no effect",
    )


def test_misspelt_key_is_named_when_the_key_is_missing() -> None:
    with pytest.raises(ConfigError, match="OPENAI_API_KEY: not set") as caught:
        load_configuration({"OPENAI_APIKEY": "sk-secret"})
    [warning] = caught.value.warnings
    assert warning.startswith("OPENAI_APIKEY: did you mean OPENAI_API_KEY? ")
