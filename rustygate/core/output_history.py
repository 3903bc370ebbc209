"""What answers took lately, to reckon those whose request names no cap.

Reckoned is a quantile of the last answers, one that the next exceeds with a chance of one in ten:
of `k` answers of one distribution, any of which may turn out the greater, the next is above the
`j`-th smallest with a chance of `(k + 1 - j) / (k + 1)` (order statistics; no assumption about
the distribution). A mean would be exceeded by half of them, and every excess is a request that
upstream refuses; the greatest would hold back more than is used for as long as it is remembered.
"""

from collections import OrderedDict, deque
from collections.abc import Collection

# So many answers are remembered. After a change it takes four to follow it up, and at most all of
# them to follow it down. Forty less one, so that the quantile is exact.
WINDOW = 39

# The fewest of which one can be reckoned that the next exceeds only once in ten: the greatest.
MIN_SAMPLES = 9

# Reckoned where too little is known: a long answer of a chat.
DEFAULT_ESTIMATE = 1000

# More than any model writes; a usage that claims more lies, and would be reckoned for long.
MAX_OUTPUT = 1_000_000

# Pairs of client and model that are remembered, some two kilobytes each.
MAX_PAIRS = 1000

_ALL_CLIENTS = None
_NONE: Collection[int] = ()


class OutputHistory:
    """The model's tokens that answers took lately, by client and model.

    A client that has had few answers from a model is reckoned by those of all clients, or by the
    greatest of its own. The pair that was noted least recently is forgotten first.
    """

    __slots__ = ("_answers",)

    def __init__(self) -> None:
        self._answers: OrderedDict[tuple[str | None, str | None], deque[int]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<OutputHistory {len(self._answers)} of {MAX_PAIRS} pairs>"

    def record(self, client: str, model: str | None, tokens_out: int) -> None:
        """Remember what an answer took."""
        for key in ((client, model), (_ALL_CLIENTS, model)):
            answers = self._answers.get(key)
            if answers is None:
                answers = self._answers[key] = deque(maxlen=WINDOW)
            answers.append(min(tokens_out, MAX_OUTPUT))
            self._answers.move_to_end(key)
        while len(self._answers) > MAX_PAIRS:
            self._answers.popitem(last=False)

    def estimate(self, client: str, model: str | None) -> int:
        """What this client's next answer from this model will seldom exceed."""
        own = self._answers.get((client, model), _NONE)
        if len(own) >= MIN_SAMPLES:
            return _seldom_exceeded(own)
        everybodys = self._answers.get((_ALL_CLIENTS, model), _NONE)
        enough = len(everybodys) >= MIN_SAMPLES
        usual = _seldom_exceeded(everybodys) if enough else DEFAULT_ESTIMATE
        return max(usual, *own) if own else usual


def _seldom_exceeded(answers: Collection[int]) -> int:
    """The `j`-th smallest, for the least `j` that the next exceeds at most once in ten."""
    return sorted(answers)[-((len(answers) + 1) // 10)]
