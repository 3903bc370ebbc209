"""Settings: what is read from where, what is refused and how, and what is never shown."""

import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.config import (
    ConfigError,
    Settings,
    describe,
    forget_secrets,
    load,
    mask,
    read_clients_file,
    variables,
)

SECRET = "sk-proj-0123456789-abcdefghij-wxyz"
KEY = {"OPENAI_API_KEY": SECRET}


def problems(environ: dict[str, str], dotenv: Path | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(environ, dotenv=dotenv)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def test_key_is_all_that_is_required() -> None:
    assert load(KEY) == Settings(openai_api_key=SECRET)


def test_defaults_are_those_of_the_contract() -> None:
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
        "DRAIN_TIMEOUT": "30",
    }


def test_every_variable_has_a_meaning() -> None:
    assert all(each.meaning for each in variables())


def test_every_default_is_read_back_as_it_is_written() -> None:
    written = {
        each.name: each.default for each in variables() if each.default not in ("required", "none")
    }
    written["RATE_LIMIT"] = "10.0"
    assert load(KEY | written) == Settings(openai_api_key=SECRET)


@pytest.mark.parametrize(
    ("variable", "value", "read"),
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
        ("DRAIN_TIMEOUT", "1.5", 1.5),
    ],
)
def test_value_is_read(variable: str, value: str, read: object) -> None:
    assert getattr(load(KEY | {variable: value}), variable.lower()) == read


ADDRESS = "an IP address, a host name, or unix: and an absolute path of at most 107 bytes"
NO_NUMBERS = ["nan", "inf", "-inf", "1e999", "-1", "ten", "1 0", "0x10", "1,5"]
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


@pytest.mark.parametrize("value", NO_NUMBERS)
@pytest.mark.parametrize("variable", NUMBERS)
def test_what_is_no_number_is_refused(variable: str, value: str) -> None:
    [problem] = problems(KEY | {variable: value})
    assert problem.startswith(f"{variable}={value!r}: expected a ")


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("PORT", "65536", "a whole number from 0 to 65535"),
        ("PORT", "80.5", "a whole number from 0 to 65535"),
        ("PORT", "9" * 5000, "a whole number from 0 to 65535"),
        ("RATE_LIMIT", "0", "a positive number of requests per second, or auto"),
        ("RATE_LIMIT_BURST", "0", "a whole number of 1 or more"),
        ("CONCURRENCY_LIMIT", "0", "a whole number of 1 or more"),
        ("SSE_CHANNEL_CAPACITY", "0", "a whole number of 1 or more"),
        ("SSE_BUFFER_CAPACITY", "0", "a whole number of 1 or more"),
        ("MAX_BODY_SIZE", "0", "a whole number of 1 or more"),
        ("UPSTREAM_CONNECT_TIMEOUT", "0", "a number of seconds above 0, up to 1000000000"),
        ("UPSTREAM_READ_TIMEOUT", "0", "a number of seconds above 0, up to 1000000000"),
        ("DRAIN_TIMEOUT", "1e10", "a number of seconds from 0 to 1000000000"),
        ("LOG_FORMAT", "xml", "text or json"),
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
def test_value_out_of_its_bounds_is_refused(variable: str, value: str, expected: str) -> None:
    [problem] = problems(KEY | {variable: value})
    assert problem.startswith(f"{variable}=")
    assert problem.endswith(f": expected {expected}")
    assert len(problem) < 250


@pytest.mark.parametrize("value", ["verbose", "rustygate=loud", "=info", "a b=info", "x=y=info"])
def test_directive_that_is_none_is_refused(value: str) -> None:
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
def test_base_url_that_is_none_is_refused(value: str) -> None:
    [problem] = problems(KEY | {"OPENAI_BASE_URL": value})
    assert problem.startswith("OPENAI_BASE_URL='")
    assert problem.endswith(
        "': expected an http or https URL without query, fragment, user or password"
    )


@pytest.mark.parametrize(
    "value",
    ["a.org", "null", "https://a.org,*", "https://a.org/x", "https://a.org,", "https://*.a.org"],
)
def test_origin_that_is_none_is_refused(value: str) -> None:
    [problem] = problems(KEY | {"CORS_ALLOW_ORIGINS": value})
    assert problem.startswith(f"CORS_ALLOW_ORIGINS={value!r}: expected origins such as ")


@pytest.mark.parametrize("url", ["https://me:hidden@host/v1", "https://host/v1?key=hidden"])
def test_secret_in_a_base_url_is_not_shown(url: str) -> None:
    [problem] = problems(KEY | {"OPENAI_BASE_URL": url})
    assert "********" in problem
    assert "hidden" not in problem


