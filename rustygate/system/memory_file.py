"""Anonymous files, in memory where the system supports it."""

import os
from tempfile import TemporaryFile


def new_memory_file(name: str) -> int:
    """The descriptor of an empty file; `name` is shown by the system's tools."""
    try:
        return os.memfd_create(name)
    except AttributeError:
        # Not on Linux.
        with TemporaryFile() as file:
            return os.dup(file.fileno())
