"""The upstream of the command line's tests."""

import socket
from collections.abc import Iterator

import pytest

from tests.support.process import PROCESS_TIMEOUT_S


@pytest.fixture
def upstream() -> Iterator[socket.socket]:
    """A listening socket on which the test plays upstream."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PROCESS_TIMEOUT_S)
        yield listener
