"""Whether all readers of a JSON body find the same model in it, or the same type.

If a name is repeated, most readers take the last value and some the first, and Go's ignore case.
So a body with `model` twice, or with `Model`, may use a model that the gate did not read, and a
message with `type` twice may start a turn. Only bodies and messages of clients whose models are
restricted are examined.
"""

import json
import re
from typing import Literal

Name = Literal["model", "type"]


def _anywhere(name: Name) -> re.Pattern[bytes]:
    """Finds a name in any case, also with escapes, wherever it stands in front of a colon."""
    letters = "".join(
        rf"(?:{letter}|\\u00(?:{ord(letter):x}|{ord(letter.upper()):x}))" for letter in name
    )
    return re.compile(rf'"{letters}"\s*:'.encode(), re.IGNORECASE)


_ANYWHERE: dict[Name, re.Pattern[bytes]] = {
    "model": _anywhere("model"),
    "type": _anywhere("type"),
}
_PLAIN: dict[Name, bytes] = {"model": b'"model"', "type": b'"type"'}
_START_OF_OBJECT = re.compile(rb"(?:\xef\xbb\xbf)?\s*\{")


def is_ambiguous(body: bytes, name: Name = "model") -> bool:
    """Whether readers of a JSON object may take different values for a name in it; false for any
    other body."""
    if _START_OF_OBJECT.match(body) is None:
        return False
    found = _ANYWHERE[name].findall(body)
    if not found or (len(found) == 1 and found[0].startswith(_PLAIN[name])):
        return False
    # Most are in schemas of tools. What counts are the names of the object itself.
    try:
        names = json.loads(body, object_pairs_hook=_names)
    except (ValueError, RecursionError):
        return True
    alike = [each for each in names if each.lower() == name]
    return alike not in ([], [name])


def _names(pairs: list[tuple[str, object]]) -> list[str]:
    return [name for name, _ in pairs]
