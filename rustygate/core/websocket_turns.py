"""The turns in flight in one WebSocket, and which of them an event from upstream is about.

Upstream names a response in each of its events, but does not say which `response.create` it came
from. Turns are assumed to begin in the order in which they were sent.
"""

from collections.abc import Iterator
from typing import Generic, TypeVar

from rustygate.core.websocket_events import UpstreamError, UpstreamEvent

# How the codes of errors begin that concern other events than `response.create`.
_OTHER_ERRORS = ("input_audio_buffer", "response_cancel", "item_", "conversation_item")


class OpenTurn:
    """A turn as its events name it.

    Args:
        event_id: the client's name for its event (Realtime).
        stream_id: the client's name for a stream of responses (Responses).
    """

    __slots__ = ("event_id", "has_begun", "response_id", "stream_id")

    def __init__(self, event_id: str | None = None, stream_id: str | None = None) -> None:
        self.event_id = event_id
        self.stream_id = stream_id
        self.response_id: str | None = None
        self.has_begun = False


T = TypeVar("T", bound=OpenTurn)


class OpenTurns(Generic[T]):
    """The turns that were sent and have not ended, in order."""

    def __init__(self) -> None:
        self._turns: list[T] = []

    def __repr__(self) -> str:
        begun = sum(turn.has_begun for turn in self._turns)
        return f"<OpenTurns {len(self._turns)}, {begun} begun>"

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._turns))

    def __len__(self) -> int:
        return len(self._turns)

    def add(self, turn: T) -> None:
        """Note a turn that was sent."""
        self._turns.append(turn)

    def remove(self, turn: T) -> None:
        """Forget a turn that has ended."""
        self._turns.remove(turn)

    def begin(self, event: UpstreamEvent) -> T | None:
        """The turn whose response begins; None if upstream has started it on its own."""
        turn = self._first_waiting(event.stream_id)
        if turn is not None:
            turn.has_begun, turn.response_id = True, event.response_id
        return turn

    def ending(self, event: UpstreamEvent) -> T | None:
        """The turn whose response ends; None if it is not known."""
        named = self._named(event.response_id)
        if named is not None:
            return named
        waiting = self._first_waiting(event.stream_id)
        if waiting is not None:
            return waiting
        nameless = event.response_id is None
        return next((t for t in self._turns if nameless or t.response_id is None), None)

    def failing(self, event: UpstreamEvent, error: UpstreamError, *, realtime: bool) -> T | None:
        """The turn that an `error` event ends; None if it concerns something else."""
        if error.event_id is not None:
            return next((t for t in self._turns if t.event_id == error.event_id), None)
        if event.response_id is not None:
            return self._named(event.response_id)
        code = error.fields.get("code")
        if realtime and isinstance(code, str) and code.startswith(_OTHER_ERRORS):
            return None
        waiting = self._first_waiting(event.stream_id)
        if waiting is not None or realtime:
            return waiting
        return next((t for t in self._turns if t.stream_id == event.stream_id), None)

    @property
    def latest(self) -> T | None:
        """The turn that began last."""
        return next((t for t in reversed(self._turns) if t.has_begun), None)

    def _named(self, response_id: str | None) -> T | None:
        if response_id is None:
            return None
        return next((t for t in self._turns if t.response_id == response_id), None)

    def _first_waiting(self, stream_id: str | None) -> T | None:
        """The first turn of a stream whose response has not begun."""
        waiting = [turn for turn in self._turns if not turn.has_begun]
        same = (turn for turn in waiting if turn.stream_id == stream_id)
        # An upstream without streams does not repeat their names.
        return next(same, waiting[0] if waiting and stream_id is None else None)
