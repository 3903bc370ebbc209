"""What other libraries and Python itself report: it ends in the log, without values."""

import asyncio
import logging
import re
import sys
import threading
import warnings

import aiohttp.log
import pytest

from rustygate.telemetry import log
from rustygate.telemetry.log import configure
from tests.support.log_lines import TIMESTAMP, written_lines

pytestmark = pytest.mark.usefixtures("restored_logging")


@pytest.mark.parametrize("name", ["access", "client", "internal", "server", "web", "ws"])
def test_aiohttp_is_silent(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    configure("trace", "text")
    chatty: logging.Logger = getattr(aiohttp.log, f"{name}_logger")
    assert not chatty.isEnabledFor(logging.CRITICAL)
    chatty.setLevel(logging.DEBUG)
    chatty.critical("sk-canary")
    chatty.setLevel(logging.NOTSET)
    assert written_lines(capfd) == []


async def test_asyncio_reports_without_values(capfd: pytest.CaptureFixture[str]) -> None:
    configure("warn", "text")
    done = asyncio.Event()

    def fail(secret: str) -> None:
        done.set()
        raise ValueError(secret)

    asyncio.get_running_loop().call_soon(fail, "sk-canary")
    await done.wait()
    await asyncio.sleep(0)
    out = capfd.readouterr().err
    name = test_asyncio_reports_without_values.__name__
    assert re.match(rf"{TIMESTAMP} ERROR asyncio: Exception in callback {name}\.\n", out)
    assert "sk-canary" not in out
    assert out.endswith("ValueError\n")


async def test_running_out_of_files_is_logged_once(capfd: pytest.CaptureFixture[str]) -> None:
    """asyncio reports it once for each connection in the backlog, with a traceback each time."""
    configure("warn", "text")
    context = {"message": "socket.accept() out of system resource", "exception": OSError(24)}
    for _ in range(3):
        asyncio.get_running_loop().call_exception_handler(context)
    [line] = written_lines(capfd)
    assert line.endswith("cannot accept connections: too many open files")


def test_running_out_of_files_is_logged_again_after_a_minute(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first time also right after the machine has started."""
    configure("warn", "text")
    counts = []
    for now in 0.0, 59.9, 60.0, 119.9:
        monkeypatch.setattr(log, "monotonic", lambda now=now: now)
        logging.getLogger("asyncio").error("socket.accept() out of system resource\nsocket: 7")
        counts.append(len(written_lines(capfd)))
    assert counts == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("message", "written"),
    [
        ("strange: 7", "strange: 7"),
        ("task failed\ntask: 7", "task failed"),
        ("called back (7)", "called back"),
        ("unclosed <socket 7>", "unclosed"),
        ("first <7> then (8)", "first"),
    ],
    ids=["nothing", "lines", "parenthesis", "object", "several"],
)
@pytest.mark.parametrize(
    ("level", "shown"),
    [(logging.WARNING, " WARN"), (logging.ERROR, "ERROR"), (logging.CRITICAL, "ERROR")],
    ids=["warning", "error", "critical"],
)
def test_message_of_another_library_is_cut_before_its_values(
    level: int, shown: str, message: str, written: str, capfd: pytest.CaptureFixture[str]
) -> None:
    configure("info", "text")
    logging.getLogger("some.library").log(level, message)
    [line] = written_lines(capfd)
    assert re.fullmatch(rf"{TIMESTAMP} {shown} some.library: {written}", line)


def test_other_libraries_warn_without_values(capfd: pytest.CaptureFixture[str]) -> None:
    configure("info", "text")
    library = logging.getLogger("some.library")
    library.info("below warning")
    library.warning("strange: %s", "sk-canary")
    [line] = written_lines(capfd)
    assert line.endswith("  WARN some.library: strange: %s")


def test_exception_in_a_finalizer_is_logged_without_values(
    capfd: pytest.CaptureFixture[str],
) -> None:
    class Broken:
        def __del__(self) -> None:
            raise ValueError("sk-" + "canary")

    configure("info", "text")
    Broken()
    out = capfd.readouterr().err
    assert "exception in a finalizer\n" in out
    assert "ValueError" in out
    assert "sk-canary" not in out


def test_exception_in_a_thread_is_logged_without_values(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ValueError("sk-" + "canary")

    configure("info", "text")
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    out = capfd.readouterr().err
    assert "exception in a thread\n" in out
    assert out.endswith("ValueError\n")
    assert "sk-canary" not in out


def test_uncaught_exception_is_logged_without_values(capfd: pytest.CaptureFixture[str]) -> None:
    configure("info", "text")
    error = ValueError("sk-canary")
    sys.excepthook(ValueError, error, None)
    assert "uncaught exception\nValueError\n" in capfd.readouterr().err


def test_warning_is_logged_without_values(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        configure("info", "text")
        warnings.warn("unclosed <socket sk-canary>", ResourceWarning, stacklevel=1)
    [line] = written_lines(capfd)
    assert "ResourceWarning: unclosed" in line
    assert "sk-canary" not in line
