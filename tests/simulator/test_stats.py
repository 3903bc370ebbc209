"""The counts."""

import json

from hypothesis import given
from hypothesis import strategies as st

from rustygate.simulator.stats import NAMES, OTHERS, Stats, masked
from tests.support.simulator import CHAT, KEY, Site, unhurried


async def test_stats_count_by_key_and_by_client(site: Site) -> None:
    await site.post("/chat/completions", CHAT | {"user": "ann"})
    await site.post("/chat/completions", CHAT | {"user": "bob"}, simulate="500")
    await site.post("/embeddings", b"{")
    stats = await site.stats()
    assert stats["requests"] == 3
    assert stats["by_status"] == {"200": 1, "500": 1, "400": 1}
    assert stats["by_path"] == {"/v1/chat/completions": 2, "/v1/embeddings": 1}
    assert (stats["tokens_in"], stats["tokens_out"]) == (5, 4)
    assert list(stats["keys"]) == ["...1234"]
    assert KEY not in json.dumps(stats)
    assert stats["clients"]["ann"]["by_status"] == {"200": 1}
    assert stats["clients"]["bob"]["by_status"] == {"500": 1}


@unhurried
@given(st.text(min_size=1))
def test_no_key_is_shown_whole(key: str) -> None:
    assert len(masked(key)) - len("...") <= min(4, len(key) // 2)


def test_names_in_the_stats_are_bounded() -> None:
    stats = Stats()
    for number in range(NAMES + 5):
        stats.client(str(number)).requests += 1
    clients = stats.snapshot()["clients"]
    assert len(clients) == NAMES + 1
    assert clients[OTHERS]["requests"] == 5
