"""A gate whose upstream is its own address is refused."""

from dataclasses import replace

import pytest

from rustygate.config import load, load_configuration
from tests.config.problems import KEY, problems


def environ(base_url: str, bind: str, port: str = "8080") -> dict[str, str]:
    return KEY | {"OPENAI_BASE_URL": base_url, "BIND_ADDRESS": bind, "PORT": port}


@pytest.mark.parametrize(
    ("base_url", "bind"),
    [
        ("http://127.0.0.1:8080/v1", "127.0.0.1"),
        ("http://localhost:8080", "127.0.0.1"),
        ("http://LOCALHOST:8080/v1", "127.0.0.1"),
        ("http://gate.localhost:8080/v1", "127.0.0.1"),
        ("http://[::1]:8080/v1", "127.0.0.1"),
        ("http://0.0.0.0:8080/v1", "127.0.0.1"),
        ("http://[::]:8080/v1", "::1"),
        ("http://[::ffff:127.0.0.1]:8080/v1", "127.0.0.1"),
        ("https://localhost:8080/v1", "localhost"),
        ("http://127.0.0.1:8080/v1", "0.0.0.0"),
        ("http://127.0.0.2:8080/v1", "0.0.0.0"),
        ("http://0.0.0.0:8080/v1", "0.0.0.0"),
        ("http://localhost:8080/v1", "::"),
        ("http://10.0.0.5:8080/v1", "10.0.0.5"),
        ("http://gate.example.org:8080/v1", "Gate.example.org"),
        ("http://0x7f000001:8080/v1", "127.0.0.1"),
        ("http://ip6-localhost:8080/v1", "::1"),
        ("http://localhost.localdomain:8080/v1", "127.0.0.1"),
    ],
)
def test_own_address_as_upstream_is_rejected(base_url: str, bind: str) -> None:
    assert problems(environ(base_url, bind)) == [
        f"OPENAI_BASE_URL={base_url}: expected another address than the gate's own "
        f"(BIND_ADDRESS={bind}, PORT=8080)"
    ]


def test_default_port_of_the_scheme_counts() -> None:
    assert len(problems(environ("http://localhost/v1", "0.0.0.0", "80"))) == 1
    assert len(problems(environ("https://localhost/v1", "0.0.0.0", "443"))) == 1
    load(environ("https://localhost/v1", "0.0.0.0", "80"))


@pytest.mark.parametrize(
    ("base_url", "bind"),
    [
        ("http://127.0.0.1:8081/v1", "127.0.0.1"),
        ("http://localhost:8080/v1", "10.0.0.5"),
        ("http://10.0.0.5:8080/v1", "127.0.0.1"),
        ("http://10.0.0.5:8080/v1", "0.0.0.0"),
        ("http://127.0.0.2:8080/v1", "127.0.0.1"),
        ("http://gate.example.org:8080/v1", "0.0.0.0"),
        ("http://localhost:8080/v1", "unix:/run/gate.sock"),
    ],
)
def test_other_address_is_accepted(base_url: str, bind: str) -> None:
    assert load(environ(base_url, bind)).openai_base_url == base_url


def test_inherited_address_is_checked_instead_of_the_configured_one() -> None:
    given = environ("http://localhost:8080/v1", "127.0.0.1")
    loaded = load_configuration(given, listens_elsewhere=True)
    on_socket = replace(loaded, settings=replace(loaded.settings, bind_address="unix:/run/gate"))
    on_socket.check_address()
    assert len(problems(given)) == 1


@pytest.mark.parametrize(
    ("variable", "proxy", "shown", "scheme"),
    [
        ("HTTP_PROXY", "http://127.0.0.1:8080", "http://127.0.0.1:8080", "http"),
        ("http_proxy", "localhost:8080", "http://localhost:8080", "http"),
        ("HTTPS_PROXY", "http://u:pw@[::1]:8080/", "http://********@[::1]:8080/", "https"),
    ],
)
def test_own_address_as_proxy_is_rejected(
    variable: str, proxy: str, shown: str, scheme: str
) -> None:
    given = environ(f"{scheme}://api.example.org/v1", "127.0.0.1") | {variable: proxy}
    assert problems(given) == [
        f"{variable.upper()}={shown}: expected another address than the gate's own "
        "(BIND_ADDRESS=127.0.0.1, PORT=8080)"
    ]


@pytest.mark.parametrize(
    "others",
    [
        {"HTTP_PROXY": "http://127.0.0.1:3128"},
        {"HTTP_PROXY": "http://10.0.0.5:8080"},
        {"HTTPS_PROXY": "http://127.0.0.1:8080"},
        {"HTTP_PROXY": "http://127.0.0.1:8080", "NO_PROXY": "api.example.org"},
    ],
)
def test_other_or_unused_proxy_is_accepted(others: dict[str, str]) -> None:
    load(environ("http://api.example.org/v1", "127.0.0.1") | others)
