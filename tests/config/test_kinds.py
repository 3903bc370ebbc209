"""The kinds of values: what each setting accepts, and how it rejects the rest."""

import pytest

from rustygate.config import (
    load,
)
from tests.config.problems import KEY, problems

ADDRESS = "an IP address, a host name, or unix: and an absolute path of at most 107 bytes"
GROUP = "1 to 64 letters, digits, dots, underscores and hyphens"
COUNT = "a whole number of 1 or more, such as 500 or 200k"
BYTES = "a whole number of bytes, 1 or more, such as 65536 or 256MiB"
DURATION = "1000000000, or a duration such as 500ms or 1m30s"
NOT_NUMBERS = ["nan", "inf", "-inf", "1e999", "-1", "ten", "1 0", "0x10", "1,5"]
NUMBERS = [
    "PORT",
    "RATE_LIMIT",
    "RATE_LIMIT_BURST",
    "RATE_LIMIT_TIMEOUT",
    "CONCURRENCY_LIMIT",
    "QUEUE_LIMIT",
    "QUEUE_BYTES",
    "SSE_KEEPALIVE_INTERVAL",
    "SSE_CHANNEL_CAPACITY",
    "SSE_BUFFER_CAPACITY",
    "MAX_BUFFERED_BODY",
    "MAX_BODY_SIZE",
    "UPSTREAM_RETRIES",
    "UPSTREAM_CONNECT_TIMEOUT",
    "UPSTREAM_READ_TIMEOUT",
    "DRAIN_TIMEOUT",
]


@pytest.mark.parametrize(
    ("variable", "value", "parsed"),
    [
        ("OPENAI_BASE_URL", "http://localhost:11434/v1/", "http://localhost:11434/v1"),
        ("OPENAI_BASE_URL", "https://[::1]:8443", "https://[::1]:8443"),
        ("OPENAI_BASE_URL", "http://my_service/a/b%20c//", "http://my_service/a/b%20c"),
        ("OPENAI_ORG_ID", "org-1", "org-1"),
        ("OPENAI_PROJECT_ID", "proj_1", "proj_1"),
        ("PORT", "0", 0),
        ("PORT", " 65535\n", 65535),
        ("BIND_ADDRESS", "0.0.0.0", "0.0.0.0"),
        ("BIND_ADDRESS", "::1", "::1"),
        ("BIND_ADDRESS", "gate.example.org", "gate.example.org"),
        ("BIND_ADDRESS", "unix:/run/gate.sock", "unix:/run/gate.sock"),
        ("CORS_ALLOW_ORIGINS", "*", ("*",)),
        ("CORS_ALLOW_ORIGINS", "https://a.org, http://b:81", ("https://a.org", "http://b:81")),
        ("RUST_LOG", "WARN", "WARN"),
        ("RUST_LOG", "rustygate=info,other=debug", "rustygate=info,other=debug"),
        ("LOG_FORMAT", "json", "json"),
        ("RATE_LIMIT", "0.5", 0.5),
        ("RATE_LIMIT", "1e-9", 1e-9),
        ("RATE_LIMIT", " 10 ", 10.0),
        ("RATE_LIMIT", "auto", None),
        ("RATE_LIMIT", "AUTO", None),
        ("RATE_LIMIT_TIMEOUT", "0", 0.0),
        ("CONCURRENCY_LIMIT", "1", 1),
        ("QUEUE_LIMIT", "0", 0),
        ("QUEUE_BYTES", "0", 0),
        ("SSE_KEEPALIVE_INTERVAL", "0", 0.0),
        ("MAX_BUFFERED_BODY", "0", 0),
        ("UPSTREAM_RETRIES", "0", 0),
        ("UPSTREAM_CONNECT_TIMEOUT", "0.25", 0.25),
        ("HTTPS_PROXY", "http://proxy:3128", "http://proxy:3128"),
        (
            "HTTPS_PROXY",
            "me:secret@proxy.example.org:3128",
            "http://me:secret@proxy.example.org:3128",
        ),
        ("HTTP_PROXY", "https://[::1]/", "https://[::1]/"),
        ("REDIS_URL", "redis://redis", "redis://redis"),
        ("GATE_GROUP", "team-a_1.eu", "team-a_1.eu"),
        ("GATE_GROUP", "x" * 64, "x" * 64),
        ("WORKERS", "3", 3),
        ("WORKERS", "256", 256),
        ("WORKERS", "Auto", None),
        ("DRAIN_TIMEOUT", "1.5", 1.5),
        ("RATE_LIMIT_TIMEOUT", "30s", 30.0),
        ("QUEUE_KEEPALIVE_AFTER", "500ms", 0.5),
        ("UPSTREAM_READ_TIMEOUT", "1m30s", 90.0),
        ("TOKENS_PER_MINUTE", "200k", 200_000),
        ("TOKENS_PER_MINUTE", "1e6", 1_000_000),
        ("TOKENS_PER_MINUTE", "1_000_000", 1_000_000),
        ("RATE_LIMIT", "0.5k", 500.0),
        ("CONCURRENCY_LIMIT", "1K", 1000),
        ("QUEUE_BYTES", "256MiB", 256 << 20),
        ("MAX_BODY_SIZE", "1GB", 10**9),
    ],
)
def test_value_is_parsed(variable: str, value: str, parsed: object) -> None:
    assert getattr(load(KEY | {variable: value}), variable.lower()) == parsed


