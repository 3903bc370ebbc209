"""Stats by key and by client."""

import json

from hypothesis import given
from hypothesis import strategies as st

from rustygate.simulator.stats import MAX_NAMES, OTHERS, Stats, mask_key
from tests.support.simulator import CHAT_BODY, KEY, Simulator


async def test_stats_count_by_key_and_client(simulator: Simulator) -> None:
    await simulator.post("/chat/completions", CHAT_BODY | {"user": "ann"})
    await simulator.post("/chat/completions", CHAT_BODY | {"user": "bob"}, simulate="500")
    await simulator.post("/embeddings", b"{")
    stats = await simulator.stats()
    assert stats["requests"] == 3
    assert stats["by_status"] == {"200": 1, "500": 1, "400": 1}
    assert stats["by_path"] == {"/v1/chat/completions": 2, "/v1/embeddings": 1}
    assert (stats["tokens_in"], stats["tokens_out"]) == (5, 4)
    assert list(stats["keys"]) == ["...1234"]
    assert KEY not in json.dumps(stats)
    assert stats["clients"]["ann"]["by_status"] == {"200": 1}
    assert stats["clients"]["bob"]["by_status"] == {"500": 1}


@given(st.text(min_size=1))
def test_masked_key_shows_at_most_half_the_key(key: str) -> None:
    assert len(mask_key(key)) - len("...") <= min(4, len(key) // 2)


def test_number_of_names_in_stats_is_bounded() -> None:
    stats = Stats()
    for number in range(MAX_NAMES + 5):
        stats.client(str(number)).requests += 1
    clients = stats.snapshot()["clients"]
    assert len(clients) == MAX_NAMES + 1
    assert clients[OTHERS]["requests"] == 5
