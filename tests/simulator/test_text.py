"""The generated text."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.simulator.text import GeneratedText, generate_text, seed_from, tokens_of


@given(st.integers(1, 300), st.booleans(), st.text(st.characters(codec="utf-8")))
def test_text_is_deterministic_and_has_the_requested_length(
    tokens: int, as_json: bool, prompt: str
) -> None:
    first, second = (generate_text(seed_from(prompt), tokens, None, as_json) for _ in range(2))
    assert first == second
    assert first.complete is (as_json or tokens >= 48)
    assert len(first.tokens) == tokens
    assert not as_json or isinstance(json.loads(str(first)), dict)


@given(st.text())
def test_tokens_are_the_whole_text(text: str) -> None:
    tokens = tokens_of(text)
    assert "".join(tokens) == text
    assert all(tokens)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Stay late.", ["Stay", " late", "."]),
        ("Hello, world!", ["Hello", ",", " world", "!"]),
        ("get_user_country", ["get", "_user", "_country"]),
        (
            '{"city":"Rome","day":1234}',
            ['{"', "city", '":"', "Rome", '","', "day", '":', "123", "4", "}"],
        ),
        ("a  b\n\nc", ["a", " ", " b", "\n\n", "c"]),
        ("\u4eca\u5929\u5929\u6c14", ["\u4eca\u5929", "\u5929\u6c14"]),
    ],
)
def test_tokens_are_those_of_a_real_tokenizer(text: str, tokens: list[str]) -> None:
    assert tokens_of(text) == tokens


def test_no_token_is_much_longer_than_a_real_one() -> None:
    for text in ("x" * 1000, "X" * 1000, "9" * 1000, "." * 1000, "_a" * 500, "\u0416" * 1000):
        assert max(map(len, tokens_of(text))) <= 11


@pytest.mark.parametrize(
    ("stops", "tokens"),
    [
        ((" c",), ("a", " b")),
        (("d", "b"), ("a", " ")),
        (("a",), ()),
        (("none",), ("a", " b", " c", " d")),
        ((), ("a", " b", " c", " d")),
        (("b c",), ("a", " ")),
    ],
)
def test_text_ends_at_the_first_stop_sequence(
    stops: tuple[str, ...], tokens: tuple[str, ...]
) -> None:
    text = GeneratedText(("a", " b", " c", " d"), complete=False)
    assert text.until(stops) == GeneratedText(tokens, complete=len(tokens) < 4)
