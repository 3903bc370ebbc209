"""Budgets that a gate could not keep are refused at start-up and at a reload."""

from dataclasses import replace
from pathlib import Path

import pytest

from rustygate.access import budget_checks
from rustygate.access.budget_checks import unkept_budgets
from rustygate.config import Settings
from rustygate.core.clients import Clients, hash_key, parse_clients
from rustygate.core.price_list import ModelPrice, PriceList, rate_of

SETTINGS = Settings(openai_api_key="sk-test")
PRICES = PriceList(own={"gpt-4o": ModelPrice([rate_of(input=1, cached=1, written=1, output=1)])})


def clients(*lines: str) -> Clients:
    table = ["[client.search]", f'key_sha256 = "{hash_key("rg-one")}"', *lines]
    free = ["[client.free]", f'key_sha256 = "{hash_key("rg-two")}"', 'models = ["gpt-unknown"]']
    return parse_clients("\n".join([*table, *free]))


@pytest.mark.parametrize(
    "line",
    ["tokens_per_day = 5", "tokens_per_month = 5", "usd_per_day = 0.5", "usd_per_month = 0.5"],
)
def test_budget_needs_a_place_to_keep_what_is_spent(line: str, tmp_path: Path) -> None:
    name = line.partition(" ")[0]
    assert unkept_budgets(SETTINGS, PRICES, clients(line)) == [
        f"client.search.{name}: set DATA_DIR or REDIS_URL, so that the gate can keep track of "
        "spending"
    ]
    with_directory = replace(SETTINGS, data_dir=str(tmp_path))
    with_redis = replace(SETTINGS, redis_url="redis://localhost")
    for settings in (with_directory, with_redis):
        assert unkept_budgets(settings, PRICES, clients(line)) == []


def test_directory_must_be_writable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget_checks, "data_dir_problem", lambda path: "Read-only file system")
    settings = replace(SETTINGS, data_dir="/data")
    assert unkept_budgets(settings, PRICES, clients("tokens_per_day = 5")) == [
        "client.search.tokens_per_day: expected a writable DATA_DIR (Read-only "
        "file system), so that the gate can keep track of spending"
    ]


def test_every_model_needs_a_price_for_dollars(tmp_path: Path) -> None:
    settings = replace(SETTINGS, data_dir=str(tmp_path))
    models = 'models = ["gpt-4o", "gpt-x", "gpt-y", "gpt-unknown*"]'
    found = unkept_budgets(settings, PRICES, clients("usd_per_day = 1", models))
    assert found == [
        f"client.search.usd_per_day: model '{model}' has no known price; set one in PRICES_FILE, "
        "or remove the model from `models`"
        for model in ("gpt-x", "gpt-y")
    ]
    assert unkept_budgets(settings, PRICES, clients("tokens_per_day = 1", models)) == []


def test_clients_without_budgets_need_nothing() -> None:
    assert unkept_budgets(SETTINGS, PRICES, clients('models = ["gpt-x"]')) == []
