"""Warnings about valid settings that are probably not what was meant."""

import pytest

from rustygate.config import load, settings_warnings
from tests.config.problems import KEY


@pytest.mark.parametrize(
    "url",
    ["https://api.openai.com", "https://api.openai.com/", "https://eu.api.openai.com:443"],
)
def test_openai_without_its_path_is_warned_about(url: str) -> None:
    [warning] = settings_warnings(load(KEY | {"OPENAI_BASE_URL": url}))
    url = url.rstrip("/")
    assert warning.startswith(f"OPENAI_BASE_URL={url} has no /v1: ")
    assert warning.endswith(f"set OPENAI_BASE_URL={url}/v1")


@pytest.mark.parametrize(
    "url",
    ["https://api.openai.com/v1", "https://eu.api.openai.com/v1/", "https://notapi.openai.com"],
)
def test_other_base_url_is_not_warned_about(url: str) -> None:
    assert list(settings_warnings(load(KEY | {"OPENAI_BASE_URL": url}))) == []


@pytest.mark.parametrize(
    "path", ["/V1", "/v1/chat/completions", "/v1/responses/", "/v2", "//v1", "/openai/v1"]
)
def test_another_path_at_openai_is_warned_about(path: str) -> None:
    url = f"https://api.openai.com{path}"
    [warning] = settings_warnings(load(KEY | {"OPENAI_BASE_URL": url}))
    assert warning == (
        f"OPENAI_BASE_URL={url.rstrip('/')} has the path {path.rstrip('/')}: /v1/X here is sent "
        f"to {path.rstrip('/')}/X there, which does not exist; set "
        "OPENAI_BASE_URL=https://api.openai.com/v1"
    )


def test_malformed_block_in_no_proxy_is_warned_about() -> None:
    [warning] = settings_warnings(load(KEY | {"NO_PROXY": "localhost,10.0.0.0/33"}))
    assert warning.startswith("NO_PROXY: '10.0.0.0/33': expected ")
    assert list(settings_warnings(load(KEY | {"NO_PROXY": "localhost,10.0.0.0/8"}))) == []


def test_group_without_redis_is_warned_about() -> None:
    [warning] = settings_warnings(load(KEY | {"GATE_GROUP": "team"}))
    assert warning == (
        "GATE_GROUP=team has no effect without REDIS_URL: this gate shares its quota with no other"
    )


@pytest.mark.parametrize(
    "given", [{}, {"GATE_GROUP": "rustygate"}, {"GATE_GROUP": "team", "REDIS_URL": "redis://x"}]
)
def test_group_with_redis_or_of_the_default_name_is_not_warned_about(
    given: dict[str, str],
) -> None:
    assert list(settings_warnings(load(KEY | given))) == []
