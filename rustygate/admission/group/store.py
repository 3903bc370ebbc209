"""The store of a group: where its scheduler runs, for all members; and what can go wrong.

    StoreError
     +-- StoreUnavailable   not now; a later call may succeed
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


class StoreRefused(StoreUnavailable):
    """The store will not serve this member as it is configured."""


class SyncFailed(StoreError):
    """The scheduler itself failed, a defect. The group's state is as before the call."""


class Store(Protocol):
    """Runs `GroupScheduler.sync` for a member, somewhere else."""

    async def sync(self, call: Call) -> Reply:
        """One call of the member. Raises StoreError.

        Cancelling it, or StoreUnavailable, leaves open whether the scheduler got the call.
        """
        ...

    async def close(self) -> None:
        """Close the connection, if there is one."""
        ...
