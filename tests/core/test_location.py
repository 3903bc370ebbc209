"""Locations under upstream's base become paths of the gate."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.location import LocationMap

OPENAI = "https://api.openai.com/v1"
AZURE = "https://Me.openai.azure.com:443/openai/v1/"
LOCAL = "http://127.0.0.1:8000"


@pytest.mark.parametrize(
    ("base", "location", "mapped"),
    [
        (OPENAI, "https://api.openai.com/v1/files/f?a=b#c", "/v1/files/f?a=b#c"),
        (OPENAI, "HTTPS://API.openai.com:443/v1/files", "/v1/files"),
        (OPENAI, "https://api.openai.com:/v1/files", "/v1/files"),
        (OPENAI, "//api.openai.com/v1/files", "/v1/files"),
        (OPENAI, "/v1/files", "/v1/files"),
        (OPENAI, "/v1/", "/v1/"),
        (AZURE, "https://me.openai.azure.com/openai/v1/videos/1", "/v1/videos/1"),
        (AZURE, "/openai/v1/videos/1?x=/v1/", "/v1/videos/1?x=/v1/"),
        (AZURE, "/openai/v1//%2F", "/v1//%2F"),
        (LOCAL, "http://127.0.0.1:8000/files", "/v1/files"),
        (LOCAL, "/files", "/v1/files"),
        (OPENAI, "https://api.openai.com/v1", "/v1"),
        (OPENAI, "https://API.openai.com:443/v1?a=b#c", "/v1?a=b#c"),
        (OPENAI, "//api.openai.com/v1#c", "/v1#c"),
        (OPENAI, "/v1", "/v1"),
        (OPENAI, "/v1?x", "/v1?x"),
        (AZURE, "/openai/v1", "/v1"),
        (AZURE, "https://me.openai.azure.com/openai/v1", "/v1"),
        (LOCAL, "http://127.0.0.1:8000", "/v1/"),
        (LOCAL, "http://127.0.0.1:8000?x=1", "/v1/?x=1"),
        (LOCAL, "/", "/v1/"),
    ],
)
def test_location_under_the_base_is_mapped(base: str, location: str, mapped: str) -> None:
    assert LocationMap(base).to_local(location) == mapped


@pytest.mark.parametrize(
    "location",
    [
        "",
        "videos/1",
        "../videos",
        "?page=2",
        "#x",
        "//",
        "https://me.openai.azure.com",
        "https://me.openai.azure.com?x",
        "https://evil.example/openai/v1",
        "/openai",
        "/openai/v10",
        "/openai/v10/videos",
        "/v1/videos",
        "/openai/v1/../keys",
        "/openai/v1/%2e%2e/keys",
        "/OpenAI/v1/videos",
        "https://me.openai.azure.com/v1/videos",
        "http://me.openai.azure.com/openai/v1/videos",
        "https://me.openai.azure.com:8443/openai/v1/videos",
        "https://user@me.openai.azure.com/openai/v1/videos",
        "https://me.openai.azure.com.evil.example/openai/v1/videos",
        "https://evil.example/openai/v1/videos",
        "//evil.example/openai/v1/videos",
        "///openai/v1/videos",
        "https:/openai/v1/videos",
        "mailto:a@b",
        "https://[::1/openai/v1/videos",
    ],
)
def test_any_other_location_stays_as_it_is(location: str) -> None:
    assert LocationMap(AZURE).to_local(location) == location


@given(st.text())
def test_any_text_is_a_location(location: str) -> None:
    assert isinstance(LocationMap(AZURE).to_local(location), str)
