"""The store of a group: where its scheduler runs, for all members; and what can go wrong.

    StoreError
     +-- StoreUnavailable   not now; a later call may succeed
     |    +-- StoreUnready  it answers, but does not serve the group at the moment
     |    +-- StoreRefused  not before somebody changes a setting, here or there
     +-- SyncFailed         the call reached the scheduler, and that failed

Messages are plain reasons, without user, password or key.
"""

from typing import Any, Protocol

Call = dict[str, Any]
Reply = dict[str, Any]


class StoreError(Exception):
    """A call without a reply."""


class StoreUnavailable(StoreError):
    """The store cannot be reached or did not answer in time."""


def no_answer(limit_s: float) -> StoreUnavailable:
    """The error of a call that took longer than its limit."""
    return StoreUnavailable(f"no answer within {limit_s * 1000:g} ms")


class StoreUnready(StoreUnavailable):
    """The store answers, but cannot serve requests at the moment."""


class StoreRefused(StoreUnavailable):
    """The store will not serve this member as it is configured."""


class SyncFailed(StoreError):
    """The scheduler itself failed: a defect, or the group's data is damaged. The group's state is
    as before the call.

    Attributes:
        detail: the message of the script's interpreter.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.detail = detail


class Store(Protocol):
    """Runs `GroupScheduler.sync` for a member, somewhere else."""

    async def sync(self, call: Call, limit_s: float) -> Reply:
        """Make one call for the member, within `limit_s`. Raises StoreError.

        Cancelling it, or StoreUnavailable, leaves open whether the scheduler got the call.
        """
        ...

    async def close(self) -> None:
        """Close the connection, if there is one."""
        ...
