"""A directory that cannot be written to, not even by root, and one that is soon full."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def read_only(directory: Path) -> Iterator[Path]:
    """A read-only file system at `directory`; skips the test if none can be mounted."""
    with _mounted(directory, "ro"):
        yield directory


@contextmanager
def small_disk(directory: Path, size: int) -> Iterator[Path]:
    """A file system of `size` bytes at `directory`; skips the test if none can be mounted."""
    with _mounted(directory, f"size={size}"):
        yield directory


def make_read_only(disk: Path) -> None:
    _remount(disk, "ro")


def make_writable(disk: Path) -> None:
    _remount(disk, "rw")


def _remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


@contextmanager
def _mounted(directory: Path, options: str) -> Iterator[None]:
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "none", str(directory)]
    mounted = subprocess.run(mount, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a file system needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)
