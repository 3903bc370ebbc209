"""A conversation as the model sees it: who said what, and which words an answer repeats.

The model of the simulator understands nothing. It repeats what the last message said, so that an
app's test that looks for a word of its prompt in the answer finds it.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, takewhile
from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]
_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}

# A phrase to be said is looked for in this much of the end of a message.
MAX_REQUEST_LENGTH = 20_000

_QUOTED = re.compile(
    r"\"([^\"\n]{1,500})\"|“([^”\n]{1,500})”|`([^`\n]{1,500})`"
    r"|(?<!\w)'([^'\n]{1,500})'(?!\w)"
)
_SAY = re.compile(
    r"\b(?:say|reply|respond|answer|repeat|echo|output)\b"
    r"(?:\s+(?:with|back|only|just|exactly|after|me|the|one|single|word|words|phrase|following))*"
    r"[\s:]+([^.!?\n]{1,500})",
    re.IGNORECASE,
)
_WORD = re.compile(r"\S+")
_JSON = re.compile(r"\bjson\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side said.

    Args:
        calls: names of the tools that an assistant called in this turn.
    """

    role: Role
    text: str = ""
    calls: tuple[str, ...] = ()


def role_of(name: str) -> Role:
    """The role by its name in a request; an unknown one speaks as a user."""
    return _ROLES.get(name, "user")


@dataclass(frozen=True)
class Prompt:
    """All turns before the answer, the oldest first."""

    turns: tuple[Turn, ...]

    @cached_property
    def request(self) -> str:
        """What the user said last."""
        return next((turn.text for turn in self._latest("user")), "")

    @cached_property
    def system(self) -> str:
        return "\n".join(turn.text for turn in self.turns if turn.role == "system")

    @property
    def tool_results(self) -> list[str]:
        """The results of tools since the user's last turn."""
        return [turn.text for turn in self._since_request if turn.role == "tool"]

    @property
    def called(self) -> set[str]:
        """The names of the tools called since the user's last turn."""
        return {name for turn in self._since_request for name in turn.calls}

    @property
    def asks_for_json(self) -> bool:
        """Whether the user's last turn or the instructions speak of JSON."""
        return bool(_JSON.search(self.request) or _JSON.search(self.system))

    def words(self) -> Iterator[str]:
        """The words to repeat, the most important ones first."""
        texts = chain(
            self.tool_results,
            _requested_phrases(self.request[-MAX_REQUEST_LENGTH:]),
            (turn.text for turn in self._latest("user")),
            (self.system,),
        )
        return (found[0] for text in texts for found in _WORD.finditer(text))

    @property
    def _since_request(self) -> list[Turn]:
        """The turns after the user's last one, the latest first."""
        return list(takewhile(lambda turn: turn.role != "user", reversed(self.turns)))

    def _latest(self, role: Role) -> Iterator[Turn]:
        return (turn for turn in reversed(self.turns) if turn.role == role)


def prompt_from(texts: Iterable[str]) -> Prompt:
    """A prompt without roles; the last text is the request."""
    return Prompt(tuple(Turn("user", text) for text in texts))


def _requested_phrases(request: str) -> list[str]:
    """What the user wants to be said: quoted phrases, or what follows "say"."""
    quoted = [next(filter(None, groups)) for groups in _QUOTED.findall(request)]
    if quoted:
        return quoted
    said = _SAY.search(request)
    return [said[1]] if said else []
