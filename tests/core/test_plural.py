"""Counts with their nouns."""

import pytest

from rustygate.core.plural import counted


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 clients"), (1, "1 client"), (2, "2 clients"), (1000, "1000 clients")],
)
def test_number_has_its_noun(number: int, text: str) -> None:
    assert counted(number, "client") == text
