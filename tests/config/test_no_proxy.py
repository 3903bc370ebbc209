"""NO_PROXY: names, domains, addresses, blocks and ports."""

import pytest

from rustygate.config.no_proxy import is_bypassed, malformed_blocks


@pytest.mark.parametrize(
    ("host", "no_proxy"),
    [
        ("10.1.2.3", "10.0.0.0/8"),
        ("10.1.2.3", "10.1.2.3/32"),
        ("10.1.2.3", "10.1.2.99/24"),
        ("10.1.2.3", "0.0.0.0/0"),
        ("10.1.2.3", "example.org, 10.0.0.0/8"),
        ("10.1.2.3", "example.org 10.0.0.0/8"),
        ("10.1.2.3", "10.1.2.3"),
        ("10.1.2.3", "10.1.2.3:443"),
        ("::ffff:10.1.2.3", "10.0.0.0/8"),
        ("fd00::7", "fd00::/8"),
        ("fd00::7", "[fd00::]/8"),
        ("fd00::7", "FD00:0::7"),
        ("fd00::7", "[fd00::7]:443"),
        ("api.example.org", "example.org"),
        ("api.example.org", ".example.org"),
        ("api.example.org", "*.example.org"),
        ("API.example.org", "api.EXAMPLE.org"),
        ("api.example.org", "example.org:443"),
        ("api.example.org", "*"),
        ("10.1.2.3", "x,*"),
    ],
)
def test_host_is_reached_without_a_proxy(host: str, no_proxy: str) -> None:
    assert is_bypassed(host, 443, no_proxy)


@pytest.mark.parametrize(
    ("host", "no_proxy"),
    [
        ("10.1.2.3", ""),
        ("10.1.2.3", "11.0.0.0/8"),
        ("10.1.2.3", "10.1.2.0/33"),
        ("10.1.2.3", "10.1.2.4"),
        ("10.1.2.3", "2.3"),
        ("10.1.2.3", ".3"),
        ("10.1.2.3", "10.1.2.3:80"),
        ("10.1.2.3", "fd00::/8"),
        ("10.1.2.3", "::/0"),
        ("fd00::7", "10.0.0.0/8"),
        ("fd00::7", "[fd00::7]:80"),
        ("fe80::7", "fd00::/8"),
        ("10.example.org", "10.0.0.0/8"),
        ("api.example.org", "ample.org"),
        ("example.org", "api.example.org"),
        ("api.example.org", "example.org:80"),
        ("api.example.org", "."),
        ("api.example.org", ",,"),
        ("api.example.org", "example.org/8"),
    ],
)
def test_host_is_reached_through_the_proxy(host: str, no_proxy: str) -> None:
    assert not is_bypassed(host, 443, no_proxy)


@pytest.mark.parametrize(
    ("no_proxy", "malformed"),
    [
        ("10.0.0.0/8, localhost,[fd00::]/8 .corp,*", []),
        ("10.0.0.0/33,a", ["10.0.0.0/33"]),
        ("https://example.org, 10.0/8x", ["https://example.org", "10.0/8x"]),
        ("", []),
    ],
)
def test_malformed_blocks_are_found(no_proxy: str, malformed: list[str]) -> None:
    assert malformed_blocks(no_proxy) == malformed
