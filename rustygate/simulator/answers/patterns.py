"""Regular expressions of JSON schemas: which strings match, and a string that does.

Matching follows all ways at once, so that it takes polynomial time for any expression; Python's
`re` may take exponential time. Backreferences, lookbehind and flags are not supported.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, repeat
from random import Random
from string import ascii_letters, digits

# Of a part of an expression; larger counts are refused.
MAX_REPEATS = 1000

# Of a whole expression, with its repeats written out.
MAX_SIZE = 20_000

# Groups within groups.
MAX_DEPTH = 40

_LETTERS = (("a", "z"), ("A", "Z"))
_DIGITS = (("0", "9"),)
_WORD = (*_LETTERS, *_DIGITS, ("_", "_"))
_SPACE = ((" ", " "), ("\t", "\r"), ("\xa0", "\xa0"))
_CLASSES = {"d": _DIGITS, "w": _WORD, "s": _SPACE}
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "0": "\0"}

# What is written, if the expression allows it. Whether other letters belong to `\w` depends on who
# checks the text.
_PRINTABLE = ascii_letters + digits + " -_.,:;/!?@#%&*+=~'\"()[]{}<>|^$`\\"

# How often more than necessary repeated parts are written, in the order tried.
_EXTRA_REPEATS = (1, 0, 2, 3, 4, 5, 6, 8, 11, 15, 21, 34, 60, 100, 200, 400, 700, 1000)


class PatternError(ValueError):
    """An expression that is malformed or not supported."""


@dataclass(frozen=True, slots=True)
class Chars:
    """One character in some ranges or, if negated, in none of them."""

    ranges: tuple[tuple[str, str], ...]
    negated: bool = False

    def __contains__(self, char: str) -> bool:
        return any(low <= char <= high for low, high in self.ranges) != self.negated


@dataclass(frozen=True, slots=True)
class Boundary:
    """A position: `^`, `$`, `b` or `B`."""

    kind: str

    def holds(self, text: str, at: int) -> bool:
        if self.kind in "^$":
            return at == (0 if self.kind == "^" else len(text))
        before, after = text[at - 1 : at] if at else "", text[at : at + 1]
        return (_is_word(before) != _is_word(after)) == (self.kind == "b")


@dataclass(frozen=True, slots=True)
class Lookahead:
    part: "Node"
    negated: bool


@dataclass(frozen=True, slots=True)
class Sequence:
    parts: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Choice:
    options: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    part: "Node"
    minimum: int
    maximum: int | None


Node = Chars | Boundary | Lookahead | Sequence | Choice | Repeat


def _is_word(char: str) -> bool:
    return bool(char) and char in Chars(_WORD)


@lru_cache(maxsize=256)
def parse(pattern: str) -> Node:
    """Parse an expression.

    Raises:
        PatternError: it is malformed or not supported.
    """
    node = _Parser(pattern).parse()
    if _size(node) > MAX_SIZE:
        raise PatternError(f"the regular expression {pattern!r} is too large")
    return node


def matches(pattern: str, text: str) -> bool:
    """Whether an expression matches anywhere in a text."""
    return bool(_ends(parse(pattern), text, set(range(len(text) + 1))))


def write(
    pattern: str, seed: int, min_length: int = 0, max_length: int | None = None
) -> str | None:
    """A text that matches, of a length within bounds; None if none was found.

    Raises:
        PatternError: the expression is malformed or not supported.
    """
    node = parse(pattern)
    for text in _candidates(node, seed, min_length):
        fits = len(text) >= min_length and (max_length is None or len(text) <= max_length)
        if fits and matches(pattern, text):
            return text
    return None


def _candidates(node: Node, seed: int, min_length: int) -> Iterator[str]:
    for extra in (*_EXTRA_REPEATS[:3], min_length, max(0, min_length - 1), *_EXTRA_REPEATS[3:]):
        for attempt in range(4):
            text = _write(node, Random(seed + attempt), extra)
            yield text
            yield text.ljust(min_length, "x")
            yield text.rjust(min_length, "x")
            yield text.ljust(min_length)
        if extra in _EXTRA_REPEATS and len(text) > min_length + 100:
            return


def _size(node: Node) -> int:
    """The parts of an expression, with repeats written out."""
    match node:
        case Sequence(parts) | Choice(parts):
            return 1 + sum(map(_size, parts))
        case Repeat(part, minimum, maximum):
            return 1 + _size(part) * max(1, minimum, maximum or 0)
        case Lookahead(part):
            return 1 + _size(part)
    return 1


def _ends(node: Node, text: str, starts: set[int]) -> set[int]:
    """Where a match may end that begins at one of the starts."""
    match node:
        case Chars():
            return {at + 1 for at in starts if at < len(text) and text[at] in node}
        case Boundary():
            return {at for at in starts if node.holds(text, at)}
        case Lookahead(part, negated):
            return {at for at in starts if bool(_ends(part, text, {at})) != negated}
        case Choice(options):
            return set().union(*(_ends(option, text, starts) for option in options))
        case Sequence(parts):
            for part in parts:
                starts = _ends(part, text, starts)
            return starts
        case Repeat():
            return _repeat_ends(node, text, starts)


def _repeat_ends(node: Repeat, text: str, starts: set[int]) -> set[int]:
    for _ in range(node.minimum):
        before, starts = starts, _ends(node.part, text, starts)
        if starts == before:
            break
    ends, count = set(starts), node.minimum
    while starts and count != node.maximum:
        starts = _ends(node.part, text, starts) - ends
        ends |= starts
        count += 1
    return ends


def _write(node: Node, random: Random, extra: int) -> str:
    match node:
        case Chars():
            return _write_char(node, random)
        case Sequence(parts):
            return "".join(_write(part, random, extra) for part in parts)
        case Choice(options):
            return _write(random.choice(options), random, extra)
        case Repeat(part, minimum, maximum):
            count = minimum + extra if maximum is None else min(minimum + extra, maximum)
            count = min(count, max(minimum, MAX_SIZE // _size(part)))
            return "".join(_write(part, random, extra) for part in repeat(part, count))
    return ""


def _write_char(chars: Chars, random: Random) -> str:
    printable = [char for char in _PRINTABLE if char in chars]
    if printable:
        return random.choice(printable)
    # Any other character; if it does not match, neither does the text.
    return random.choice(chars.ranges)[0] if chars.ranges else ""


class _Parser:
    """Parses by recursive descent."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0
        self._depth = 0

    def parse(self) -> Node:
        node = self._choice()
        if self._at < len(self._pattern):
            raise self._error("unbalanced parenthesis")
        return node

    def _error(self, problem: str) -> PatternError:
        return PatternError(f"the regular expression {self._pattern!r} has {problem}")

    def _peek(self, text: str) -> bool:
        return self._pattern.startswith(text, self._at)

    def _accept(self, text: str) -> bool:
        accepted = self._peek(text)
        self._at += len(text) if accepted else 0
        return accepted

    def _next(self) -> str:
        if self._at >= len(self._pattern):
            raise self._error("an unexpected end")
        self._at += 1
        return self._pattern[self._at - 1]

    def _choice(self) -> Node:
        options = [self._sequence()]
        while self._accept("|"):
            options.append(self._sequence())
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def _sequence(self) -> Node:
        parts = []
        while self._at < len(self._pattern) and not self._peek("|") and not self._peek(")"):
            parts.append(self._repeated())
        return Sequence(tuple(parts))

    def _repeated(self) -> Node:
        node = self._atom()
        while (bounds := self._quantifier()) is not None:
            node = Repeat(node, *bounds)
            # Whether a repeat is lazy or possessive makes no difference to what matches here.
            self._accept("?") or self._accept("+")
        return node

    def _quantifier(self) -> tuple[int, int | None] | None:
        for sign, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._accept(sign):
                return bounds
        return self._counts() if self._peek("{") else None

    def _counts(self) -> tuple[int, int | None] | None:
        """The counts `{n}`, `{n,}` or `{n,m}`; any other brace is a character."""
        end = self._pattern.find("}", self._at)
        low, comma, high = self._pattern[self._at + 1 : end].partition(",")
        if not (low.isdecimal() or (comma and not low)) or not (high.isdecimal() or not high):
            return None
        if max(len(low), len(high)) > 4 or max(int(low or 0), int(high or 0)) > MAX_REPEATS:
            raise self._error(f"a count above {MAX_REPEATS}")
        self._at = end + 1
        minimum = int(low or 0)
        return minimum, (int(high) if high else None) if comma else minimum

    def _atom(self) -> Node:
        char = self._next()
        match char:
            case "^" | "$":
                return Boundary(char)
            case ".":
                return Chars((("\n", "\n"), ("\r", "\r")), negated=True)
            case "(":
                return self._group()
            case "[":
                return self._set()
            case "\\":
                return self._escape()
            case "*" | "+" | "?":
                raise self._error("nothing to repeat")
        return Chars(((char, char),))

    def _group(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error("too many groups within groups")
        wrap = self._group_kind()
        node = self._choice()
        if not self._accept(")"):
            raise self._error("an unbalanced parenthesis")
        self._depth -= 1
        return wrap(node)

    def _group_kind(self) -> Callable[[Node], Node]:
        if not self._accept("?") or self._accept(":"):
            return lambda node: node
        for sign, negated in (("=", False), ("!", True)):
            if self._accept(sign):
                return lambda node: Lookahead(node, negated)
        self._accept("P")
        if not self._accept("<") or self._peek("=") or self._peek("!"):
            raise self._error("a group that is not supported")
        while self._next() != ">":
            pass
        return lambda node: node

    def _escape(self) -> Node:
        if self._peek("b") or self._peek("B"):
            return Boundary(self._next())
        if self._accept("A"):
            return Boundary("^")
        if self._accept("Z") or self._accept("z"):
            return Boundary("$")
        return self._escaped_chars()

    def _escaped_chars(self) -> Chars:
        char = self._next()
        if char.lower() in _CLASSES:
            return Chars(_CLASSES[char.lower()], negated=char.isupper())
        if char in "ux":
            char = self._code_point(4 if char == "u" else 2)
        elif char in _CONTROLS:
            char = _CONTROLS[char]
        elif char.isalnum():
            raise self._error(f"an escape that is not supported: \\{char}")
        return Chars(((char, char),))

    def _code_point(self, length: int) -> str:
        text = "".join(self._next() for _ in range(length))
        try:
            return chr(int(text, 16))
        except ValueError:
            raise self._error("a malformed escape") from None

    def _set(self) -> Chars:
        negated = self._accept("^")
        ranges: list[tuple[str, str]] = []
        first = True
        while first or not self._peek("]"):
            ranges += self._set_item()
            first = False
        self._next()
        return Chars(tuple(ranges), negated)

    def _set_item(self) -> tuple[tuple[str, str], ...]:
        low = self._set_char()
        if len(low.ranges) != 1 or low.negated or low.ranges[0][0] != low.ranges[0][1]:
            return _complement(low.ranges) if low.negated else low.ranges
        if not self._peek("-") or self._pattern.startswith("-]", self._at):
            return low.ranges
        self._next()
        high = self._set_char()
        (start, _), (end, _) = low.ranges[0], high.ranges[0]
        if end < start:
            raise self._error("a range in the wrong order")
        return ((start, end),)

    def _set_char(self) -> Chars:
        if self._accept("\\"):
            return Chars((("\b", "\b"),)) if self._accept("b") else self._escaped_chars()
        char = self._next()
        return Chars(((char, char),))


def _complement(ranges: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """The ranges of all other characters."""
    ends = chain([-1], *((ord(low), ord(high)) for low, high in sorted(ranges)), [0x110000])
    points = list(ends)
    gaps = zip(points[::2], points[1::2], strict=True)
    return tuple((chr(low + 1), chr(high - 1)) for low, high in gaps if low + 1 <= high - 1)
