"""The time that a call to a group's store may take."""

CALL_LIMIT_S = 0.1

# The first call after the start also connects and loads the script, and no request can have been
# admitted before it.
FIRST_CALL_LIMIT_S = 1.0


def call_limit_s(*, first: bool) -> float:
    """The time limit of a call, in seconds.

    Args:
        first: whether it is the first call after the start.
    """
    return FIRST_CALL_LIMIT_S if first else CALL_LIMIT_S
