"""What may be shown of a value."""

import re

# Below this length, a few characters shown would be too many.
_MASKABLE = 24
MASKED = "*" * 8

# A value in a problem is cut here, so that its line can be read.
_SHOWN = 80


def mask(secret: str) -> str:
    """A secret as it may be shown: its owner may know it again, and nobody else learns it."""
    return f"{secret[:3]}...{secret[-4:]}" if len(secret) >= _MASKABLE else MASKED


def without_password(url: str) -> str:
    """A URL as it may be shown, or what was meant to be one."""
    return re.sub(r"^(\w+://)?.*@", rf"\1{MASKED}@", url, flags=re.S)


def shown(value: str) -> str:
    """A value in a problem: on one line, without what a URL may hide or a key put there."""
    value = re.sub(r"//[^/]*@", f"//{MASKED}@", value)
    value = re.sub(r"(//.*?[?#]).*", rf"\1{MASKED}", value, flags=re.S)
    value = re.sub(r"sk-\S+", MASKED, value)
    return ascii(value if len(value) <= _SHOWN else value[:_SHOWN] + "...")
