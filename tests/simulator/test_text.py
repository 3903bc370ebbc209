"""The generated text."""

import json

from hypothesis import given
from hypothesis import strategies as st

from rustygate.simulator.text import generate_text, seed_from
from tests.support.simulator import no_deadline


@no_deadline
@given(st.integers(1, 300), st.booleans(), st.text(st.characters(codec="utf-8")))
def test_text_is_deterministic_and_has_the_requested_length(
    tokens: int, as_json: bool, prompt: str
) -> None:
    first, second = (generate_text(seed_from(prompt), tokens, None, as_json) for _ in range(2))
    assert first == second
    assert first.complete
    assert len(first.tokens) == tokens
    assert not as_json or isinstance(json.loads(str(first)), dict)
