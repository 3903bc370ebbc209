"""The members of a JSON object that have arrived so far.

A large body is passed on as it arrives, and what matters in it usually comes first. Only members
of the object itself are read: not those of objects in it, and nothing in a string.
"""

import re
from collections.abc import Container

# A string, a bracket, a separator, or anything else up to the next of these.
_TOKEN = re.compile(rb'\s*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\],:]|[^\s"{}\[\],:]++)', re.S)
# Inside a member, only strings and brackets matter.
_NESTED = re.compile(rb'[^"{}\[\]]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\]])', re.S)
# Strings and brackets in one member that are skipped, which takes some milliseconds.
TOKENS_LIMIT = 20_000

_OPENING = frozenset(b"{[")
_CLOSING = frozenset(b"}]")


def members_in_start(start: bytes, names: Container[bytes]) -> dict[bytes, bytes]:
    """The JSON of the members with these names that are complete; of a repeated one, the last.

    Strings, numbers and words are read; objects and arrays are skipped. Reading ends where the
    start is not JSON.
    """
    members: dict[bytes, bytes] = {}
    opening, position = _token(start, 0)
    if opening != b"{":
        return members
    while opening in {b"{", b","}:
        name, position = _token(start, position)
        colon, position = _token(start, position)
        value, position = _token(start, position)
        if colon != b":" or not value:
            break
        if value[0] in _OPENING:
            position = _after_nested(start, position)
        opening, position = _token(start, position)
        # What follows shows that the value is complete.
        if opening in {b",", b"}"} and name[1:-1] in names:
            members[name[1:-1]] = value
    return members


def _token(text: bytes, position: int) -> tuple[bytes, int]:
    """The next token and the position after it; an empty one if there is none."""
    token = _TOKEN.match(text, position)
    return (b"", position) if token is None else (token[0].strip(), token.end())


def _after_nested(text: bytes, position: int) -> int:
    """The position after an object or an array that has been opened."""
    depth = 1
    for _ in range(TOKENS_LIMIT):
        token = _NESTED.match(text, position)
        if token is None:
            break
        position = token.end()
        last = text[position - 1]
        depth += (last in _OPENING) - (last in _CLOSING)
        if not depth:
            return position
    return len(text)
