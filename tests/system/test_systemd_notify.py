"""What the service manager is told, and that it need not be there."""

import asyncio
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rustygate.system.systemd import ServiceManager
from tests.support.gate import logged
from tests.support.waiting import SOON_S


@pytest.fixture(params=["a path", "an abstract name"])
def told(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """The manager's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(SOON_S)
        by_path = request.param == "a path"
        sock.bind(str(tmp_path / "notify") if by_path else f"\0rustygate-{os.getpid()}")
        yield sock


def environ(told: socket.socket, **variables: object) -> dict[str, str]:
    name = os.fsdecode(told.getsockname()).replace("\0", "@")
    return {"NOTIFY_SOCKET": name} | {key: str(value) for key, value in variables.items()}


def test_manager_is_told_each_state(told: socket.socket) -> None:
    manager = ServiceManager(environ(told))
    manager.ready()
    before = time.monotonic_ns() // 1000
    manager.reloading()
    manager.stopping()
    assert told.recv(100) == b"READY=1"
    reloading = re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=(\d+)", told.recv(100))
    assert reloading is not None
    assert before <= int(reloading[1]) <= time.monotonic_ns() // 1000
    assert told.recv(100) == b"STOPPING=1"


def test_variables_are_for_this_process_alone(told: socket.socket) -> None:
    given = environ(told, WATCHDOG_USEC=1000, WATCHDOG_PID=os.getpid(), OTHER=1)
    ServiceManager(given)
    assert given == {"OTHER": "1"}


@pytest.mark.parametrize("pid", [{}, {"WATCHDOG_PID": os.getpid()}], ids=["", "by number"])
async def test_signs_of_life_come_twice_an_interval(
    told: socket.socket, pid: dict[str, int]
) -> None:
    began = time.monotonic()
    ServiceManager(environ(told, WATCHDOG_USEC=200_000, **pid)).ready()
    assert told.recv(100) == b"READY=1"
    for _ in range(3):
        assert await asyncio.to_thread(told.recv, 100) == b"WATCHDOG=1"
    assert time.monotonic() - began >= 2 * 0.1


async def test_loop_that_is_stuck_gives_no_sign_of_life(told: socket.socket) -> None:
    ServiceManager(environ(told, WATCHDOG_USEC=20_000)).ready()
    assert [told.recv(100) for _ in range(2)] == [b"READY=1", b"WATCHDOG=1"]
    told.settimeout(0.1)
    # It blocks the loop.
    with pytest.raises(TimeoutError):
        told.recv(100)


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "x"},
        {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"},
    ],
    ids=["unasked", "of no time", "of no number", "of another process"],
)
async def test_no_sign_of_life_is_given(told: socket.socket, asked: dict[str, str]) -> None:
    manager = ServiceManager(environ(told, **asked))
    manager.ready()
    assert manager._watchdog_timer is None


def test_nobody_need_be_told() -> None:
    with logged() as log:
        manager = ServiceManager({})
        manager.ready()
        manager.reloading()
        manager.stopping()
    assert log.text == ""


@pytest.mark.parametrize("name", ["/nowhere/notify", "@nobody", "x" * 200, "vsock:1:2"])
def test_manager_that_cannot_be_told_does_no_harm(name: str) -> None:
    with logged() as log:
        ServiceManager({"NOTIFY_SOCKET": name}).ready()
    assert log.text.startswith("cannot notify the service manager of READY=1: ")
