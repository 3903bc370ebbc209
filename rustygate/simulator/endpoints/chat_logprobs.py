"""Log probabilities as chat completions and legacy completions report them."""

from collections.abc import Sequence
from typing import Any

from rustygate.simulator.answers.logprobs import alternatives, logprob, text_offsets


def content_logprobs(tokens: Sequence[str], first_position: int, top: int) -> dict[str, Any]:
    """The log probabilities of a message's tokens."""
    content = [
        token_logprob(token, first_position + number, top) for number, token in enumerate(tokens)
    ]
    return {"content": content, "refusal": None}


def token_logprob(token: str, position: int, top: int) -> dict[str, Any]:
    """A token with its log probability and the most likely alternatives."""
    return {
        **_entry(token, logprob(token, position)),
        "top_logprobs": [_entry(*one) for one in alternatives(token, position, top)],
    }


def _entry(token: str, value: float) -> dict[str, Any]:
    return {"token": token, "bytes": list(token.encode()), "logprob": value}


def legacy_logprobs(
    tokens: Sequence[str], first_offset: int, first_position: int, top: int
) -> dict[str, Any]:
    """The log probabilities of a completion's tokens, in lists side by side."""
    positions = range(first_position, first_position + len(tokens))
    values = [logprob(*one) for one in zip(tokens, positions, strict=True)]
    tops = [dict(alternatives(t, p, max(top, 1))) for t, p in zip(tokens, positions, strict=True)]
    return {
        "tokens": list(tokens),
        "token_logprobs": values,
        "top_logprobs": tops,
        "text_offset": [first_offset + offset for offset in text_offsets(tokens)],
    }
