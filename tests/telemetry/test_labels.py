"""Under which client and model exchanges are counted."""

import asyncio

import pytest

from rustygate.admission.lanes import Lanes
from rustygate.errors import reasons
from rustygate.telemetry.labels import ExchangeLabels
from rustygate.telemetry.series import CLIENT_LIMIT, NONE, OTHER, UNKNOWN
from tests.telemetry.usage.samples import exchange


@pytest.fixture
async def labels() -> ExchangeLabels:
    """Labels where upstream has confirmed the model `m`."""
    lanes = Lanes(None, asyncio.get_running_loop())
    lanes.get("m").budgets.known = True
    return ExchangeLabels(lanes)


async def test_client_and_model_are_their_own_labels(labels: ExchangeLabels) -> None:
    assert labels.of(exchange("a")) == ("a", "m")
    assert labels.of(exchange("a", model="unconfirmed")) == ("a", UNKNOWN)
    assert labels.of(exchange("a", model=None)) == ("a", NONE)
    assert list(labels.models) == ["m"]


async def test_client_of_an_early_refusal_is_unknown(labels: ExchangeLabels) -> None:
    untrusted = {each for each in reasons() if labels.of(exchange("a", reason=each))[0] == UNKNOWN}
    assert untrusted == {
        *("bad_request", "invalid_api_key", "method_not_allowed"),
        *("not_found", "origin_not_allowed"),
    }


async def test_reserved_client_keeps_its_label_beyond_the_limit(labels: ExchangeLabels) -> None:
    for number in range(CLIENT_LIMIT):
        assert labels.client(f"c{number}") == f"c{number}"
    labels.reserve_clients(["search", "c1", OTHER])
    assert labels.client("search") == "search"
    assert labels.client("c1") == "c1"
    assert labels.client("another") == OTHER
    assert labels.client(OTHER) == OTHER
