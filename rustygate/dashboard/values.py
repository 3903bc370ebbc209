"""Values as the live page shows them: text from strangers, instants and durations."""

from datetime import datetime

from rustygate.core.bucket import SECOND

# A longer text is cut. No real name is longer.
TEXT_LIMIT = 200


def label(text: str) -> str:
    """A text that a stranger chose, such as a name: not too long, and without lone surrogates,
    which UTF-8 cannot encode."""
    return text[:TEXT_LIMIT].encode(errors="replace").decode()


def rfc3339(instant: datetime) -> str:
    """An instant in UTC, to the millisecond."""
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds(duration: float) -> float:
    """Nanoseconds as seconds, to the millisecond."""
    return round(duration / SECOND, 3)
