"""What exchanges cost: known, unknown and nothing."""

from typing import Any

import pytest

from rustygate.telemetry.usage.cost import exchange_cost
from tests.telemetry.usage.samples import DAY, PRICES, exchange

TOKENS = {"tokens_in": 100, "tokens_cached": 40, "tokens_out": 10}
# 60 at 2 dollars, 40 at 1, 10 at 10 per million.
COST = 260_000


@pytest.mark.parametrize(
    ("stamps", "cost"),
    [
        (TOKENS, COST),
        (TOKENS | {"tokens_estimated": True}, COST),
        (TOKENS | {"tokens_written": 10}, COST + 30_000),
        (TOKENS | {"tokens_media": 1}, COST),
        (TOKENS | {"tokens_media": 1, "model": "speaks"}, None),
        (TOKENS | {"model": "speaks"}, COST),
        (TOKENS | {"model": "unlisted"}, None),
        (TOKENS | {"model": None}, None),
        (TOKENS | {"outcome": "client_left"}, COST),
        ({"tokens_in": 0, "tokens_out": 0}, 0),
        ({"outcome": "refused", "status": 429}, 0),
        ({"outcome": "upstream_error", "status": 500}, 0),
        ({"method": "GET", "path": "/v1/models", "model": None}, 0),
        ({"path": "/v1/files", "model": None}, 0),
        ({"path": "/v1/files", "model": None, "tokens_in": 9, "tokens_estimated": True}, 0),
        ({"path": "/v1/images/generations"}, None),
        ({"path": "/v1/images/generations", "model": None}, None),
        ({"path": "/v1/images/generations", "tokens_in": 9, "tokens_estimated": True}, None),
        ({"path": "/v1/audio/speech", "tokens_in": 9, "tokens_estimated": True}, None),
        ({"path": "/v1/images/generations", "outcome": "upstream_error", "status": 400}, 0),
        ({"path": "/v1/moderations", "model": "free"}, 0),
        (
            {"path": "/v1/moderations", "model": "free", "tokens_in": 9, "tokens_estimated": True},
            0,
        ),
        ({"path": "/v1/moderations"}, None),
        ({"path": "/v1/embeddings", "tokens_in": 100, "tokens_out": 0}, 200_000),
    ],
)
def test_cost_of_an_exchange(stamps: dict[str, Any], cost: int | None) -> None:
    settled = exchange()
    for name, value in stamps.items():
        setattr(settled, name, value)
    assert exchange_cost(PRICES, settled, DAY) == cost
