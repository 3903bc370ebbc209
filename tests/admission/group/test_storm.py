"""Random requests, responses, cancellations and faults, in a group of gates: at the end nothing is
lost, and requests have failed only for reasons that a single gate has, too."""

import asyncio
from random import Random

import pytest

from rustygate.admission.admission import Admission
from rustygate.admission.group.local_store import Fault
from rustygate.core.bucket import SECOND
from rustygate.core.clients import Limits
from rustygate.core.rate_limit_headers import Quota, RateLimitUpdate
from rustygate.errors import Draining
from tests.support.group import GroupHarness, run_group

CLIENTS, MODELS = "abcd", ("m", "n", None)


class Storm:
    def __init__(self, harness: GroupHarness, seed: int) -> None:
        self.harness, self.random = harness, Random(seed)
        self.tasks: list[asyncio.Task[object]] = []
        self.closed: set[int] = set()
        self.actions = [*[self.arrive] * 12, *[self.cancel] * 3, self.fail, self.change_limits]

    def respond(self, admission: Admission) -> None:
        random = self.random
        outcome = random.randrange(10)
        if outcome == 0:
            admission.give_back()
            return
        quota = Quota(random.choice([600, 6000]), random.randrange(600))
        update = random.choice([None, RateLimitUpdate(quota, None), RateLimitUpdate(None, quota)])
        if outcome == 1:
            admission.record_response(False, update, refused=True)
            admission.pause(SECOND // 4, slow=random.random() < 0.02)
        else:
            admission.record_response(outcome > 2, update)
            admission.settle(random.randrange(30))

    def arrive(self) -> None:
        random = self.random
        gate = random.choice([n for n in range(len(self.harness.gates)) if n not in self.closed])
        for _ in range(random.choice([1, 1, 5])):
            task = self.harness.spawn(
                random.choice(CLIENTS),
                gate,
                hold_s=random.choice([0, 0.01, 0.3]),
                model=random.choice(MODELS),
                tokens=random.randrange(20),
                priority=random.choice(["interactive", "default", "batch"]),
            )
            self.tasks.append(task)

    def cancel(self) -> None:
        if self.tasks:
            self.tasks[self.random.randrange(len(self.tasks))].cancel()

    def fail(self) -> None:
        if self.random.random() < 0.3:
            self.harness.group.lose_state()
            return
        faults = [None, None, None, *Fault]
        self.random.choice(self.harness.stores).fault = self.random.choice(faults)

    def change_limits(self) -> None:
        limits = {
            name: Limits(self.random.choice([None, 20.0]), 3, None, self.random.choice([None, 2]))
            for name in CLIENTS
        }
        weights = {name: self.random.choice([1.0, 2.0]) for name in CLIENTS}
        version = int(self.harness.now * 1e6) + 1
        for gate in self.harness.gates:
            gate.limit_clients(limits, weights, version)

    async def rage(self, steps: int) -> None:
        self.harness.on_response = self.respond
        for step in range(steps):
            self.random.choice(self.actions)()
            await asyncio.sleep(self.random.choice([0, 0.001, 0.02, 0.1]))
            if step == steps // 2:
                self.closed.add(1)
                self.harness.gates[1].close()
                await self.harness.gates[1].leave_group()
                self.harness.add_gate()

    async def calm(self) -> None:
        for store in self.harness.stores:
            store.fault = None
        self.harness.on_response = self.confirm
        # Limits and pauses that were learned meanwhile delay waiters, but not forever.
        await asyncio.sleep(400)

    def confirm(self, admission: Admission) -> None:
        """Upstream has plenty left. A lane may have learned from the storm's levels that others
        take most of its quota, and only another report shows that they no longer do."""
        quota = Quota(600, 599)
        admission.record_response(True, RateLimitUpdate(quota, quota))


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_lost_in_a_storm(seed: int) -> None:
    async def scenario(harness: GroupHarness) -> None:
        storm = Storm(harness, seed)
        await storm.rage(600)
        await storm.calm()
        harness.assert_conserved()
        for client in harness.group.scheduler.clients.values():
            assert client.budgets.in_flight == 0
        assert [state for n, state in enumerate(harness.states()) if n != 1] == ["together"] * 3

    harness = run_group(
        scenario,
        rate_limit=60,
        rate_limit_burst=10,
        tokens_per_minute=60_000,
        concurrency_limit=9,
    )
    assert {type(error) for error in harness.errors} <= {Draining}
    assert harness.total() >= 300
    assert len(harness.group.scheduler.members) == 3
