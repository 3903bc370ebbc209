"""The dispatcher of a gate in a group: its waiters are admitted by the group's grants.

Waiters are in flows, as at a single gate. While the group's store answers, what waits is reported
(`demand`), and grants are handed to the first waiters of their flows at their instants. While
nothing waits anywhere, requests are admitted from the float, without a round trip. The budgets
here then hold what was last heard of the group's. They admit nothing; waits are predicted from
them.

While the store does not answer, the gate is *local*: it admits from its own budgets, which are
then its share of the group's, as a single gate does.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rustygate.admission.dispatcher import TIMER_SLACK, Dispatcher, own_budgets
from rustygate.admission.group.clients import full_budgets, limits_of
from rustygate.admission.group.demand import Demand
from rustygate.admission.group.floats import Floats, Held
from rustygate.admission.group.grants import PendingGrant, PendingGrants
from rustygate.admission.group.late_newcomers import LateNewcomers
from rustygate.admission.group.news import News
from rustygate.admission.group.pacing import Urgency
from rustygate.admission.group.predictions import Predictions
from rustygate.admission.group.shares import changed, part_of
from rustygate.admission.group.urgencies import Urgencies
from rustygate.admission.lanes import MAX_LANES, Lanes
from rustygate.admission.waiter import ClientQueue, LaneQueue, Waiter
from rustygate.config import Settings
from rustygate.core.bucket import TokenBucket
from rustygate.core.budgets import Budgets
from rustygate.core.clients import Limits
from rustygate.core.group_budgets import PACE_LEASE
from rustygate.core.group_call import SIZES_REPORTED
from rustygate.core.group_demand import FlowKey
from rustygate.core.group_scheduler import BOX_LEASE
from rustygate.core.lane import AdmissionTotals
from rustygate.core.predicted_wait import Prediction
from rustygate.core.rate_limit_headers import RateLimitUpdate
from rustygate.core.scheduler import Grant, Scheduler
from rustygate.core.scopes import ClientScope, LaneScope
from rustygate.core.upcoming import Upcoming
from rustygate.core.work import Work

# A member may use what the group gave it for the lease after its last call. This is a little less,
# because clocks do not run alike.
_VALID = BOX_LEASE * 8 // 10

# A pace is reported again when it has changed by this factor.
_SIGNIFICANT = 1.05

_NO_LIMITS = Limits()

# Stands for the version of clients' limits that is in force now.
PRESENT = -1


class LocalScheduler(Scheduler[Waiter]):
    """The scheduler of a gate that may be local.

    Args:
        on_charged: called with each waiter that is admitted from the local budgets.
    """

    def __init__(self, budgets: Budgets, on_charged: Callable[[Waiter], None]) -> None:
        super().__init__(budgets, slack=TIMER_SLACK)
        self._on_charged = on_charged

    def charge(
        self,
        item: Waiter,
        lane: LaneScope[Waiter],
        client: ClientScope[Waiter] | None,
        now: int,
        tokens: int,
    ) -> None:
        super().charge(item, lane, client, now, tokens)
        self._on_charged(item)


class GroupDispatcher(Dispatcher):
    """Admits waiters as the group grants, or by itself while it is `local`.

    Attributes:
        urge: called when there is something to report to the group.
    """

    def __init__(
        self,
        settings: Settings,
        lanes: Lanes,
        clients: Mapping[str, ClientQueue],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(settings, loop)
        self.scheduler = LocalScheduler(self.budgets, self._on_charged)
        self.local = False
        self.urge: Callable[[Urgency], None] = lambda urgency: None
        self._limits = limits_of(own_budgets(settings))
        # Those of the group, as of the last reply: the strictest of all members.
        self._in_force = self._limits
        self.urgencies = Urgencies(own_slots=settings.concurrency_limit is not None)
        self.demand, self.news = Demand(), News()
        self.floats, self.grants = Floats(), PendingGrants()
        self._predictions = Predictions()
        self._late_newcomers = LateNewcomers(self._too_long_wait, self._refuse_late, loop)
        self._reported: list[FlowKey] = []
        self._settings = settings
        self._lanes, self._clients = lanes, clients
        self._valid_until = self._together_since = self._heard_at = 0
        # The pace that was last reported of a lane, and when.
        self._paces: dict[str, tuple[int, int]] = {}

    # Admission.

    def admit_at_once(self, newcomer: Waiter, now: int) -> bool:
        if self.local:
            return super().admit_at_once(newcomer, now)
        held = self.floats.note(newcomer.lane.name, newcomer.tokens, now)
        if not self._may_use_float(newcomer, held, now):
            return False
        totals = self.floats.take(held, newcomer.tokens, now)
        self._admit(newcomer, totals)
        self.news.add("float_used", newcomer.lane.name, newcomer.exchange.client, newcomer.tokens)
        if held.count:
            self.urge(Urgency.SPACED if held.is_low else self.urgencies.quiet)
        else:
            self.urge(Urgency.AT_ONCE)
        return True

    def _may_use_float(self, newcomer: Waiter, held: Held, now: int) -> bool:
        if not held.count or self.closed or self.urgencies.group_waiting or self.scheduler.waiting:
            return False
        if newcomer.turn_queue is not None and newcomer.turn_queue.line:
            return False
        # Only the group knows how much the budgets of a client have left.
        client = newcomer.client
        if client is not None and client.limits != _NO_LIMITS:
            return False
        lane = newcomer.lane.budgets
        if newcomer.tokens > held.tokens and (self.budgets.tokens or lane.tokens):
            return False
        # A response may have shown since that the lane has nothing left.
        return now <= self._valid_until and lane.wait(now, newcomer.tokens) == 0

    def _admit(self, waiter: Waiter, totals: AdmissionTotals, version: int = PRESENT) -> None:
        """Note what the group has charged for a waiter."""
        waiter.lane_totals, waiter.version = totals, version
        waiter.lane.budgets.record_grant(totals, waiter.tokens)
        if waiter.client is not None:
            waiter.client.take(waiter, self.now(), waiter.tokens)
        self.budgets.in_flight += 1

    def _on_charged(self, waiter: Waiter) -> None:
        """A waiter was admitted from the local budgets, or a turn without admission."""
        waiter.version = PRESENT
        if self.news.recording:
            self.tell("charge", waiter.lane.name, waiter.exchange.client, waiter.tokens)
            if waiter.flow is not None:
                self.demand.change(_key(waiter))

    def cancel(self, waiter: Waiter) -> None:
        if self.local:
            super().cancel(waiter)
        elif not waiter.granted:
            self._remove(waiter)

    def close(self) -> None:
        super().close()
        self._give_back_grants()
        self.demand.change_all()
        self.urge(Urgency.AT_ONCE)

    def _push(self, newcomer: Waiter) -> None:
        newcomer.since = self.now()
        super()._push(newcomer)
        if self.news.recording and newcomer.flow is not None and newcomer.flow.count:
            self.demand.add(newcomer.flow)
            granted = self.grants.by_flow[_key(newcomer)]
            self.urge(self.urgencies.of_newcomer(is_first=newcomer.flow.count <= granted + 1))

    def _remove(self, waiter: Waiter) -> None:
        super()._remove(waiter)
        if self.news.recording and waiter.flow is not None:
            self.demand.change(_key(waiter))
            self.urge(Urgency.SPACED)

    def _undo(self, grant: Grant[Waiter]) -> None:
        super()._undo(grant)
        waiter = grant.item
        client = waiter.exchange.client
        self.tell("give_back", waiter.lane.name, client, grant.tokens)
        self.tell("answer", waiter.lane.name)
        self.tell("release", client)

    def predict(self, waiter: Waiter) -> Prediction:
        in_group = self._predictions.predict(waiter.lane.name, waiter.newcomer, self.now())
        return max(super().predict(waiter), in_group)

    def forecasts(self, lanes: Sequence[tuple[LaneQueue, int]]) -> list[list[int]]:
        here = super().forecasts(lanes)
        in_group = self._predictions.forecasts(lanes, self.now())
        return [list(map(max, *pair)) for pair in zip(here, in_group, strict=True)]

    def expect(self, found: list[Upcoming[Waiter]]) -> list[Upcoming[Waiter]]:
        """In a group, waiters of other members are admitted in between."""
        return found if self.local else self._predictions.expect(found, self.now())

    def _longest_wait(self, newcomer: Waiter, now: int) -> int:
        here = Work(0, self.scheduler.waiting, self.scheduler.waiting_tokens)
        in_group = self._predictions.longest_wait(newcomer, self.budgets, here, now)
        return max(super()._longest_wait(newcomer, now), in_group)

    def _too_long_wait(self, waiter: Waiter, before: Work) -> Prediction | None:
        """The wait of a waiter with this work before it in its flow here, if it is too long."""
        now = self.now()
        left = waiter.exchange.deadline - now
        if self.local or waiter.is_retry or self._longest_wait(waiter, now) <= left:
            return None
        predicted = self._predictions.predict(waiter.lane.name, waiter.newcomer, now, before)
        return predicted if predicted.wait > left else None

    @property
    def _waiting_elsewhere(self) -> int:
        return 0 if self.local else max(0, self.urgencies.group_waiting - self.scheduler.waiting)

    # Grants.

    def _dispatch(self) -> None:
        if self.local:
            super()._dispatch()
            return
        now = self.now()
        while (at := self.grants.next_at) is not None and at <= now:
            if now > self._valid_until:
                # The process was stopped, and the group has given them to others.
                self.grants.clear()
                break
            self._hand_out(self.grants.pop(), now)
        self._set_timer(float("inf") if at is None else at)

    def _hand_out(self, grant: PendingGrant, now: int) -> None:
        """Give a grant to the first waiter of its flow; back to the group if there is none."""
        while (first := self.demand.first(grant.key)) is not None:
            flow, waiter = first
            if waiter.lane.budgets.paused_until > now:
                self.demand.change(grant.key)
                break
            self.scheduler.remove(flow, waiter)
            if waiter.decided:
                continue
            if waiter.tokens != grant.tokens:
                client = waiter.exchange.client
                self.tell("settle", client, grant.tokens, waiter.tokens, grant.version)
            self._admit(waiter, grant.totals, grant.version)
            waiter.grant()
            self.demand.on_left(grant.key, flow)
            if flow.count >= SIZES_REPORTED:
                # The group knows the sizes of the first ones only.
                self.demand.change(grant.key)
            return
        self._give_back(grant)

    def _give_back(self, grant: PendingGrant) -> None:
        lane, _, client = grant.key
        self.tell("give_back", lane, client, grant.tokens, grant.version)
        self.tell("answer", lane)
        self.tell("release", client)
        self.tell("refund", *grant.key, grant.tokens)

    def _give_back_grants(self) -> None:
        while self.grants:
            self._give_back(self.grants.pop())

    # What is reported to the group.

    def report(self, now: int) -> list[list[Any]]:
        """What waits here and has changed, for a call."""
        flows = self.demand.report(self.grants.by_flow, now)
        self._reported = [(lane, index, client) for lane, index, client, *_ in flows]
        return flows

    def tell(self, *event: Any) -> None:
        """Record an event for the group."""
        if self.news.recording:
            self.news.add(*event)
            waiting = self.scheduler.waiting > 0
            self.urge(self.urgencies.of_event(event[0], waiting=waiting))

    def has_mark(self, waiter: Waiter) -> bool:
        """Whether the totals that a waiter has kept are among those of its lane now."""
        return waiter.lane_totals.at >= self._together_since

    def tell_quotas(self, waiter: Waiter, update: RateLimitUpdate) -> None:
        """Report the levels in a response, as of the mark of its request."""
        if self.local or (update.requests is None and update.tokens is None):
            return
        lane, admitted, now = waiter.lane.budgets, waiter.lane_totals, self.now()
        later = lane.totals.requests - admitted.requests, lane.totals.tokens - admitted.tokens
        quotas = (
            (update.requests, lane.requests, lane.request_quota),
            (update.tokens, lane.tokens, lane.token_quota),
        )
        for kind, (quota, bucket, learned) in enumerate(quotas):
            if quota is None or bucket is None:
                continue
            if quota.remaining is None:
                self.tell("teach", waiter.lane.name, *_quota_of(kind, bucket, now))
            elif (left := learned.take_left()) is not None:
                self.news.learn(
                    waiter.lane.name,
                    kind,
                    limit=bucket.burst,
                    level=left + later[kind],
                    mark=admitted[1 + kind],
                    period=bucket.period,
                    admitted_at=admitted.at,
                )
        self.urge(self.urgencies.of_event("learn", waiting=self.scheduler.waiting > 0))

    def tell_pace(self, lane: LaneQueue) -> None:
        """Report the pace of a lane if it has changed, or would end in the group."""
        if lane.budgets.pace is None and lane.name not in self._paces:
            return
        now = self.now()
        period = lane.budgets.pace_period(now)
        before, at = self._paces.get(lane.name, (0, now))
        changed = not before <= period * _SIGNIFICANT <= before * _SIGNIFICANT**2
        if changed or (period and now - at > PACE_LEASE // 3):
            self.tell("pace", lane.name, period)
            self._paces[lane.name] = period, now
        if not period:
            self._paces.pop(lane.name, None)

    def refresh_paces(self) -> None:
        """Report the paces of lanes without responses, too."""
        for name in list(self._paces):
            lane = self._lanes.find(name)
            if lane is None:
                del self._paces[name]
            else:
                self.tell_pace(lane)

    # The group's state.

    @property
    def limits(self) -> list[int]:
        """The gate's own limits, as `GroupScheduler.sync` wants them."""
        probes = self._lanes.probes
        return [*self._limits, -1 if probes is None else probes]

    def register(self, now: int) -> dict[str, Any]:
        """What a member says when it registers: what it holds and knows. From now on it records
        what happens."""
        self.floats.drop()
        self.grants.clear()
        self.news.restart()
        self.demand.restart(self.scheduler)
        self._paces.clear()
        lanes, clients = [], {}
        for lane in self._lanes:
            if lane.budgets.in_flight:
                lanes.append([lane.name, lane.budgets.in_flight])
            if lane.budgets.known:
                self._teach(lane, now)
        for name, client in self._clients.items():
            if client.budgets.in_flight:
                clients[name] = client.budgets.in_flight
        # While alone, this gate does not know what others admitted, so it reports 0. Otherwise it
        # reports the level at the last reply, because others may have used what refilled since.
        at = self._heard_at if now - self._heard_at < BOX_LEASE else now
        levels = [
            -1 if bucket is None else 0 if self.local else max(0, bucket.level(at))
            for bucket in (self.budgets.requests, self.budgets.tokens)
        ]
        slots = [self.budgets.in_flight, lanes, [list(each) for each in clients.items()]]
        return {"slots": slots, "levels": levels}

    def _teach(self, lane: LaneQueue, now: int) -> None:
        self.news.add("known", lane.name)
        for kind, bucket in enumerate((lane.budgets.requests, lane.budgets.tokens)):
            if bucket is not None:
                self.news.add("teach", lane.name, *_quota_of(kind, bucket, now))
        if lane.budgets.paused_until > now:
            self.news.add("pause", lane.name, lane.budgets.paused_until - now)
        self.tell_pace(lane)

    def join(self, now: int) -> None:
        """The group has answered: from now on, its grants admit."""
        self.local = False
        self._set_timer(float("inf"))
        self._use(own_budgets(self._settings), now)
        for lane in self._lanes:
            lane.budgets.restart_totals()
        self._together_since = now

    def on_refusal(self, now: int) -> None:
        # Other gates send requests too, so delaying the refill here would not help.
        pass

    def go_alone(self, share: float, now: int) -> None:
        """Continue with a share of the limits, and of what was left of them."""
        self.local = True
        self._predictions.forget()
        self.news.stop()
        self.grants.clear()
        self.floats.drop()
        self._use(part_of(full_budgets(self._in_force), share), now, share)
        for lane in self._lanes:
            for bucket in (lane.budgets.requests, lane.budgets.tokens):
                if bucket is not None and share < 1:
                    bucket.fill_to(now, int(bucket.level(now) * share))
        self.scheduler.touch(*self._lanes, *self._clients.values())
        self._dispatch()

    def _use(self, limits: Budgets, now: int, share: float = 1.0) -> None:
        """Use other limits, and a share of the present levels; 0 where there was no limit."""
        own = self.budgets
        own.slots = limits.slots
        own.requests = changed(own.requests, limits.requests, now, share)
        own.tokens = changed(own.tokens, limits.tokens, now, share)

    def receive(self, reply: dict[str, Any], sent: int, now: int) -> None:
        """Adopt a reply to a call.

        Args:
            sent: when the call was made.
        """
        self._valid_until, self._heard_at = sent + _VALID, now
        self._in_force = reply["limits"]
        self._predictions.receive(reply, self._reported, now)
        self.urgencies.receive(reply)
        self.floats.receive(reply["floats"])
        own = self.budgets
        for bucket, quota in zip((own.requests, own.tokens), reply["quotas"], strict=True):
            if bucket is not None:
                _, level, period, full_in = quota
                bucket.fill_to(now, level)
                if bucket.period == period:
                    bucket.full_at = now + full_in
        for state in reply["lanes"]:
            self._adopt_lane(state, now)
        self.grants.add(reply["grants"], now)
        for lane_name, index, client in reply["refused"]:
            self.demand.change((lane_name, index, client))
        if self.closed:
            self._give_back_grants()
        if self.urgencies.group_waiting and self.floats.held:
            self.urge(Urgency.SPACED)
        self._dispatch()
        for key in self.demand.new:
            self._late_newcomers.examine(self.demand.waiters(key)[self.grants.by_flow[key] :])

    def _adopt_lane(self, state: list[Any], now: int) -> None:
        name, known, requests, tokens, pause, *_ = state
        lane = self._lanes.find(name)
        if lane is None:
            if not known or len(self._lanes) >= MAX_LANES:
                return
            lane = self._lanes.get(name)
        budgets = lane.budgets
        if known and not (budgets.known and budgets.slots is None):
            budgets.confirm_model()
        budgets.adopt(now, requests, tokens)
        if pause > 0:
            budgets.pause(now, pause)
        self._lanes.on_limits_changed(lane)


def _key(waiter: Waiter) -> FlowKey:
    assert waiter.flow is not None
    return waiter.lane.name, waiter.flow.share.index, waiter.exchange.client


def _quota_of(kind: int, bucket: TokenBucket, now: int) -> list[int]:
    """What is known about a quota: kind, limit, level, ns per unit."""
    return [kind, bucket.burst, bucket.level(now), bucket.period]
