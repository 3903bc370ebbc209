"""Counts with their nouns."""


def counted(number: float, noun: str, form: str = "") -> str:
    """A number with its noun: `1 exchange`, `2 exchanges`.

    Args:
        form: how the number is formatted, such as `,` for `2,000 exchanges`.
    """
    return f"{number:{form}} {noun}" if number == 1 else f"{number:{form}} {noun}s"
