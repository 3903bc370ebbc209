"""Fixtures of the log's tests."""

import logging
import sys
import threading
from collections.abc import Iterator

import pytest
from loguru import logger


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """The test may configure the log."""
    root, silent = logging.root, logging.getLogger("aiohttp")
    before = root.handlers, root.level, silent.handlers, silent.level, silent.propagate
    hooks = sys.excepthook, sys.unraisablehook, threading.excepthook
    yield
    sys.excepthook, sys.unraisablehook, threading.excepthook = hooks
    logging.captureWarnings(False)
    logger.remove()
    root.handlers, root.level, silent.handlers, silent.level, silent.propagate = before
    logging.root.manager._clear_cache()  # type: ignore[attr-defined]
