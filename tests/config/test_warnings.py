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
