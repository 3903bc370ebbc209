"""Regular expressions: matching, and texts that match."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.simulator.answers.patterns import MAX_REPEATS, PatternError, matches, write

PATTERNS = [
    r"^\d{3}-\d{4}$",
    r"^[A-Z][a-z]+$",
    r"^(foo|bar){2,3}$",
    r"[^a-z]+",
    r"^#?([a-f0-9]{6}|[a-f0-9]{3})$",
    r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$",
    r"^[\w.-]+@[\w-]+\.[a-z]{2,}$",
    r"a|b?c",
    r"^$",
    r"(a+)+$",
    r"^\S+\s\S+$",
    r"^[\W_]+$",
    r"^[^\W\d]{3}$",
    r"\bfoo\b",
    r"^\+?[1-9]\d{1,14}$",
    r"^(?=.*\d)(?=.*[a-z]).{4,8}$",
    r"^(?P<year>\d{4})-x{,2}$",
    r"^[]a-]+\\\x41é$",
    r"^a{2}b{1,}?c*+d{e$",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_written_text_matches_in_pythons_re(pattern: str) -> None:
    for seed in range(5):
        text = write(pattern, seed)
        assert text is not None
        assert re.search(pattern.replace("*+", "*").replace("{,2}", "{0,2}"), text), text


# Without `$` before a line's end and without `\b` at once, Python agrees on ASCII.
@given(st.sampled_from(PATTERNS[:15]), st.text("ab3fo-_ A#.+", max_size=8))
def test_matching_agrees_with_pythons_re(pattern: str, text: str) -> None:
    assert matches(pattern, text) == bool(re.search(pattern, text))


def test_written_text_has_a_length_within_bounds() -> None:
    for minimum, maximum in ((0, 1), (1, 1), (7, 7), (10, 12), (90, 95)):
        text = write("^(a|b)+$", 1, minimum, maximum)
        assert text is not None
        assert max(minimum, 1) <= len(text) <= maximum
    assert write("^a{3}$", 1, min_length=4) is None
    assert write("^a{3}$", 1, max_length=2) is None
    assert write("abc", 1, min_length=5) == "abcxx"


def test_texts_depend_on_the_seed_only() -> None:
    texts = [write("^[a-z]{8}$", seed) for seed in range(9)]
    assert texts == [write("^[a-z]{8}$", seed) for seed in range(9)]
    assert len(set(texts)) == 9


def test_repeats_within_repeats_match_in_polynomial_time() -> None:
    assert not matches("^(a+)+$", "a" * 500 + "b")
    assert matches("^((a?)+)+$", "a" * 500)


@pytest.mark.parametrize(
    "pattern",
    [
        "(",
        ")",
        "[a",
        "a{2}{",
        "*a",
        "[z-a]",
        r"\1",
        r"\p{L}",
        "(?<=a)b",
        "(?<!a)b",
        "(?i)a",
        "(?<name",
        r"\u12",
        r"\xzz",
        "\\",
        f"a{{{MAX_REPEATS + 1}}}",
        "(a{1000}){1000}",
        "(" * 41 + ")" * 41,
    ],
)
def test_malformed_and_unsupported_expressions_are_refused(pattern: str) -> None:
    if pattern == "a{2}{":
        assert matches(pattern, "aa{")
        return
    with pytest.raises(PatternError):
        matches(pattern, "a")
