"""The table of clients: how it is parsed, and how its problems are reported."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.clients import (
    Client,
    ClientsError,
    Limits,
    compare_clients,
    hash_key,
    parse_clients,
)

HASH = hash_key("rg-one")
OTHER = hash_key("rg-other")
WHOLE = f"""
[client.search]
key_sha256 = "{HASH}"
weight = 2
priority = "interactive"
requests_per_second = 5.0
burst = 10
tokens_per_minute = 50000
concurrency = 8
models = ["gpt-4o*", "o1"]

[client."nightly.job"]
key_sha256 = "{OTHER.upper()}"
"""


def entry(*lines: str, name: str = "a", key: str = HASH) -> str:
    return "\n".join([f"[client.{name}]", f'key_sha256 = "{key}"', *lines, ""])


def problems(text: str) -> list[str]:
    with pytest.raises(ClientsError) as caught:
        parse_clients(text)
    return caught.value.problems


def test_parses_all_settings_of_a_client() -> None:
    clients = parse_clients(WHOLE)
    assert clients.by_name == {
        "search": Client(
            "search",
            HASH,
            2.0,
            "interactive",
            ("gpt-4o*", "o1"),
            Limits(5.0, 10, 50_000, 8),
        ),
        "nightly.job": Client("nightly.job", OTHER),
    }


def test_finds_a_client_by_its_exact_key() -> None:
    clients = parse_clients(WHOLE)
    assert clients.find_by_key("rg-one") is clients.by_name["search"]
    assert clients.find_by_key("rg-other") is clients.by_name["nightly.job"]
    for wrong in ("rg-One", "rg-one ", "", HASH, "\udcff"):
        assert clients.find_by_key(wrong) is None


def test_repr_shows_no_hash() -> None:
    clients = parse_clients(WHOLE)
    assert HASH not in repr(clients) + repr(clients.by_name)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("weight = 0", "client.a.weight=0: expected a number from 0.001 to 1000"),
        ("weight = 1e-300", "client.a.weight=1e-300"),
        ("weight = 1001", "client.a.weight=1001"),
        ("weight = -1", "client.a.weight=-1"),
        ("weight = true", "client.a.weight=True"),
        ("weight = nan", "client.a.weight=nan"),
        ("weight = inf", "client.a.weight=inf"),
        (f"weight = 1{'0' * 400}", "client.a.weight=1000"),
        ('weight = "2"', "client.a.weight='2'"),
        ('priority = "urgent"', "expected one of interactive, default, batch"),
        ("requests_per_second = 0.0", "client.a.requests_per_second=0.0"),
        ("burst = 3", "client.a.burst: expected only together with requests_per_second"),
        ("requests_per_second = 1\nburst = 1.5", "client.a.burst=1.5: expected a whole number"),
        (f"tokens_per_minute = 0x{'f' * 5000}", "client.a.tokens_per_minute=(too long to show)"),
        ("tokens_per_minute = 0", "client.a.tokens_per_minute=0"),
        ("concurrency = 1e3", "client.a.concurrency=1000.0"),
        ("models = []", "client.a.models=[]: expected a list of shell patterns"),
        ('models = "gpt-4o"', "client.a.models='gpt-4o'"),
        ("models = [1]", "client.a.models=[1]"),
        ('"a\\nb" = 5', r"client.a.'a\nb': unknown key; expected one of key_sha256, weight"),
        ("rate = 5", "client.a.rate: unknown key; expected one of key_sha256, weight"),
    ],
)
def test_problem_names_the_value_and_what_is_expected(line: str, expected: str) -> None:
    [problem] = problems(entry(line))
    assert expected in problem
    assert problem.isprintable()


@pytest.mark.parametrize("key", ["", "abc", HASH[:-1], HASH + "0", "g" * 64, "rg-a-key-itself"])
def test_invalid_hash_is_rejected_and_not_shown(key: str) -> None:
    """It may be the key itself, entered by mistake."""
    [problem] = problems(entry(key=key))
    assert problem.startswith("client.a.key_sha256: expected 64 hex digits")
    assert not key or key not in problem


@pytest.mark.parametrize("name", ['""', '"a b"', r'"a\nb"', '"ä"', '"-a"', '"' + "a" * 65 + '"'])
def test_name_that_cannot_be_a_label_is_rejected(name: str) -> None:
    [problem] = problems(entry(name=name))
    assert "expected a name of at most 64 letters" in problem
    assert problem.isprintable()


def test_all_problems_are_reported_at_once() -> None:
    text = entry("weight = -1", "unknown = 1") + entry(name="b") + "[client.c]\n[other]\nx = 1\n"
    found = problems(text + entry(name="d"))
    assert len(found) == 5
    assert "client.c.key_sha256: not set" in found[3]
    assert found[4].endswith("client.d.key_sha256: the same key as client.b") or "b" in found[4]


@pytest.mark.parametrize(
    "text",
    ["[client.a", "key = rg-secret-value", "client = 1", "[client]\na = 1", "[[client]]\n", "\0"],
)
def test_text_without_client_tables_is_rejected(text: str) -> None:
    found = problems(text)
    assert found
    assert "rg-secret" not in "".join(found)


def test_empty_table_has_no_clients() -> None:
    assert parse_clients("").find_by_key("rg-one") is None


@given(st.text(max_size=200))
def test_parser_survives_any_text(text: str) -> None:
    with suppress(ClientsError):
        parse_clients(text)


@pytest.mark.parametrize(
    ("best", "requested", "capped"),
    [
        ("default", "interactive", "default"),
        ("default", "default", "default"),
        ("default", "batch", "batch"),
        ("interactive", "interactive", "interactive"),
        ("batch", "default", "batch"),
    ],
)
def test_priority_is_capped_at_the_best_class_of_a_client(
    best: str, requested: str, capped: str
) -> None:
    assert Client("a", HASH, priority=best).cap_priority(requested) == capped


@pytest.mark.parametrize(
    ("patterns", "model", "allowed"),
    [
        ((), "anything", True),
        (("gpt-4o*",), "gpt-4o-mini", True),
        (("gpt-4o*",), "gpt-4", False),
        (("o?", "gpt-4o"), "o1", True),
        (("gpt-4o",), "GPT-4o", False),
    ],
)
def test_models_are_shell_patterns(patterns: tuple[str, ...], model: str, allowed: bool) -> None:
    assert Client("a", HASH, models=patterns).may_use(model) is allowed


def test_burst_defaults_to_one_second_of_requests() -> None:
    requests = Limits(requests_per_second=2.5).budgets().requests
    assert requests is not None
    assert requests.burst == 3


def test_changes_are_counted_by_name() -> None:
    one, two, three = (Client(name, "0" * 64) for name in ("one", "two", "three"))
    before = {"one": one, "two": two}
    after = {"two": Client("two", "0" * 64, weight=2.0), "three": three, "four": three}
    assert compare_clients(before, after) == (2, 1, 1)
    assert compare_clients(before, before) == (0, 0, 0)
    assert compare_clients({"one": one}, {"one": Client("one", "1" * 64)}) == (0, 1, 0)
