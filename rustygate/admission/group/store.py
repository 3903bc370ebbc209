"""The store of a group: where its scheduler runs, for all members."""

from typing import Any, Protocol

Call = dict[str, Any]
Reply = dict[str, Any]


class StoreUnavailable(Exception):
    """The store cannot be reached or did not answer. The message says why; it has no secret."""


class Store(Protocol):
    """Runs `GroupScheduler.sync` for a member, somewhere else."""

    async def sync(self, call: Call) -> Reply:
        """One call of the member. Raises StoreUnavailable.

        Cancelling it, or an error, leaves open whether the scheduler got the call.
        """
        ...

    async def close(self) -> None:
        """Close the connection, if there is one."""
        ...
