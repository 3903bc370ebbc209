"""The input of a turn in a WebSocket besides its own: the conversation so far.

In the Realtime API the conversation belongs to the WebSocket: a turn reads what the last one read
and wrote, and the items that were created since. In the Responses API a turn can continue an
earlier response, which it names. Recordings in the input buffer are not counted until upstream
reports their tokens.
"""

from collections import OrderedDict

from rustygate.core.websocket_events import TurnRequest

# How many responses are remembered for turns that continue them. Most continue the last one.
MAX_RESPONSES = 100

# OpenAI's ids have up to 70 characters.
MAX_ID_LENGTH = 256


class Conversations:
    """The sizes of the conversations in a WebSocket, in tokens.

    `items`: the tokens of all items that the client has created.
    """

    __slots__ = ("_counted", "_is_realtime", "_last", "_responses", "items")

    def __init__(self, *, realtime: bool) -> None:
        self.items = 0
        self._is_realtime = realtime
        # What the last turn read and wrote, and which items it had read.
        self._last = self._counted = 0
        self._responses: OrderedDict[str, int] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Conversations {self._last} + {self.items - self._counted} tokens>"

    def tokens_before(self, request: TurnRequest) -> int:
        """The tokens of the conversation that a new turn reads."""
        if self._is_realtime:
            return 0 if request.is_apart else self._last + self.items - self._counted
        return self._responses.get(request.previous_id or "", 0)

    def add(self, request: TurnRequest, response_id: str | None, items: int, tokens: int) -> None:
        """Add a response that has ended.

        Args:
            items: `items` when its turn came.
            tokens: what it read and wrote.
        """
        if self._is_realtime:
            if not request.is_apart:
                self._last, self._counted = tokens, items
        elif response_id and len(response_id) <= MAX_ID_LENGTH:
            self._responses[response_id] = tokens
            if len(self._responses) > MAX_RESPONSES:
                self._responses.popitem(last=False)
