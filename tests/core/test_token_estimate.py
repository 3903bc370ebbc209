"""Estimated tokens against the true counts of OpenAI's encoding."""

import pytest

from rustygate.core.token_estimate import estimate_tokens
from tests.support.texts import TEXTS


@pytest.mark.parametrize(("text", "tokens"), TEXTS.values(), ids=TEXTS)
def test_estimate_is_within_a_tenth_of_the_true_count(text: str, tokens: int) -> None:
    assert 0.9 * tokens <= estimate_tokens(text) <= 1.1 * tokens


def test_vowel_signs_of_thai_are_parts_of_its_words() -> None:
    text = (
        "กรุณาแจ้งหมายเลขคำสั่งซื้อของคุณเพื่อให้เราสามารถช่วยเหลือคุณได้ "
        "การชำระเงินของคุณเสร็จสมบูรณ์แล้ว และสินค้าจะถูกจัดส่งภายในสองวันทำการ "
        "หากมีปัญหาใด ๆ โปรดติดต่อฝ่ายบริการลูกค้าของเรา"
    )
    assert 0.85 * 72 <= estimate_tokens(text) <= 1.15 * 72


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
