"""Which targets are forwarded."""

import pytest

from rustygate.core.paths import has_dot_segment, is_unsafe, origin_form


@pytest.mark.parametrize(
    "path",
    [
        "/v1/../admin",
        "/v1/./x",
        "/v1/x/..",
        "/v1/%2e%2e/admin",
        "/v1/%2E./admin",
        "/v1/.%2e/admin",
        "/v1/x%2f..%2fy",
        "/v1/..%2Fadmin",
        "/v1/..%5cadmin",
        "/..",
    ],
)
def test_dot_segments_are_found_in_any_encoding(path: str) -> None:
    assert has_dot_segment(path)


@pytest.mark.parametrize(
    "path",
    ["/v1/models", "/v1/a..b", "/v1/...", "/v1/.well-known", "/v1/%252e%252e/x", "/v1/a%2fb", "/"],
)
def test_other_dots_are_not_dot_segments(path: str) -> None:
    assert not has_dot_segment(path)


@pytest.mark.parametrize("target", ["/v1/a b", "/v1/a\x00", "/v1/a\x7f", "/v1/a#b", "/v1/a\\b"])
def test_targets_with_unsafe_characters(target: str) -> None:
    assert is_unsafe(target)


@pytest.mark.parametrize("target", ["/v1/a?b=c&d[]=%20+e", "/v1/ü", "/v1/~a!$'()*,;:@"])
def test_odd_but_safe_targets(target: str) -> None:
    assert not is_unsafe(target)


@pytest.mark.parametrize(
    ("target", "origin"),
    [
        ("/v1/x?y=1", "/v1/x?y=1"),
        ("http://host:80/v1/x?y=1", "/v1/x?y=1"),
        ("http://host", ""),
        ("http://user:password@host/v1/x", "/v1/x"),
        ("http://host?y=/v1/x", "?y=/v1/x"),
        ("x?y=http://host/v1/x", "x?y=http://host/v1/x"),
        ("/v1/x?u=http://y/z", "/v1/x?u=http://y/z"),
        ("*", "*"),
    ],
)
def test_absolute_form_is_reduced_to_origin_form(target: str, origin: str) -> None:
    assert origin_form(target) == origin
