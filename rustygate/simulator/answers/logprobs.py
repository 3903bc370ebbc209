"""Log probabilities of tokens: made up, but in the right order, and the same for the same text."""

import math
from collections.abc import Sequence

from rustygate.simulator.text import seed_from, seeded_word


def logprob(token: str, position: int) -> float:
    """The log probability of a token: the most likely one, between 50% and 99%."""
    share = seed_from(token, str(position)) % 491 / 1000
    return round(math.log(0.5 + share), 6)


def alternatives(token: str, position: int, count: int) -> list[tuple[str, float]]:
    """The most likely tokens at a position, the token itself first."""
    best = logprob(token, position)
    rest = 1 - math.exp(best)
    found = {token: best}
    seed = seed_from(token, "alternatives", str(position))
    while len(found) < count:
        seed = (seed * 1103515245 + 12345) % 2**31
        other = f" {seeded_word(seed >> 8)}"
        if other not in found:
            rest /= 2
            found[other] = round(math.log(rest), 6)
    return list(found.items())[:count]


def text_offsets(tokens: Sequence[str]) -> list[int]:
    """Where each token begins in their text, in characters."""
    offsets = [0]
    for token in tokens[:-1]:
        offsets.append(offsets[-1] + len(token))
    return offsets[: len(tokens)]
