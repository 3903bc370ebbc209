"""What the log says about a gate's group."""

from rustygate.admission.group.store import (
    StoreError,
    StoreRefused,
    StoreUnready,
    SyncFailed,
)
from rustygate.config import names
from rustygate.core.bucket import SECOND


def problem(group: str, error: StoreError) -> str:
    """What is wrong, in words."""
    if isinstance(error, SyncFailed):
        return f"calls to group {group} fail"
    if isinstance(error, StoreRefused):
        return f"the Redis of group {group} refuses this gate ({error})"
    if isinstance(error, StoreUnready):
        return f"the Redis of group {group} cannot serve it ({error})"
    return f"the Redis of group {group} does not answer ({error})"


def alone(group: str, error: StoreError, share: float | None) -> str:
    """Why, how and until when a gate is alone.

    Args:
        share: of the limits; None if it has not been in the group.
    """
    why, end = problem(group, error), _end(error)
    if share is not None:
        return f"{why}: this gate continues alone with {share:.0%} of the limits until {end}"
    return (
        f"{why}: until {end}, this gate is alone with all of the limits, because it knows of no "
        "other gate"
    )


def still_alone(group: str, error: StoreError) -> str:
    """The message when the reason has changed."""
    return f"{problem(group, error)}: this gate stays alone until {_end(error)}"


def different_limits(here: list[int], in_force: list[int]) -> str:
    """Where a gate's limits are not those in force, as `GroupScheduler.sync` has them: each
    setting with both values. Empty if they are the same."""
    if here == in_force:
        return ""
    rate, other_rate = here[0], in_force[0]
    differing = [] if rate == other_rate else [(names.RATE_LIMIT, _rate(rate), _rate(other_rate))]
    settings = (
        (names.RATE_LIMIT_BURST, 1),
        (names.TOKENS_PER_MINUTE, 2),
        (names.CONCURRENCY_LIMIT, 3),
        (names.RATE_LIMIT_BURST, 4),
    )
    for name, place in settings:
        one, other = here[place], in_force[place]
        # A burst belongs to a rate, or to `auto`.
        if one != other and not (name == names.RATE_LIMIT_BURST and -1 in (one, other)):
            differing.append((name, _limit(one), _limit(other)))
    return ", ".join(f"{name} is {one} here and {other} there" for name, one, other in differing)


def _end(error: StoreError) -> str:
    if isinstance(error, SyncFailed):
        return "they succeed"
    if isinstance(error, StoreRefused):
        return "that is corrected"
    return "it can" if isinstance(error, StoreUnready) else "it does"


def _rate(period: int) -> str:
    return "auto" if period < 0 else f"{SECOND / period:.6g}"


def _limit(value: int) -> str:
    return "not set" if value < 0 else str(value)
