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
        (
            "Xin chào! Để cài đặt phần mềm này, bạn hãy mở cửa sổ dòng lệnh và gõ lệnh sau. Nếu "
            "gặp lỗi về quyền truy cập, hãy thử chạy lại với quyền quản trị viên. Sau khi cài "
            "xong, khởi động lại máy tính để các thay đổi có hiệu lực.",
            68,
        ),
        (
            "Щоб встановити програму, відкрийте термінал, виконайте таку команду. Якщо "
            "виникне помилка доступу, спробуйте запустити її з правами адміністратора. Після "
            "цього перезавантажте систему й перевірте, чи все працює.",
            63,
        ),
        (
            "כדי להתקין את התוכנה, פתחו את חלון הפקודות והקלידו את הפקודה הבאה. אם מתקבלת שגיאת "
            "הרשאה, נסו להריץ אותה שוב כמנהל המערכת. לאחר ההתקנה יש להפעיל מחדש את המחשב.",
            63,
        ),
    ],
    ids=["Vietnamese", "Ukrainian", "Hebrew"],
)
def test_estimate_of_scripts_with_longer_or_shorter_tokens(text: str, tokens: int) -> None:
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
        ("\u1ebf", 1),
    ],
)
def test_estimate_of_short_texts(text: str, tokens: int) -> None:
    assert estimate_tokens(text) == tokens
