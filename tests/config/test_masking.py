"""What is never shown: keys, passwords, and secrets in rejected values."""

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.config import (
    Settings,
    describe,
    load,
    mask,
)
from tests.config.problems import KEY, SECRET, problems


@pytest.mark.parametrize("url", ["https://me:hidden@host/v1", "https://host/v1?key=hidden"])
def test_secret_in_a_rejected_base_url_is_masked(url: str) -> None:
    [problem] = problems(KEY | {"OPENAI_BASE_URL": url})
    assert "********" in problem
    assert "hidden" not in problem


def test_rejected_key_is_masked() -> None:
    [problem] = problems({"OPENAI_API_KEY": SECRET + " x"})
    assert problem.startswith("OPENAI_API_KEY=********: expected ")
    assert SECRET[:5] not in problem
    assert SECRET[-4:] not in problem


def test_key_given_as_a_path_is_masked() -> None:
    [problem] = problems({"OPENAI_API_KEY_FILE": SECRET})
    assert SECRET[3:] not in problem


def test_admin_key_is_masked() -> None:
    settings = load(KEY | {"ADMIN_KEY": "letmein"})
    assert "letmein" not in f"{settings!r} {dict(describe(settings))}"
    [problem] = problems(KEY | {"ADMIN_KEY": "let me in"})
    assert problem.startswith("ADMIN_KEY=********: expected a key of visible ASCII characters")


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
def test_password_of_a_rejected_proxy_is_masked(value: str) -> None:
    [problem] = problems(KEY | {"HTTPS_PROXY": value})
    assert "********@" in problem
    assert "hid" not in problem
    assert "me:" not in problem


def test_password_of_a_proxy_is_masked() -> None:
    settings = load(KEY | {"HTTPS_PROXY": "http://me:hidden@proxy:3128", "HTTP_PROXY": "a:b@c"})
    described = dict(describe(settings))
    assert described["HTTPS_PROXY"] == "http://********@proxy:3128"
    assert described["HTTP_PROXY"] == "http://********@c"
    assert "hidden" not in repr(settings)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://me:hidden@redis:6379/1", "redis://********@redis:6379/1"),
        ("redis://:hidden@redis", "redis://********@redis"),
        ("redis://redis?password=hidden&db=1", "redis://redis?password=********&db=1"),
        ("redis://redis?db=1&username=hidden", "redis://redis?db=1&username=********"),
        ("unix://me:hidden@/run/redis.sock", "unix://********@/run/redis.sock"),
        (
            "rediss+sentinel://me:hidden@a,b/main?sentinel_username=me&sentinel_password=hidden",
            "rediss+sentinel://********@a,b/main?sentinel_username=********"
            "&sentinel_password=********",
        ),
        ("redis+cluster://me:hidden@a:7000,b", "redis+cluster://********@a:7000,b"),
    ],
)
def test_user_and_password_of_redis_are_masked(url: str, shown: str) -> None:
    settings = load(KEY | {"REDIS_URL": url})
    assert settings.redis_url == url
    assert dict(describe(settings))["REDIS_URL"] == shown
    assert "redis://" not in repr(settings)


@pytest.mark.parametrize(
    "url",
    [
        "hidden",
        "redis:hidden@host",
        "redis://me:hidden",
        "redis://me:hidden@",
        "redis://me:hid/hidden@host",
        "redis://me:hid?hidden@host",
        "redis://me:hid#hidden@host",
        "redis://me:hid hidden@host",
        "redis://me:hidden@host:port",
        "redis://host?hidden=hidden",
        "redis://host/hidden",
        "http://me:hidden@host",
    ],
)
def test_rejected_redis_url_is_masked(url: str) -> None:
    [problem] = problems(KEY | {"REDIS_URL": url})
    assert problem.startswith("REDIS_URL=********: expected a URL such as ")
    assert "hid" not in problem
    assert "me:" not in problem


def test_repr_contains_no_key() -> None:
    settings = load(KEY)
    assert SECRET not in repr(settings)
    assert "api_key" not in repr(settings)


def test_description_lists_every_setting_and_no_secret() -> None:
    described = dict(describe(load(KEY | {"RATE_LIMIT": "auto", "RATE_LIMIT_BURST": "3"})))
    assert list(described) == [field.name.upper() for field in fields(Settings)]
    assert described["OPENAI_API_KEY"] == "sk-...wxyz"
    assert described["RATE_LIMIT"] == "auto"
    assert described["RATE_LIMIT_BURST"] == "3"
    assert SECRET not in str(described)


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1))
def test_mask_hides_nearly_all_characters(secret: str) -> None:
    masked = mask(secret)
    assert masked == "********" or len(secret) >= 24
    assert len(masked) <= 10
