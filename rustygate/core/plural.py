"""Numbers of things, in words."""


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 exchange`, `2 exchanges`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