@pytest.mark.parametrize("value", NOT_NUMBERS)
@pytest.mark.parametrize("variable", NUMBERS)
def test_value_that_is_not_a_number_is_rejected(variable: str, value: str) -> None:
    [problem] = problems(KEY | {variable: value})
    assert problem.startswith(f"{variable}={value!r}: expected a ")


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("PORT", "65536", "a whole number from 0 to 65535"),
        ("PORT", "80.5", "a whole number from 0 to 65535"),
        ("PORT", "9" * 5000, "a whole number from 0 to 65535"),
        ("RATE_LIMIT", "0", "a positive number of requests per second, or auto"),
        ("RATE_LIMIT_BURST", "0", COUNT),
        ("CONCURRENCY_LIMIT", "0", COUNT),
        ("SSE_CHANNEL_CAPACITY", "0", COUNT),
        ("SSE_BUFFER_CAPACITY", "0", BYTES),
        ("MAX_BODY_SIZE", "0", BYTES),
        ("UPSTREAM_CONNECT_TIMEOUT", "0", f"a number of seconds above 0, up to {DURATION}"),
        ("UPSTREAM_READ_TIMEOUT", "0s", f"a number of seconds above 0, up to {DURATION}"),
        ("WORKERS", "0", "a whole number from 1 to 256, or auto"),
        ("WORKERS", "257", "a whole number from 1 to 256, or auto"),
        ("WORKERS", "all", "a whole number from 1 to 256, or auto"),
        ("DRAIN_TIMEOUT", "1e10", f"a number of seconds from 0 to {DURATION}"),
        (
            "QUEUE_KEEPALIVE_AFTER",
            "0",
            f"a number of seconds above 0, up to {DURATION.replace(', or', ',')}, or off",
        ),
        ("RATE_LIMIT_TIMEOUT", "30x", f"a number of seconds from 0 to {DURATION}"),
        ("TOKENS_PER_MINUTE", "1e13", f"{COUNT} (at most 1,000,000,000,000)"),
        ("RATE_LIMIT_BURST", "9" * 5000, f"{COUNT} (at most 1,000,000,000,000)"),
        ("TOKENS_PER_MINUTE", "200kB", COUNT),
        ("TOKENS_PER_MINUTE", "1.25e1", COUNT),
        ("TOKENS_PER_MINUTE", "0.0001k", COUNT),
        ("MAX_BODY_SIZE", "256 mx", BYTES),
        ("PORT", "8k", "a whole number from 0 to 65535"),
        ("LOG_FORMAT", "xml", "text or json"),
        ("GATE_GROUP", "a b", GROUP),
        ("GATE_GROUP", "{a}", GROUP),
        ("GATE_GROUP", "a:b", GROUP),
        ("GATE_GROUP", "x" * 65, GROUP),
        ("BIND_ADDRESS", "127.0.0.256", ADDRESS),
        ("BIND_ADDRESS", "127.0.0.1:8080", ADDRESS),
        ("BIND_ADDRESS", "*", ADDRESS),
        ("BIND_ADDRESS", "unix:", ADDRESS),
        ("BIND_ADDRESS", "unix:gate.sock", ADDRESS),
        ("BIND_ADDRESS", "unix:/a\nb", ADDRESS),
        ("BIND_ADDRESS", "unix:/run/a\0b", ADDRESS),
        ("BIND_ADDRESS", "unix:/" + "x" * 107, ADDRESS),
        ("BIND_ADDRESS", "unix:/" + "x" * 100 + "\u00e4" * 4, ADDRESS),
    ],
)
def test_value_out_of_bounds_is_rejected(variable: str, value: str, expected: str) -> None:
    [problem] = problems(KEY | {variable: value})
    assert problem.startswith(f"{variable}=")
    assert problem.endswith(f": expected {expected}")
    assert len(problem) < 250


