"""Loading: the environment, `.env`, files with keys and certificates, and all problems at once."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rustygate.config import (
    Settings,
    forget_secrets,
    load,
    variables,
)
from tests.config.problems import KEY, SECRET, problems


@pytest.mark.parametrize("empty", ["", " ", "\n"])
def test_empty_key_counts_as_missing(empty: str) -> None:
    [problem] = problems({"OPENAI_API_KEY": empty})
    assert problem.startswith("OPENAI_API_KEY: not set; expected ")


def test_empty_variable_counts_as_unset() -> None:
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


def test_key_is_read_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"  {SECRET}\r\n\n")
    assert load({"OPENAI_API_KEY_FILE": str(file)}).openai_api_key == SECRET


def test_byte_order_mark_is_removed_from_a_key(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{SECRET}\r\n", "utf-8-sig")
    assert load({"OPENAI_API_KEY_FILE": str(file)}).openai_api_key == SECRET


@pytest.mark.parametrize("key", ["sk=", "a=b=", "c2VjcmV0a2V5==", "it's-a-key"])
def test_key_may_contain_equals_signs_and_quotes(tmp_path: Path, key: str) -> None:
    file = tmp_path / "key"
    file.write_text(key)
    assert load({"OPENAI_API_KEY_FILE": str(file)}).openai_api_key == key


def test_key_file_is_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("key").write_text(SECRET)
    assert load({"OPENAI_API_KEY_FILE": "key"}).openai_api_key == SECRET


def test_key_and_key_file_are_mutually_exclusive(tmp_path: Path) -> None:
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
        (b'"sk-key"\n', "its content is not a key"),
        (b"sk-key'", "its content is not a key"),
        (b"OPENAI_API_KEY=sk-key", "its content is not a key"),
        (None, "No such file or directory"),
    ],
    ids=[
        *("empty", "blank", "two lines", "not UTF-8", "too long"),
        *("quotes", "quote", "assignment", "missing"),
    ],
)
def test_key_file_without_a_key_is_rejected(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    [problem] = problems({"OPENAI_API_KEY_FILE": str(file)})
    assert problem.startswith("OPENAI_API_KEY_FILE=")
    assert problem.endswith(f": expected the path of a file that contains one key ({reason})")


def test_endless_key_file_is_rejected() -> None:
    [problem] = problems({"OPENAI_API_KEY_FILE": "/dev/zero"})
    assert "its content is not a key" in problem


def test_directory_as_key_file_is_rejected(tmp_path: Path) -> None:
    [problem] = problems({"OPENAI_API_KEY_FILE": str(tmp_path)})
    assert "Is a directory" in problem


def credentials(tmp_path: Path) -> dict[str, str]:
    """The environment of a systemd service with a credential."""
    (tmp_path / "openai_api_key").write_text(f"{SECRET}\n")
    return {"CREDENTIALS_DIRECTORY": str(tmp_path)}


def test_key_is_read_from_the_credentials_directory(tmp_path: Path) -> None:
    assert load(credentials(tmp_path)).openai_api_key == SECRET


def test_key_variables_take_precedence_over_the_credential(tmp_path: Path) -> None:
    given = credentials(tmp_path)
    (tmp_path / "other").write_text("sk-other")
    assert load(given | {"OPENAI_API_KEY": "sk-own"}).openai_api_key == "sk-own"
    given["OPENAI_API_KEY_FILE"] = str(tmp_path / "other")
    assert load(given).openai_api_key == "sk-other"


def test_credentials_directory_without_the_key_is_ignored(tmp_path: Path) -> None:
    [problem] = problems({"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert problem.startswith("OPENAI_API_KEY: not set")


def test_forget_secrets_removes_only_secrets() -> None:
    secrets = {"OPENAI_API_KEY": SECRET, "ADMIN_KEY": "letmein", "REDIS_URL": "redis://redis"}
    environ = secrets | {"OPENAI_API_KEY_FILE": "/key", "PORT": "1"}
    forget_secrets(environ)
    assert environ == {"OPENAI_API_KEY_FILE": "/key", "PORT": "1"}


def test_admin_key_is_read_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("letmein\n")
    settings = load(KEY | {"ADMIN_KEY_FILE": str(file)})
    assert (settings.admin_key, settings.openai_api_key) == ("letmein", SECRET)


def test_problems_with_several_key_files_are_all_reported(tmp_path: Path) -> None:
    absent = str(tmp_path / "absent")
    found = problems({"OPENAI_API_KEY_FILE": absent, "ADMIN_KEY_FILE": absent})
    assert [problem.partition("=")[0] for problem in found] == [
        "OPENAI_API_KEY_FILE",
        "ADMIN_KEY_FILE",
    ]


def test_admin_key_and_its_file_are_mutually_exclusive() -> None:
    [problem] = problems(KEY | {"ADMIN_KEY": "letmein", "ADMIN_KEY_FILE": "/key"})
    assert problem.endswith("expected only one of ADMIN_KEY and ADMIN_KEY_FILE to be set")
    assert "letmein" not in problem


@pytest.mark.parametrize("quoted", ['"3"', "'3'", '"3', "3'", "`3`", "\u201c3\u201d", '" 3 "'])
def test_quotes_around_a_value_are_rejected(quoted: str) -> None:
    assert problems(KEY | {"RATE_LIMIT": quoted}) == [
        f"RATE_LIMIT={quoted!a}: expected a value without quotes around it; remove them "
        "(docker's --env-file does not)"
    ]


@pytest.mark.parametrize("variable", ["OPENAI_API_KEY", "ADMIN_KEY"])
def test_quoted_secret_is_rejected_and_not_shown(variable: str) -> None:
    [problem] = problems(KEY | {variable: f'"{SECRET}"'})
    assert problem.startswith(f"{variable}=********: expected a value without quotes around it")


def test_quoted_path_of_a_key_file_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(SECRET)
    [problem] = problems({"OPENAI_API_KEY_FILE": f"'{tmp_path / 'key'}'"})
    assert "expected a value without quotes around it" in problem


def test_quotes_in_dotenv_are_removed(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("RATE_LIMIT=\"3\"\nPORT='1'\n")
    settings = load(KEY, dotenv=dotenv)
    assert (settings.rate_limit, settings.port) == (3.0, 1)


def test_environment_overrides_dotenv(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text(
        f"export OPENAI_API_KEY='{SECRET}'\n# a comment\nPORT=1 # one\nQUEUE_LIMIT=7\n"
    )
    settings = load({"PORT": "2"}, dotenv=dotenv)
    assert (settings.openai_api_key, settings.port, settings.queue_limit) == (SECRET, 2, 7)


def test_empty_environment_variable_unsets_the_one_in_dotenv(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("PORT=1\n")
    assert load(KEY | {"PORT": ""}, dotenv=dotenv).port == 8080


def test_dotenv_values_are_not_expanded(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("OPENAI_API_KEY=a${HOME}b\n")
    assert load({}, dotenv=dotenv).openai_api_key == "a${HOME}b"


def test_loading_does_not_change_the_environment(
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
def test_unreadable_dotenv_is_reported_unless_absent_or_a_directory(
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
    [
        *(f"OPENAI_API_KEY {SECRET}", SECRET, f"OPENAI_API_KEY: {SECRET}", f"A='{SECRET}", "=x"),
        *(f"$env:OPENAI_API_KEY={SECRET}", '"RATE_LIMIT"=5', "- RATE_LIMIT=5", "RATE LIMIT=5"),
    ],
)
def test_bad_line_in_dotenv_is_reported_by_number_only(tmp_path: Path, line: str) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text(f"PORT=1\n\n\n{line}\nQUEUE_LIMIT=7\n")
    [problem] = problems(KEY, dotenv)
    assert problem == f"{dotenv} line 4: expected NAME=value"


@pytest.mark.parametrize("name", ["spring.port", "my-app", "_x", "a1"])
def test_names_of_other_programs_in_dotenv_are_accepted(tmp_path: Path, name: str) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text(f"{name}=1\nexport PORT=1\n'QUEUE_LIMIT'=7\n")
    settings = load(KEY, dotenv=dotenv)
    assert (settings.port, settings.queue_limit) == (1, 7)


def test_lower_case_proxy_variables_take_precedence(tmp_path: Path) -> None:
    settings = load(KEY | {"HTTPS_PROXY": "upper", "https_proxy": "lower", "no_proxy": "x"})
    assert (settings.https_proxy, settings.no_proxy) == ("http://lower", "x")
    dotenv = tmp_path / ".env"
    dotenv.write_text("https_proxy=dotenv\nHTTP_PROXY=dotenv\n")
    settings = load(KEY | {"HTTPS_PROXY": "upper", "http_proxy": ""}, dotenv=dotenv)
    assert (settings.https_proxy, settings.http_proxy) == ("http://upper", None)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory"),
        ("", "no certificate in it"),
        ("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n", "bad format"),
    ],
    ids=["missing", "empty", "broken"],
)
def test_bad_ca_file_is_rejected(tmp_path: Path, content: str | None, reason: str) -> None:
    file = tmp_path / "file"
    if content is not None:
        file.write_text(content)
    [problem] = problems(KEY | {"SSL_CERT_FILE": str(file)})
    assert problem.startswith("SSL_CERT_FILE=")
    assert problem.endswith(f": expected a PEM file of certificates ({reason})")


def test_redis_url_is_read_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text("redis://:hidden@redis\n")
    assert load(KEY | {"REDIS_URL_FILE": str(file)}).redis_url == "redis://:hidden@redis"


def test_redis_url_file_with_a_bad_url_is_rejected_once(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text("redis://:hidden@\n")
    [problem] = problems(KEY | {"REDIS_URL_FILE": str(file)})
    assert problem.startswith("REDIS_URL=********: expected a URL such as ")
    assert problem.endswith(" (it has no host, or a port that is not a number)")


@pytest.mark.parametrize(
    ("content", "reason"),
    [("two words", "its content is not a URL"), (None, "No such file or directory")],
)
def test_redis_url_file_without_a_url_is_rejected(
    tmp_path: Path, content: str | None, reason: str
) -> None:
    file = tmp_path / "url"
    if content is not None:
        file.write_text(content)
    [problem] = problems(KEY | {"REDIS_URL_FILE": str(file)})
    assert problem.startswith("REDIS_URL_FILE=")
    assert problem.endswith(f": expected the path of a file that contains one URL ({reason})")
