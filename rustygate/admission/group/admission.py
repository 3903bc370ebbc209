"""One attempt's way through a gate in a group; what becomes known is reported to the group."""

from rustygate.admission.admission import Admission
from rustygate.admission.group.dispatcher import GroupDispatcher
from rustygate.core.rate_limit_headers import RateLimitUpdate


class GroupAdmission(Admission):
    """An `Admission` that is reported to the group."""

    __slots__ = ()

    _dispatcher: GroupDispatcher

    def record_response(
        self, ok: bool, update: RateLimitUpdate | None = None, *, refused: bool = False
    ) -> None:
        lane = self.lane.budgets
        was_known = lane.known
        if not self._dispatcher.has_mark(self):
            # Its place among the group's admissions is unknown, and so is what its levels mean.
            update = None
        super().record_response(ok, update, refused=refused)
        if lane.known and not was_known:
            self._dispatcher.tell("known", self.lane.name)
        if update is not None:
            self._dispatcher.tell_quotas(self, update)
        self._dispatcher.tell_pace(self.lane)

    def pause(self, wait: int, *, slow: bool = False, guessed: bool = False) -> None:
        super().pause(wait, slow=slow, guessed=guessed)
        if slow:
            age = self._dispatcher.now() - self.lane_totals.at
            self._dispatcher.tell("slow_down", self.lane.name, max(0, age))
        left = self.lane.budgets.paused_until - self._dispatcher.now()
        if left > 0:
            self._dispatcher.tell("pause", self.lane.name, left)
        self._dispatcher.tell_pace(self.lane)

    def settle(self, tokens: int) -> None:
        if tokens != self.tokens:
            self._dispatcher.tell(
                "settle", self.exchange.client, self.tokens, tokens, self.version
            )
        super().settle(tokens)

    def give_back(self) -> None:
        client = self.exchange.client
        self._dispatcher.tell("give_back", self.lane.name, client, self.tokens, self.version)
        super().give_back()

    def waive(self) -> None:
        self._dispatcher.tell("waive", self.exchange.client, self.tokens, self.version)
        super().waive()

    def release(self) -> None:
        if not self._slots_freed:
            self._dispatcher.tell("release", self.exchange.client)
        super().release()

    def _free_lane_slot(self) -> None:
        super()._free_lane_slot()
        self._dispatcher.tell("answer", self.lane.name)
