"""Request targets: which are forwarded, and which would leave upstream's base path.

A target is inspected, never rewritten: it goes upstream byte for byte. So no target may pass whose
meaning depends on who normalizes it (RFC 3986, 5.2.4 and 6.2.2.3).
"""

import re

PREFIX = "/v1/"

# What upstream may decode to a dot, a slash or a backslash, which may count as a slash. Decoded
# once, as upstream would.
_ENCODED = re.compile("%(2e|2f|5c)", re.IGNORECASE)
_DECODED = {"2e": ".", "2f": "/", "5c": "/"}
# A scheme and an authority. A query may follow without a path in between.
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")
_UNSAFE = re.compile("[\\x00-\\x20\\x7f#\\\\\\\\]")


def path_of(target: str) -> str:
    """The path of an origin-form or absolute-form target, as sent, without the query."""
    return origin_form(target).partition("?")[0]


def origin_form(target: str) -> str:
    """The path and query of a target, which may be in absolute form (RFC 9112, 3.2.2)."""
    if target.startswith("/"):
        return target
    absolute = _ABSOLUTE.match(target)
    return target[absolute.end() :] if absolute else target


def has_dot_segment(path: str) -> bool:
    """Whether a path has `.` or `..` as a segment, plain or percent-encoded."""
    if "." not in path and "%" not in path:
        return False
    plain = _ENCODED.sub(lambda match: _DECODED[match[1].lower()], path)
    return any(segment in {".", ".."} for segment in plain.split("/"))


def is_unsafe(target: str) -> bool:
    """Whether a target contains a control character, a space, `#` or a backslash."""
    return _UNSAFE.search(target) is not None