@pytest.mark.parametrize(
    "bad", ["a b", "a\nb", "a\r\nX: y", "a\0b", "ключ", "a\x7f", "é", "\ud800"]
)
@pytest.mark.parametrize("variable", ["OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"])
def test_what_cannot_be_a_header_value_is_refused(variable: str, bad: str) -> None:
    [problem] = problems(KEY | {variable: bad})
    assert problem.startswith(f"{variable}=")
    assert "visible ASCII characters, no spaces" in problem
    assert problem.isascii()
    assert problem.isprintable()


def test_key_that_is_refused_is_not_shown() -> None:
    [problem] = problems({"OPENAI_API_KEY": SECRET + " x"})
    assert problem.startswith("OPENAI_API_KEY=********: expected ")
    assert SECRET[:5] not in problem
    assert SECRET[-4:] not in problem


@pytest.mark.parametrize("empty", ["", " ", "\n"])
def test_empty_key_is_missing(empty: str) -> None:
    [problem] = problems({"OPENAI_API_KEY": empty})
    assert problem.startswith("OPENAI_API_KEY: not set; expected ")


def test_empty_variable_is_unset() -> None:
    empty = {each.name: "" for each in variables()} | {"OPENAI_API_KEY_FILE": "", "no_proxy": ""}
    assert load(empty | KEY) == Settings(openai_api_key=SECRET)


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("PORT 1\nQUEUE_LIMIT=x\n")
    found = problems({"RATE_LIMIT": "nan", "LOG_FORMAT": "a\nb"}, dotenv)
    assert [problem.partition(":")[0] for problem in found] == [
        f"{dotenv} line 1",
        "OPENAI_API_KEY",
        "LOG_FORMAT='a\\nb'",
        "RATE_LIMIT='nan'",
        "QUEUE_LIMIT='x'",
    ]
    assert all(problem.isprintable() for problem in found)


# The key's file.


def test_key_is_read_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"  {SECRET}\r\n\n")
    assert load({"OPENAI_API_KEY_FILE": str(file)}).openai_api_key == SECRET


