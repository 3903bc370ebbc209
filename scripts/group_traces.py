"""The group's scheduler in Redis beside the one in Python.

`compare` sends random traces through both until a reply differs. `cost` measures how much of a
Redis the script takes: members with waiting flows call as often as gates do, and there is quota
for 100 to 5,000 grants a second. Both start servers of their own.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from rustygate.core.group_load import MOST_LOAD, spacing  # noqa: E402
from rustygate.core.group_state import LEAST_LOAD  # noqa: E402
from tests.support.redis import SERVERS, RedisServer  # noqa: E402
from tests.support.sync_script import SyncScript, first_difference  # noqa: E402

_STEPS_PER_TRACE = 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", choices=sorted(SERVERS), default=next(iter(SERVERS), None))
    commands = parser.add_subparsers(dest="command", required=True)
    compare = commands.add_parser("compare", help="random traces through both")
    compare.add_argument("--steps", type=int, default=1_000_000)
    compare.add_argument("--seed", type=int, default=1000, help="of the first trace")
    cost = commands.add_parser("cost", help="microseconds of Redis")
    cost.add_argument("--calls", type=int, default=3000)
    arguments = parser.parse_args()
    with client(SERVERS[arguments.server]) as server:
        if arguments.command == "compare":
            _compare(SyncScript(server), arguments.steps, arguments.seed)
        else:
            for members, flows, rate in ((3, 10, 100), (10, 20, 1000), (10, 200, 5000)):
                print(measure(server, members, flows, rate, arguments.calls))


@contextmanager
def client(program: str) -> Iterator[redis.Redis]:
    with tempfile.TemporaryDirectory() as directory:
        server = RedisServer(Path(directory), program=program)
        try:
            # A call that is repeated after a time-out gets another reply.
            with redis.Redis(port=server.port, socket_timeout=None) as client:
                yield client
        finally:
            server.close()


def _compare(script: SyncScript, steps: int, seed: int) -> None:
    for number in range(-(-steps // _STEPS_PER_TRACE)):
        difference = first_difference(script, seed + number, _STEPS_PER_TRACE)
        if difference is not None:
            sys.exit(difference)
        if sys.stderr.isatty():
            print(f"\r{(number + 1) * _STEPS_PER_TRACE:,} steps", end="", file=sys.stderr)
    print(f"{steps:,} steps, no difference")


@dataclass(frozen=True)
class Cost:
    """What a call takes of a Redis, in microseconds.

    Attributes:
        script_us: in the script.
        cpu_us: of CPU, network included.
        grants: per call.
    """

    members: int
    flows: int
    script_us: float
    cpu_us: float
    grants: float

    def __str__(self) -> str:
        per_grant = self.cpu_us / max(1e-9, self.grants)
        return (
            f"{self.members} members x {self.flows} flows: {self.script_us:.0f} us a call in the "
            f"script; with the network {self.cpu_us:.0f} us of CPU a call, "
            f"{per_grant:.0f} us a grant ({self.grants:.1f} grants a call)"
        )


def measure(client: redis.Redis, members: int, flows: int, rate: int, calls: int) -> Cost:
    """Let members with waiting flows call in turn, with quota for this many grants a second."""
    client.flushall()
    interval = spacing(min(MOST_LOAD, max(LEAST_LOAD, members)))
    script, clock = SyncScript(client), 0
    names = [f"{number:016x}" for number in range(members)]
    sequence, news = dict.fromkeys(names, 0), {name: list[list[Any]]() for name in names}
    waiting = {(name, f"client-{name}-{flow}"): 1000 for name in names for flow in range(flows)}
    changed = {name: [each[1] for each in waiting if each[0] == name] for name in names}
    grants, before = 0, 0.0
    for number in range(members * 2 + calls):
        name = names[number % members]
        if number == 2 * members:
            client.config_resetstat()
            grants, before = 0, _cpu_us(client)
        sequence[name] += 1
        clock += interval // members
        demand = [_report(app, waiting[name, app]) for app in changed[name]]
        call = {
            "member": name, "known": int(sequence[name] > 1), "seq": sequence[name],
            "ack": sequence[name] - 1, "elapsed": interval, "float": [], "news": news[name],
            "limits": [10**9 // rate, 10, -1, -1, -1], "demand": demand,
            "slots": [0, [], []], "levels": [-1, -1],
        }  # fmt: skip
        reply = script.sync(call, clock)
        news[name], changed[name] = [], []
        for lane, _, app, tokens, *_ in reply["grants"]:
            grants += 1
            news[name] += [["answer", lane], ["settle", app, tokens, 90]]
            news[name].append(["release", app])
            # As many arrive as are granted.
            changed[name] = sorted({*changed[name], app})
    in_script = client.info("commandstats")["cmdstat_evalsha"]["usec_per_call"]
    spent = _cpu_us(client) - before
    return Cost(members, flows, in_script, spent / calls, grants / calls)


def _cpu_us(client: redis.Redis) -> float:
    """The server's CPU so far; unlike the time of its commands it does not include waiting."""
    used = client.info("cpu")
    return 1e6 * float(used["used_cpu_user"] + used["used_cpu_sys"])


def _report(client: str, count: int) -> list[Any]:
    return ["gpt", 1, client, 1, [100] * 8, count - 8, 100 * (count - 8), 0]


if __name__ == "__main__":
    main()
