"""Gates of two versions at one Redis, as during an upgrade: each has a group of its own."""

from pathlib import Path

import pytest

from rustygate.admission.group import redis_store
from rustygate.admission.group.redis_store import RedisStore, group_keys, load_script
from rustygate.config.redis_url import parse_redis_url
from tests.support.group_calls import call, demand
from tests.support.redis import NONE_INSTALLED, SERVERS, RedisServer
from tests.support.waiting import SOON_S

pytestmark = pytest.mark.skipif(not SERVERS, reason=NONE_INSTALLED)


async def test_gates_of_another_version_form_a_group_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = RedisServer(tmp_path)
    try:
        url, script = parse_redis_url(server.url), load_script()
        old = RedisStore(url, "team", script)
        keys = {*group_keys("team")}
        monkeypatch.setattr(redis_store, "VERSION", redis_store.VERSION + 1)
        new = RedisStore(url, "team", script.replace(b"rustygate group 1", b"rustygate group 2"))
        keys |= {*group_keys("team")}
        assert len(keys) == 6
        granted = {old: 0, new: 0}
        for seq in range(1, 6):
            # Both have members of the same name, and the same flow.
            for store, waiting in ((old, 20), (new, 5)):
                flows = [demand(waiting)] if seq == 1 else []
                reply = await store.sync(call("a", seq, demand=flows), SOON_S)
                assert reply["members"] == 1
                granted[store] += len(reply["grants"])
        # Twelve at once, and ten a second.
        assert 12 <= granted[old] <= 20
        assert granted[new] == 5
        assert {key.decode() for key in server.command("KEYS", "*")} <= keys
        await old.close()
        await new.close()
    finally:
        server.close()
