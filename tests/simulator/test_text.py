"""The generated text."""

import json

from hypothesis import given
from hypothesis import strategies as st

from rustygate.simulator.text import seed_of, write
from tests.support.simulator import unhurried


@unhurried
@given(st.integers(1, 300), st.booleans(), st.text(st.characters(codec="utf-8")))
def test_text_is_deterministic_and_as_long_as_asked(
    tokens: int, as_json: bool, prompt: str
) -> None:
    one, two = (write(seed_of(prompt), tokens, None, as_json) for _ in range(2))
    assert one == two
    assert one.whole
    assert len(one.tokens) == tokens
    assert not as_json or isinstance(json.loads(str(one)), dict)
