"""The settings: their defaults, and what is derived from them."""

import pytest

from rustygate.config import (
    Settings,
    load,
    variables,
)
from tests.config.problems import KEY, SECRET


def test_only_the_key_is_required() -> None:
    assert load(KEY) == Settings(openai_api_key=SECRET)


def test_defaults_are_the_documented_ones() -> None:
    assert {each.name: each.default for each in variables()} == {
        "OPENAI_API_KEY": "required",
        "OPENAI_BASE_URL": "https://api.openai.com/v1",
        "OPENAI_ORG_ID": "none",
        "OPENAI_PROJECT_ID": "none",
        "PORT": "8080",
        "BIND_ADDRESS": "127.0.0.1",
        "TLS_CERT_FILE": "none",
        "TLS_KEY_FILE": "none",
        "CORS_ALLOW_ORIGINS": "none",
        "ADMIN_KEY": "none",
        "RUST_LOG": "debug",
        "LOG_FORMAT": "text",
        "CLIENTS_FILE": "none",
        "PRICES_FILE": "none",
        "RATE_LIMIT": "10",
        "RATE_LIMIT_BURST": "20",
        "RATE_LIMIT_TIMEOUT": "30",
        "TOKENS_PER_MINUTE": "none",
        "CONCURRENCY_LIMIT": "none",
        "QUEUE_LIMIT": "10000",
        "QUEUE_BYTES": "268435456",
        "QUEUE_KEEPALIVE_AFTER": "off",
        "SSE_KEEPALIVE_INTERVAL": "15",
        "SSE_CHANNEL_CAPACITY": "100",
        "SSE_BUFFER_CAPACITY": "1024",
        "CONNECTION_LIMIT": "10000",
        "MAX_BUFFERED_BODY": "8388608",
        "MAX_BODY_SIZE": "536870912",
        "UPSTREAM_RETRIES": "2",
        "UPSTREAM_CONNECT_TIMEOUT": "5",
        "UPSTREAM_READ_TIMEOUT": "600",
        "HTTPS_PROXY": "none",
        "HTTP_PROXY": "none",
        "NO_PROXY": "none",
        "SSL_CERT_FILE": "none",
        "SSL_CERT_DIR": "none",
        "DATA_DIR": "$STATE_DIRECTORY, else none",
        "REDIS_URL": "none",
        "GATE_GROUP": "rustygate",
        "WORKERS": "1",
        "DRAIN_TIMEOUT": "30",
    }


def test_every_variable_has_a_meaning() -> None:
    assert all(each.meaning for each in variables())


def test_documented_defaults_load_as_the_defaults() -> None:
    documented = {
        each.name: each.default
        for each in variables()
        if each.default != "required" and not each.default.endswith("none")
    }
    documented["RATE_LIMIT"] = "10.0"
    assert load(KEY | documented) == Settings(openai_api_key=SECRET)


@pytest.mark.parametrize(
    ("base_url", "no_proxy", "proxy"),
    [
        ("https://api.openai.com/v1", "", "http://secure"),
        ("HTTPS://api.openai.com/v1", "", "http://secure"),
        ("http://localhost:9010/v1", "", "http://plain"),
        ("https://api.openai.com/v1", "*", None),
        ("https://api.openai.com/v1", "example.org,api.openai.com", None),
        ("https://api.openai.com/v1", "example.org, .openai.com", None),
        ("https://api.openai.com/v1", "OpenAI.com", None),
        ("https://api.openai.com/v1", "penai.com", "http://secure"),
        ("https://api.openai.com/v1", "api.openai.com:443", None),
        ("https://api.openai.com/v1", "api.openai.com:80", "http://secure"),
        ("http://localhost:9010/v1", "localhost", None),
        ("http://localhost:9010/v1", "localhost:9010", None),
        ("http://[::1]:9010/v1", "::1", None),
    ],
)
def test_proxy_depends_on_base_url_and_no_proxy(
    base_url: str, no_proxy: str, proxy: str | None
) -> None:
    proxies = {"HTTPS_PROXY": "secure", "HTTP_PROXY": "plain", "NO_PROXY": no_proxy}
    assert load(KEY | proxies | {"OPENAI_BASE_URL": base_url}).proxy == proxy


@pytest.mark.parametrize(
    ("address", "exposed"),
    [
        ("127.0.0.1", False),
        ("127.1.2.3", False),
        ("::1", False),
        ("localhost", False),
        ("0.0.0.0", True),
        ("::", True),
        ("192.168.1.2", True),
        ("gate.example.org", True),
        ("unix:/run/gate.sock", False),
    ],
)
def test_only_loopback_and_unix_sockets_are_not_exposed(address: str, exposed: bool) -> None:
    assert load(KEY | {"BIND_ADDRESS": address}).exposed is exposed


@pytest.mark.parametrize(
    ("address", "path"),
    [("127.0.0.1", None), ("unix:/run/gate.sock", "/run/gate.sock"), ("unix.example.org", None)],
)
def test_socket_path_is_the_bind_address_after_unix(address: str, path: str | None) -> None:
    assert load(KEY | {"BIND_ADDRESS": address}).socket_path == path


def test_stream_capacity_is_messages_times_bytes() -> None:
    environ = KEY | {"SSE_CHANNEL_CAPACITY": "3", "SSE_BUFFER_CAPACITY": "7"}
    assert load(environ).stream_capacity == 21


def test_stream_capacity_fits_into_the_counters_of_a_parser() -> None:
    assert load(KEY | {"SSE_BUFFER_CAPACITY": "1e18"}).stream_capacity == 4 << 30
