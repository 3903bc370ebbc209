"""Masking: what may be shown of a secret, of a URL, and of a rejected value."""

import re

MASKED = "*" * 8

# Of a shorter secret, even a few visible characters would be too many.
_MIN_LENGTH_SHOWN_IN_PART = 24

# Longer values are cut, so that an error line stays readable.
_MAX_LENGTH_SHOWN = 80


def mask(secret: str) -> str:
    """A secret as it may be shown: its owner can recognize it, and it is useless to others."""
    if len(secret) < _MIN_LENGTH_SHOWN_IN_PART:
        return MASKED
    return f"{secret[:3]}...{secret[-4:]}"


def mask_credentials(url: str) -> str:
    """A URL, or a value that was meant to be one, without its user and password."""
    return re.sub(r"^([\w+]+://)?.*@", rf"\1{MASKED}@", url, flags=re.S)


def mask_redis_url(url: str) -> str:
    """A valid REDIS_URL without users and passwords."""
    return re.sub(r"(username|password)=[^&]*", rf"\1={MASKED}", mask_credentials(url))


def show_rejected(value: str) -> str:
    """A rejected value for an error line: quoted, on one line, with possible secrets masked.

    A URL may contain a password or a secret query, and a key may be in the wrong variable.
    """
    value = re.sub(r"//[^/]*@", f"//{MASKED}@", value)
    value = re.sub(r"(//.*?[?#]).*", rf"\1{MASKED}", value, flags=re.S)
    value = re.sub(r"sk-\S+", MASKED, value)
    return ascii(value if len(value) <= _MAX_LENGTH_SHOWN else value[:_MAX_LENGTH_SHOWN] + "...")
