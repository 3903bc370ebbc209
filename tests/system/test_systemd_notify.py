"""Notifications to the service manager, and what happens without one."""

import asyncio
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rustygate.system.systemd import ServiceManager
from tests.support.gate import captured_log
from tests.support.waiting import SOON_S


@pytest.fixture(params=["a path", "an abstract name"])
def notifications(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """The manager's socket, which receives the notifications."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(SOON_S)
        by_path = request.param == "a path"
        sock.bind(str(tmp_path / "notify") if by_path else f"\0rustygate-{os.getpid()}")
        yield sock


def environ(notifications: socket.socket, **variables: object) -> dict[str, str]:
    name = os.fsdecode(notifications.getsockname()).replace("\0", "@")
    return {"NOTIFY_SOCKET": name} | {key: str(value) for key, value in variables.items()}


def test_each_state_is_sent(notifications: socket.socket) -> None:
    manager = ServiceManager(environ(notifications))
    manager.ready()
    before = time.monotonic_ns() // 1000
    manager.reloading()
    manager.stopping()
    assert notifications.recv(100) == b"READY=1"
    reloading = re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=(\d+)", notifications.recv(100))
    assert reloading is not None
    assert before <= int(reloading[1]) <= time.monotonic_ns() // 1000
    assert notifications.recv(100) == b"STOPPING=1"


def test_variables_are_removed_from_the_environment(notifications: socket.socket) -> None:
    given = environ(notifications, WATCHDOG_USEC=1000, WATCHDOG_PID=os.getpid(), OTHER=1)
    ServiceManager(given)
    assert given == {"OTHER": "1"}


@pytest.mark.parametrize(
    "pid", [{}, {"WATCHDOG_PID": os.getpid()}], ids=["any process", "this process"]
)
async def test_watchdog_is_fed_twice_per_timeout(
    notifications: socket.socket, pid: dict[str, int]
) -> None:
    began = time.monotonic()
    ServiceManager(environ(notifications, WATCHDOG_USEC=200_000, **pid)).ready()
    assert notifications.recv(100) == b"READY=1"
    for _ in range(3):
        assert await asyncio.to_thread(notifications.recv, 100) == b"WATCHDOG=1"
    assert time.monotonic() - began >= 2 * 0.1


async def test_blocked_event_loop_does_not_feed_the_watchdog(notifications: socket.socket) -> None:
    ServiceManager(environ(notifications, WATCHDOG_USEC=20_000)).ready()
    assert [notifications.recv(100) for _ in range(2)] == [b"READY=1", b"WATCHDOG=1"]
    notifications.settimeout(0.1)
    # Receiving blocks the event loop.
    with pytest.raises(TimeoutError):
        notifications.recv(100)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "x"},
        {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"},
    ],
    ids=["unset", "zero", "not a number", "other process"],
)
async def test_watchdog_stays_off(notifications: socket.socket, variables: dict[str, str]) -> None:
    manager = ServiceManager(environ(notifications, **variables))
    manager.ready()
    assert manager._watchdog_timer is None


def test_no_manager_is_not_an_error() -> None:
    with captured_log() as log:
        manager = ServiceManager({})
        manager.ready()
        manager.reloading()
        manager.stopping()
    assert log.text == ""


@pytest.mark.parametrize("name", ["/nowhere/notify", "@missing", "x" * 200, "vsock:1:2"])
def test_unreachable_manager_is_only_a_warning(name: str) -> None:
    with captured_log() as log:
        ServiceManager({"NOTIFY_SOCKET": name}).ready()
    assert log.text.startswith("cannot notify the service manager of READY=1: ")
