"""Estimated tokens against the true counts of OpenAI's encoding."""

import pytest

from rustygate.core.token_estimate import estimate_tokens
from tests.support.texts import TEXTS


@pytest.mark.parametrize(("text", "tokens"), TEXTS.values(), ids=TEXTS)
def test_estimate_is_within_a_tenth_of_the_true_count(text: str, tokens: int) -> None:
    assert 0.9 * tokens <= estimate_tokens(text) <= 1.1 * tokens


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        (" ", 1),
        ("Hello", 1),
        (" hello world", 2),
        ("12345", 2),
        ("\n\n", 1),
        ("\U0001f642", 1),
    ],
)
def test_estimate_of_short_texts(text: str, tokens: int) -> None:
    assert estimate_tokens(text) == tokens
