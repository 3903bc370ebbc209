"""Whether all readers of a JSON body find the same model in it.

Of a repeated name most readers take the last value, some the first, and Go's ignore case. So a
body with `model` twice, or with `Model`, may use a model that the gate did not read. Only bodies
of clients whose models are restricted are examined.
"""

import json
import re

_NAME = b"model"

# The name in any case, also with escapes, wherever it stands in front of a colon.
_NAME_ANYWHERE = re.compile(
    b'"'
    + b"".join(b"(?:%c|\\\\u00[46]%x)" % (letter, letter & 15) for letter in _NAME)
    + rb'"\s*:',
    re.IGNORECASE,
)
_START_OF_OBJECT = re.compile(rb"(?:\xef\xbb\xbf)?\s*\{")


def is_ambiguous(body: bytes) -> bool:
    """Whether readers of a JSON object may differ about its model; false for any other body."""
    if _START_OF_OBJECT.match(body) is None:
        return False
    found = _NAME_ANYWHERE.findall(body)
    is_plain = all(name.startswith(b'"model"') for name in found)
    if len(found) < 1 + is_plain:
        return False
    # Most are in schemas of tools. What counts are the names of the object itself.
    try:
        names = json.loads(body, object_pairs_hook=_names)
    except (ValueError, RecursionError):
        return True
    models = [name for name in names if name.lower() == "model"]
    return models not in ([], ["model"])


def _names(pairs: list[tuple[str, object]]) -> list[str]:
    return [name for name, _ in pairs]