def test_byte_order_mark_is_no_part_of_a_key(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{SECRET}\r\n", "utf-8-sig")
    assert load({"OPENAI_API_KEY_FILE": str(file)}).openai_api_key == SECRET


def test_path_of_the_keys_file_is_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("key").write_text(SECRET)
    assert load({"OPENAI_API_KEY_FILE": "key"}).openai_api_key == SECRET


def test_key_and_its_file_exclude_each_other(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(SECRET)
    [problem] = problems(KEY | {"OPENAI_API_KEY_FILE": str(file)})
    assert problem.endswith(
        "expected only one of OPENAI_API_KEY and OPENAI_API_KEY_FILE to be set"
    )
    assert SECRET not in problem


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "its content is not a key"),
        (b" \n", "its content is not a key"),
        (b"one\ntwo", "its content is not a key"),
        (b"\xff\xfe", "its content is not a key"),
        (b"x" * 5000, "its content is not a key"),
        (None, "No such file or directory"),
    ],
    ids=["empty", "blank", "two lines", "not UTF-8", "too long", "missing"],
)
def test_keys_file_without_a_key_is_refused(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    [problem] = problems({"OPENAI_API_KEY_FILE": str(file)})
    assert problem.startswith("OPENAI_API_KEY_FILE=")
    assert problem.endswith(f": expected the path of a file that contains one key ({reason})")


def test_endless_file_is_no_key() -> None:
    [problem] = problems({"OPENAI_API_KEY_FILE": "/dev/zero"})
    assert "its content is not a key" in problem


def test_directory_is_no_keys_file(tmp_path: Path) -> None:
    [problem] = problems({"OPENAI_API_KEY_FILE": str(tmp_path)})
    assert "Is a directory" in problem


def test_key_in_the_place_of_its_files_path_is_not_shown() -> None:
    [problem] = problems({"OPENAI_API_KEY_FILE": SECRET})
    assert SECRET[3:] not in problem


def credentials(tmp_path: Path) -> dict[str, str]:
    """The environment of a service with a credential, as systemd makes it."""
    (tmp_path / "openai_api_key").write_text(f"{SECRET}\n")
    return {"CREDENTIALS_DIRECTORY": str(tmp_path)}


def test_key_is_read_from_the_credentials_directory(tmp_path: Path) -> None:
    assert load(credentials(tmp_path)).openai_api_key == SECRET


def test_variables_of_the_key_count_before_the_credential(tmp_path: Path) -> None:
    given = credentials(tmp_path)
    (tmp_path / "other").write_text("sk-other")
    assert load(given | {"OPENAI_API_KEY": "sk-own"}).openai_api_key == "sk-own"
    given["OPENAI_API_KEY_FILE"] = str(tmp_path / "other")
    assert load(given).openai_api_key == "sk-other"


def test_credentials_directory_without_the_key_is_none(tmp_path: Path) -> None:
    [problem] = problems({"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert problem.startswith("OPENAI_API_KEY: not set")


def test_secrets_are_forgotten_and_nothing_else() -> None:
    secrets = {"OPENAI_API_KEY": SECRET, "ADMIN_KEY": "letmein"}
    environ = secrets | {"OPENAI_API_KEY_FILE": "/key", "PORT": "1"}
    forget_secrets(environ)
    assert environ == {"OPENAI_API_KEY_FILE": "/key", "PORT": "1"}


# The key to pages about the gate.


def test_admin_key_is_read_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("letmein\n")
    settings = load(KEY | {"ADMIN_KEY_FILE": str(file)})
    assert (settings.admin_key, settings.openai_api_key) == ("letmein", SECRET)


def test_all_that_is_wrong_with_files_of_keys_is_reported(tmp_path: Path) -> None:
    absent = str(tmp_path / "absent")
    found = problems({"OPENAI_API_KEY_FILE": absent, "ADMIN_KEY_FILE": absent})
    assert [problem.partition("=")[0] for problem in found] == [
        "OPENAI_API_KEY_FILE",
        "ADMIN_KEY_FILE",
    ]


def test_admin_key_and_its_file_exclude_each_other() -> None:
    [problem] = problems(KEY | {"ADMIN_KEY": "letmein", "ADMIN_KEY_FILE": "/key"})
    assert problem.endswith("expected only one of ADMIN_KEY and ADMIN_KEY_FILE to be set")
    assert "letmein" not in problem


def test_admin_key_is_not_shown() -> None:
    settings = load(KEY | {"ADMIN_KEY": "letmein"})
    assert "letmein" not in f"{settings!r} {dict(describe(settings))}"
    [problem] = problems(KEY | {"ADMIN_KEY": "let me in"})
    assert problem.startswith("ADMIN_KEY=********: expected a key of visible ASCII characters")


# The clients' file.

CLIENTS = f"[client.a]\nkey_sha256 = '{'0' * 64}'\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_clients_are_read_from_their_file(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "clients.toml"
    file.write_text(CLIENTS.replace("\n", "\r\n"), encoding)
    assert repr(read_clients_file(str(file))) == "<Clients a>"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(os.mkfifo, "not a pipe", id="pipe"),
        pytest.param(
            lambda path: path.write_text(CLIENTS + "#" * (16 << 20)),
            "at most 16777216",
            id="large",
        ),
        pytest.param(lambda path: path.write_bytes(b"\xff"), "UTF-8", id="not UTF-8"),
        pytest.param(lambda path: path.mkdir(), "Is a directory", id="directory"),
    ],
)
def test_clients_file_that_cannot_be_read_whole_is_refused(
    tmp_path: Path, make: Callable[[Path], object], reason: str
) -> None:
    """Nothing is waited for, and no part is taken for the whole."""
    file = tmp_path / "clients.toml"
    make(file)
    [problem] = problems(KEY | {"CLIENTS_FILE": str(file)})
    assert problem.startswith("CLIENTS_FILE=")
    assert reason in problem


# The `.env` file.


def test_environment_overrides_dotenv(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text(
        f"export OPENAI_API_KEY='{SECRET}'\n# a comment\nPORT=1 # one\nQUEUE_LIMIT=7\n"
    )
    settings = load({"PORT": "2"}, dotenv=dotenv)
    assert (settings.openai_api_key, settings.port, settings.queue_limit) == (SECRET, 2, 7)


def test_empty_variable_in_the_environment_unsets_dotenvs(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("PORT=1\n")
    assert load(KEY | {"PORT": ""}, dotenv=dotenv).port == 8080


def test_dotenv_is_taken_as_written(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("OPENAI_API_KEY=a${HOME}b\n")
    assert load({}, dotenv=dotenv).openai_api_key == "a${HOME}b"


def test_loading_leaves_the_environment_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text(f"OPENAI_API_KEY={SECRET}\nPORT=1\n")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY_FILE", raising=False)
    monkeypatch.setenv("PORT", "2")
    before = dict(os.environ)
    assert load(dotenv=dotenv).port == 2
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(lambda path: None, None, id="missing"),
        pytest.param(lambda path: path.mkdir(), None, id="directory"),
        pytest.param(lambda path: path.write_bytes(b"A=\xff"), "not UTF-8", id="not UTF-8"),
        pytest.param(
            lambda path: path.symlink_to(path), "Too many levels of symbolic links", id="loop"
        ),
    ],
)
def test_dotenv_that_cannot_be_read(
    tmp_path: Path, make: Callable[[Path], object], reason: str | None
) -> None:
    dotenv = tmp_path / ".env"
    make(dotenv)
    if reason is None:
        assert load(KEY, dotenv=dotenv).port == 8080
    else:
        [problem] = problems(KEY, dotenv)
        assert problem == f"{dotenv}: expected a readable file of NAME=value lines ({reason})"


@pytest.mark.parametrize(
    "line",
    [f"OPENAI_API_KEY {SECRET}", SECRET, f"OPENAI_API_KEY: {SECRET}", f"A='{SECRET}", "=x"],
)
def test_broken_line_of_dotenv_is_named_and_not_shown(tmp_path: Path, line: str) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text(f"PORT=1\n\n\n{line}\nQUEUE_LIMIT=7\n")
    [problem] = problems(KEY, dotenv)
    assert problem == f"{dotenv} line 4: expected NAME=value"


# Proxies.


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
def test_proxy_that_is_none_is_refused(variable: str, value: str) -> None:
    [problem] = problems(KEY | {variable: value})
    assert problem.startswith(f"{variable.upper()}='")
    assert ": expected an http or https URL of a proxy, such as " in problem


@pytest.mark.parametrize(
    "value",
    [
        "ftp://me:hidden@proxy",
        "http://me:hidden@pro xy",
        "http://me:hid/hidden@proxy",
        "me:hidden@proxy:port",
        "http://me:hid@hidden@proxy:0",
    ],
)
def test_password_of_a_proxy_is_not_shown_when_it_is_refused(value: str) -> None:
    [problem] = problems(KEY | {"HTTPS_PROXY": value})
    assert "********@" in problem
    assert "hid" not in problem
    assert "me:" not in problem


def test_password_of_a_proxy_is_not_shown() -> None:
    settings = load(KEY | {"HTTPS_PROXY": "http://me:hidden@proxy:3128", "HTTP_PROXY": "a:b@c"})
    described = dict(describe(settings))
    assert described["HTTPS_PROXY"] == "http://********@proxy:3128"
    assert described["HTTP_PROXY"] == "http://********@c"
    assert "hidden" not in repr(settings)


def test_lower_case_counts_before_upper_case(tmp_path: Path) -> None:
    settings = load(KEY | {"HTTPS_PROXY": "upper", "https_proxy": "lower", "no_proxy": "x"})
    assert (settings.https_proxy, settings.no_proxy) == ("http://lower", "x")
    dotenv = tmp_path / ".env"
    dotenv.write_text("https_proxy=dotenv\nHTTP_PROXY=dotenv\n")
    settings = load(KEY | {"HTTPS_PROXY": "upper", "http_proxy": ""}, dotenv=dotenv)
    assert (settings.https_proxy, settings.http_proxy) == ("http://upper", None)


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
def test_proxy_on_the_way(base_url: str, no_proxy: str, proxy: str | None) -> None:
    proxies = {"HTTPS_PROXY": "secure", "HTTP_PROXY": "plain", "NO_PROXY": no_proxy}
    assert load(KEY | proxies | {"OPENAI_BASE_URL": base_url}).proxy == proxy


# Authorities.


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory"),
        ("", "no certificate in it"),
        ("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n", "bad format"),
    ],
    ids=["missing", "empty", "broken"],
)
def test_file_of_authorities_that_names_none_is_refused(
    tmp_path: Path, content: str | None, reason: str
) -> None:
    file = tmp_path / "file"
    if content is not None:
        file.write_text(content)
    [problem] = problems(KEY | {"SSL_CERT_FILE": str(file)})
    assert problem.startswith("SSL_CERT_FILE=")
    assert problem.endswith(f": expected a PEM file of certificates ({reason})")


# What may be seen of them.


def test_key_is_in_no_repr() -> None:
    settings = load(KEY)
    assert SECRET not in repr(settings)
    assert "api_key" not in repr(settings)


def test_description_has_every_setting_and_no_secret() -> None:
    described = dict(describe(load(KEY | {"RATE_LIMIT": "auto", "RATE_LIMIT_BURST": "3"})))
    assert list(described) == [field.name.upper() for field in fields(Settings)]
    assert described["OPENAI_API_KEY"] == "sk-...wxyz"
    assert described["RATE_LIMIT"] == "auto"
    assert described["RATE_LIMIT_BURST"] == "3"
    assert SECRET not in str(described)


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1))
def test_mask_hides_nearly_all(secret: str) -> None:
    masked = mask(secret)
    assert masked == "********" or len(secret) >= 24
    assert len(masked) <= 10


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
def test_path_of_the_socket(address: str, path: str | None) -> None:
    assert load(KEY | {"BIND_ADDRESS": address}).socket_path == path


def test_capacity_of_a_stream_is_messages_times_bytes() -> None:
    environ = KEY | {"SSE_CHANNEL_CAPACITY": "3", "SSE_BUFFER_CAPACITY": "7"}
    assert load(environ).stream_capacity == 21
