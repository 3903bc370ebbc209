"""How many tokens recent responses took, to estimate requests that set no cap.

The estimate is a quantile of the recent responses that the next one exceeds with a probability of
one in ten. Of `k` responses with one distribution, the next is above the `j`-th smallest with
probability `(k + 1 - j) / (k + 1)` (order statistics; the distribution does not matter). Half of
all responses would exceed a mean, and each excess may become a request that upstream rejects. The
maximum would reserve more than is used for as long as it is remembered.
"""

from collections import OrderedDict, deque
from collections.abc import Collection

# Responses that are remembered. After a change, the estimate rises after four responses and falls
# after all of them at most. One less than forty makes the quantile exact.
WINDOW = 39

# The fewest responses that give an estimate which the next exceeds once in ten: their maximum.
MIN_SAMPLES = 9

# The estimate with too few responses: a long chat response.
DEFAULT_ESTIMATE = 1000

# More than any model writes. A usage above it is wrong, and would distort estimates for long.
MAX_OUTPUT = 1_000_000

# Pairs of client and model that are remembered, at about two kilobytes each.
MAX_PAIRS = 1000

_ALL_CLIENTS = None
_NO_OUTPUTS: Collection[int] = ()


class OutputHistory:
    """The model tokens of recent responses, by client and model.

    For a client with few responses from a model, the estimate uses those of all clients, or the
    largest of its own. The pair that was recorded least recently is forgotten first.
    """

    __slots__ = ("_outputs",)

    def __init__(self) -> None:
        self._outputs: OrderedDict[tuple[str | None, str | None], deque[int]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<OutputHistory {len(self._outputs)} of {MAX_PAIRS} pairs>"

    def record(self, client: str, model: str | None, tokens_out: int) -> None:
        """Remember how many tokens a response took."""
        for key in ((client, model), (_ALL_CLIENTS, model)):
            outputs = self._outputs.get(key)
            if outputs is None:
                outputs = self._outputs[key] = deque(maxlen=WINDOW)
            outputs.append(min(tokens_out, MAX_OUTPUT))
            self._outputs.move_to_end(key)
        while len(self._outputs) > MAX_PAIRS:
            self._outputs.popitem(last=False)

    def estimate(self, client: str, model: str | None) -> int:
        """A number of tokens that this client's next response from this model seldom exceeds."""
        own = self._outputs.get((client, model), _NO_OUTPUTS)
        if len(own) >= MIN_SAMPLES:
            return _quantile(own)
        of_all = self._outputs.get((_ALL_CLIENTS, model), _NO_OUTPUTS)
        estimate = _quantile(of_all) if len(of_all) >= MIN_SAMPLES else DEFAULT_ESTIMATE
        return max(estimate, *own) if own else estimate


def _quantile(outputs: Collection[int]) -> int:
    """The smallest output that the next one exceeds at most once in ten."""
    return sorted(outputs)[-((len(outputs) + 1) // 10)]
