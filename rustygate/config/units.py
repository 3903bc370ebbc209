"""Values with units and other long numbers, rewritten as plain numbers: `1m30s`, `256MiB`, `1e6`.

A text that is no such value is returned as it is: the parser of plain numbers rejects it.
"""

import re
from decimal import Decimal

_NUMBER = r"\d{1,15}(?:\.\d{1,9})?"
_PART = re.compile(rf"({_NUMBER})\s*([a-z]+)\s*", re.I | re.ASCII)
_PARTS = re.compile(rf"({_PART.pattern})+", re.I | re.ASCII)

_SECONDS = {
    "ms": Decimal("0.001"),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), Decimal(1)),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), Decimal(60)),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), Decimal(3600)),
    **dict.fromkeys(("d", "day", "days"), Decimal(86_400)),
}
# As Python writes numbers; with an exponent also whole ones.
_LONG_NUMBER = re.compile(
    r"\d{1,15}(?:_\d{1,15}){0,9}(?:\.\d{1,9})?(?:e\+?\d{1,2})?", re.I | re.ASCII
)

_MULTIPLES = {"k": Decimal(10**3), "m": Decimal(10**6), "g": Decimal(10**9)}

# A letter alone is a power of 1024, as in Docker, systemd and nginx.
_BYTES = {
    "b": Decimal(1),
    **{f"{prefix}b": factor for prefix, factor in _MULTIPLES.items()},
    **{
        f"{prefix}{ending}": Decimal(1024**power)
        for power, prefix in enumerate(_MULTIPLES, 1)
        for ending in ("ib", "i", "")
    },
}


def in_seconds(text: str) -> str:
    """`30s`, `500ms` or `1m30s` in seconds; larger units come first."""
    if not _PARTS.fullmatch(text):
        return text
    parts = [(Decimal(number), unit.lower()) for number, unit in _PART.findall(text)]
    factors = [_SECONDS.get(unit) for _, unit in parts]
    known = [factor for factor in factors if factor is not None]
    if len(known) < len(factors) or known != sorted(set(known), reverse=True):
        return text
    return _plain(sum(number * factor for (number, _), factor in zip(parts, known, strict=True)))


def in_units(text: str) -> str:
    """`200k`, `2M`, `1e6` or `1_000_000` as a number."""
    return _multiplied(text, _MULTIPLES)


def in_bytes(text: str) -> str:
    """`256MiB`, `1GB` or `64k` in bytes; numbers as `in_units` reads them."""
    return _multiplied(text, _BYTES)


def _multiplied(text: str, factors: dict[str, Decimal]) -> str:
    if _LONG_NUMBER.fullmatch(text):
        return _plain(Decimal(text))
    match = _PART.fullmatch(text)
    factor = match and factors.get(match[2].lower())
    return _plain(Decimal(match[1]) * factor) if match and factor else text


def _plain(number: Decimal | int) -> str:
    """Without an exponent, and without a fraction that is zero."""
    return str(int(number)) if number == int(number) else f"{number:f}"
