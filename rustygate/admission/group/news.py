"""What a member reports to its group about its admissions, in the order of the events."""

from typing import Any

Event = list[Any]


class News:
    """The events since the last call. While not `recording`, events are dropped."""

    def __init__(self) -> None:
        self.recording = False
        self._events: list[Event] = []
        # The newest level of each lane and kind of quota is enough.
        self._learned: dict[tuple[str, int], Event] = {}

    def __repr__(self) -> str:
        return f"<News {len(self._events) + len(self._learned)} events>"

    def __bool__(self) -> bool:
        return bool(self._events or self._learned)

    def restart(self) -> None:
        """Record from now on, and forget the rest: the member registers with what it holds."""
        self.recording = True
        self._events, self._learned = [], {}

    def stop(self) -> None:
        """Forget the events and record no more: the group cannot be reached."""
        self.recording = False
        self._events, self._learned = [], {}

    def add(self, *event: Any) -> None:
        if self.recording:
            self._events.append(list(event))

    def learn(
        self,
        lane: str,
        kind: int,
        *,
        limit: int,
        level: int,
        mark: int,
        period: int,
        admitted_at: int,
    ) -> None:
        """What a response says about a lane's quota; see `GroupLane.learn`."""
        if not self.recording:
            return
        event = ["learn", lane, kind, limit, level, mark, period, admitted_at]
        before = self._learned.get((lane, kind))
        if before is not None and before[5] > mark:
            self._events.append(event)
        else:
            self._learned[lane, kind] = event

    def take(self, now: int) -> list[Event]:
        """The events to send now. What was learned has become older since."""
        events = [*self._events, *self._learned.values()]
        self._events, self._learned = [], {}
        for event in events:
            if event[0] == "learn":
                event[-1] = now - event[-1]
        return events
