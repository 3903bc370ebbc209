"""Values on the live page: untrusted text, instants and durations."""

from datetime import datetime

from rustygate.core.bucket import SECOND

# Longer text is truncated. No real name is longer.
TEXT_LIMIT = 200


def label(text: str) -> str:
    """Untrusted text, such as a name: truncated, and without lone surrogates, which UTF-8 cannot
    encode."""
    return text[:TEXT_LIMIT].encode(errors="replace").decode()


def rfc3339(instant: datetime) -> str:
    """An instant in UTC, to the millisecond."""
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds(duration: float) -> float:
    """Nanoseconds as seconds, to the millisecond."""
    return round(duration / SECOND, 3)