@pytest.mark.parametrize("value", ["verbose", "rustygate=loud", "=info", "a b=info", "x=y=info"])
def test_bad_log_directive_is_rejected(value: str) -> None:
    [problem] = problems(KEY | {"RUST_LOG": value})
    assert problem.startswith(f"RUST_LOG={value!r}: expected trace, debug, info, warn, error, off")


@pytest.mark.parametrize(
    "value",
    [
        "api.openai.com/v1",
        "ftp://host/v1",
        "http://",
        "http:///v1",
        "http://host:0/v1",
        "http://host:65536/v1",
        "http://host:port/v1",
        "http://host/v1?",
        "http://host/v1#",
        "http://ho st/v1",
        "http://host/v1\n/x",
        "http://hôte/v1",
        "http://[::1/v1",
    ],
)
def test_bad_base_url_is_rejected(value: str) -> None:
    [problem] = problems(KEY | {"OPENAI_BASE_URL": value})
    assert problem.startswith("OPENAI_BASE_URL='")
    assert problem.endswith(
        "': expected an http or https URL without query, fragment, user or password"
    )


@pytest.mark.parametrize(
    "value",
    ["a.org", "null", "https://a.org,*", "https://a.org/x", "https://a.org,", "https://*.a.org"],
)
def test_bad_origin_is_rejected(value: str) -> None:
    [problem] = problems(KEY | {"CORS_ALLOW_ORIGINS": value})
    assert problem.startswith(f"CORS_ALLOW_ORIGINS={value!r}: expected origins such as ")


@pytest.mark.parametrize(
    "bad", ["a b", "a\nb", "a\r\nX: y", "a\0b", "ключ", "a\x7f", "é", "\ud800"]
)
@pytest.mark.parametrize("variable", ["OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"])
def test_value_that_no_header_can_carry_is_rejected(variable: str, bad: str) -> None:
    [problem] = problems(KEY | {variable: bad})
    assert problem.startswith(f"{variable}=")
    assert "visible ASCII characters, no spaces" in problem
    assert problem.isascii()
    assert problem.isprintable()


@pytest.mark.parametrize(
    "value",
    [
        "socks5://proxy:1080",
        "http://",
        "http://proxy:0",
        "http://proxy:65536",
        "http://proxy/path",
        "http://proxy?query",
        "http://pro xy",
        "http://prox\u00fd",
        "http://user:%C3%A4@proxy",
        "http://us%3Aer:x@proxy",
        "proxy:port",
    ],
)
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "HTTP_PROXY", "http_proxy"])
def test_bad_proxy_url_is_rejected(variable: str, value: str) -> None:
    [problem] = problems(KEY | {variable: value})
    assert problem.startswith(f"{variable.upper()}='")
    assert ": expected an http or https URL of a proxy, such as " in problem
