"""The group's scheduler in Redis beside the one in Python."""

import json
from hashlib import sha1
from typing import Any

import redis

from rustygate.admission.group.redis_store import group_keys, load_script
from rustygate.core.group_scheduler import GroupScheduler
from tests.support.group_traces import Call, Trace

# The number of calls that are sent at once.
_BATCH = 100


class SyncScript:
    """The script on a server, with the state of one group."""

    def __init__(
        self, client: redis.Redis, script: bytes | None = None, group: str = "rustygate"
    ) -> None:
        self.script = load_script() if script is None else script
        self.keys = group_keys(group)
        self._client = client
        self._client.script_load(self.script)
        self._digest = sha1(self.script).hexdigest()

    def sync(self, call: Call, clock: int | None = None) -> dict[str, Any]:
        """One call. Without a clock it is the server's."""
        return self.sync_all([(call, clock)])[0]

    def sync_all(self, calls: list[tuple[Call, int | None]]) -> list[dict[str, Any]]:
        pipeline = self._client.pipeline(transaction=False)
        for call, clock in calls:
            arguments = json.dumps(call), "" if clock is None else str(clock)
            pipeline.evalsha(self._digest, len(self.keys), *self.keys, *arguments)
        return [json.loads(reply) for reply in pipeline.execute()]

    def forget(self) -> None:
        self._client.delete(*self.keys)


def first_difference(script: SyncScript, seed: int, steps: int) -> str | None:
    """Where the script and the scheduler reply differently to a random trace; None if nowhere."""
    script.forget()
    trace, scheduler = Trace(seed), GroupScheduler()
    calls: list[tuple[Call, int | None]] = []
    expected: list[dict[str, Any]] = []
    for call, clock, member in trace.calls(steps):
        sent = json.loads(json.dumps(call))
        calls.append((sent, clock))
        reply = json.loads(json.dumps(scheduler.sync(sent, clock)))
        expected.append(reply)
        trace.take(member, call, reply)
        if len(calls) == _BATCH:
            difference = _compare(script, seed, calls, expected)
            if difference is not None:
                return difference
            calls, expected = [], []
    return _compare(script, seed, calls, expected)


def _compare(
    script: SyncScript,
    seed: int,
    calls: list[tuple[Call, int | None]],
    expected: list[dict[str, Any]],
) -> str | None:
    replies = script.sync_all(calls)
    for (call, clock), reply, right in zip(calls, replies, expected, strict=True):
        if reply != right:
            return (
                f"seed {seed}, at {clock} ns: {'; '.join(differing_parts(right, reply))}\n"
                f"the call: {json.dumps(call)[:2000]}"
            )
    return None


def differing_parts(right: Any, other: Any, path: str = "reply") -> list[str]:
    """The parts of two JSON values that differ."""
    if isinstance(right, dict) and isinstance(other, dict):
        names = [(f"{path}.{name}", name) for name in right | other]
        parts = [differing_parts(right.get(key), other.get(key), name) for name, key in names]
    elif isinstance(right, list) and isinstance(other, list) and len(right) == len(other):
        pairs = enumerate(zip(right, other, strict=True))
        parts = [differing_parts(*pair, f"{path}[{at}]") for at, pair in pairs]
    else:
        return [] if right == other else [f"{path} is {other!r} instead of {right!r}"]
    return [part for several in parts for part in several]
