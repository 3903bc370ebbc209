"""Log lines: their format, which ones are written, and what they never contain."""

import json
import os
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loguru import logger

from rustygate.telemetry import log
from rustygate.telemetry.log import configure, format_exception, log_lines
from tests.support.log_lines import TIMESTAMP, written_lines

pytestmark = pytest.mark.usefixtures("restored_logging")


def logged_levels(rust_log: str, name: str, capfd: pytest.CaptureFixture[str]) -> list[str]:
    """The levels at which lines of a module are written."""
    configure(rust_log, "json")
    module = logger.patch(lambda record: record.update({"name": name}))
    for level in ("TRACE", "DEBUG", "INFO", "WARNING", "ERROR"):
        module.log(level, "message")
    return [json.loads(line)["level"] for line in written_lines(capfd)]


@pytest.mark.parametrize(
    ("rust_log", "name", "levels"),
    [
        ("info", "rustygate.proxy", ["info", "warn", "error"]),
        ("off", "rustygate.proxy", []),
        ("rustygate=warn", "rustygate.proxy", ["warn", "error"]),
        ("rustygate=off", "rustygate.proxy", []),
        ("error,rustygate::proxy=info", "rustygate.proxy", ["info", "warn", "error"]),
        ("error,rustygate::proxy=info", "rustygate.relay.pipe", ["error"]),
        ("off,rustygate=warn,rustygate::proxy=off", "rustygate.proxy", []),
        ("off,rustygate=warn,rustygate::proxy=off", "rustygate.relay.pipe", ["warn", "error"]),
        ("rustygate=trace", "asyncio", ["error"]),
    ],
)
def test_most_specific_directive_wins(
    rust_log: str, name: str, levels: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert logged_levels(rust_log, name, capfd) == levels


def test_text_line_has_time_level_target_message_and_fields(
    capfd: pytest.CaptureFixture[str],
) -> None:
    configure("info", "text")
    logger.bind(id="1f-2", model=None, path="/v1/x", status=200, client="müller").info("exchange")
    [line] = written_lines(capfd)
    sentence = rf"{__name__}: exchange id=1f-2 path=/v1/x status=200 client=müller"
    assert re.fullmatch(rf"{TIMESTAMP}  INFO {sentence}", line)


@pytest.mark.parametrize(
    ("level", "color"),
    [("TRACE", 2), ("DEBUG", 2), ("INFO", 32), ("WARNING", 33), ("ERROR", 31)],
)
def test_terminal_shows_levels_in_color(
    level: str, color: int, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "has_color", lambda descriptor: descriptor == 2)
    configure("trace", "text")
    logger.log(level, "exchange", id=1)
    [line] = written_lines(capfd)
    word = level.removesuffix("ING")
    colored = rf"\x1b\[2m{TIMESTAMP}\x1b\[0m \x1b\[{color}m{word:>5}\x1b\[0m "
    assert re.fullmatch(rf"{colored}\x1b\[2m{__name__}:\x1b\[0m exchange id=1", line)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a b", '"a b"'),
        ('a"b', r'"a\"b"'),
        ("a\\b", r'"a\\b"'),
        ("a=b", '"a=b"'),
        ("", ""),
        ("x\n2026-01-01T00:00:00.000Z ERROR", r'"x\n2026-01-01T00:00:00.000Z ERROR"'),
        ("a\x1b[31mb", r'"a\u001b[31mb"'),
        ("a\x7fb", r'"a\u007fb"'),
        ("a\u2028b", r'"a\u2028b"'),
        ("a\u202eb", r'"a\u202eb"'),
        ("\ud800", r'"\ud800"'),
        ("fa ço", '"fa ço"'),
        (["a b"], '''"['a b']"'''),
        (1.5, "1.5"),
    ],
)
def test_value_is_quoted_if_necessary(
    value: object, expected: str, capfd: pytest.CaptureFixture[str]
) -> None:
    configure("info", "text")
    logger.bind(first=1, value=value).info("exchange")
    [line] = written_lines(capfd)
    assert line.endswith(f"exchange first=1 value={expected}")


@pytest.mark.parametrize(("model", "written"), [("gpt-4o", "gpt-4o"), ("a b", '"a b"')])
def test_true_is_written_alike_beside_plain_and_quoted_values(
    model: str, written: str, capfd: pytest.CaptureFixture[str]
) -> None:
    configure("info", "text")
    logger.bind(model=model, tokens_estimated=True, attempts=1).info("exchange")
    [line] = written_lines(capfd)
    assert line.endswith(f"exchange model={written} tokens_estimated=true attempts=1")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters()), st.sampled_from(["text", "json"]))
def test_values_cannot_forge_a_line(
    capfd: pytest.CaptureFixture[str], text: str, log_format: str
) -> None:
    configure("info", log_format)
    logger.bind(value=text, other=text).info("{}", text)
    out = capfd.readouterr().err
    assert out.count("\n") == 1
    assert out.endswith("\n")
    assert "\r" not in out
    if log_format == "text":
        assert out[:-1].isprintable()


def test_json_line_has_its_fields_at_the_top_level(capfd: pytest.CaptureFixture[str]) -> None:
    configure("info", "json")
    fields: dict[str, Any] = {"id": "1f", "model": None, "status": 200, "cost": 1.5, "it": "é\n"}
    logger.bind(**fields).warning("exchange")
    [line] = written_lines(capfd)
    expected = json.loads(line)
    assert re.fullmatch(TIMESTAMP, expected.pop("time"))
    assert expected == {"level": "warn", "target": __name__, "message": "exchange", **fields}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (object, "<class 'object'>"),
        (pytest, str(pytest)),
        ("a\ud800b", "a?b"),
        ("\u2028", "\u2028"),
        (float("nan"), None),
        ({"a": ("b",)}, {"a": ["b"]}),
    ],
    ids=["class", "module", "surrogate", "separator", "nan", "nested"],
)
def test_json_encodes_any_value(
    value: object, expected: object, capfd: pytest.CaptureFixture[str]
) -> None:
    configure("info", "json")
    logger.bind(value=value).info("exchange")
    [line] = written_lines(capfd)
    assert json.loads(line)["value"] == expected
    assert '"message":"exchange","value":' in line


@pytest.mark.parametrize("character", ["\x85", "\x9b", "\u2028", "\u2029", "\u202e"])
def test_json_escapes_line_separators_and_control_characters(
    character: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """For some readers U+0085 and U+2028 end a line; terminals obey U+009B."""
    configure("info", "json")
    logger.bind(value=f"é{character}").info("exchange")
    out = capfd.readouterr().err
    assert out.splitlines() == [out[:-1]]
    assert character not in out
    assert json.loads(out)["value"] == f"é{character}"


def test_json_keeps_printable_characters_readable(capfd: pytest.CaptureFixture[str]) -> None:
    configure("info", "json")
    logger.bind(value="é日🙂").info("exchange")
    [line] = written_lines(capfd)
    assert '"value":"é日🙂"' in line


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_exception_is_logged_as_traceback_and_type(
    log_format: str, capfd: pytest.CaptureFixture[str]
) -> None:
    configure("info", log_format)
    secret = "sk-" + "canary"
    try:
        try:
            raise KeyError(secret)
        except KeyError as error:
            raise ValueError(f"for {secret}") from error
    except ValueError:
        logger.exception("it failed")
    out = capfd.readouterr().err
    assert secret not in out
    assert out.index("KeyError") < out.rindex("ValueError")
    assert "test_exception_is_logged_as_traceback_and_type" in out
    if log_format == "json":
        fields = json.loads(out)
        assert fields["message"] == "it failed"
        assert fields["exception"].endswith("\nValueError\n")


@pytest.mark.parametrize(
    ("hidden", "types"),
    [(False, ["KeyError", "ValueError"]), (True, ["ValueError"])],
    ids=["shown", "hidden"],
)
def test_context_of_an_exception_is_logged_unless_it_is_hidden(
    hidden: bool, types: list[str]
) -> None:
    error = ValueError()
    error.__context__ = KeyError()
    error.__suppress_context__ = hidden
    assert format_exception(error).splitlines() == types


def test_innermost_frames_of_a_long_traceback_are_logged() -> None:
    """A frame of each of two functions in turn: equal ones would be shown as one."""

    def other(depth: int) -> None:
        innermost(depth)

    def innermost(depth: int) -> None:
        if depth == 0:
            raise ZeroDivisionError
        other(depth - 1)

    with pytest.raises(ZeroDivisionError) as raised:
        innermost(100)
    lines = format_exception(raised.value).splitlines()
    frames = [line.rpartition(" ")[2] for line in lines if line.startswith("  File ")]
    assert frames == [other.__name__, innermost.__name__] * 15
    assert lines[-1] == "ZeroDivisionError"


def test_cycle_of_causes_ends(capfd: pytest.CaptureFixture[str]) -> None:
    configure("info", "text")
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    logger.opt(exception=first).error("it failed")
    assert written_lines(capfd)[1:] == ["KeyError", "ValueError"]


def test_lost_lines_are_logged(capfd: pytest.CaptureFixture[str]) -> None:
    configure("info", "text")
    assert log._Sink.current is not None
    log._Sink.current._output._on_loss(3)
    [line] = written_lines(capfd)
    sentence = "3 log lines were lost: the reader of stderr did not keep up"
    assert re.fullmatch(rf"{TIMESTAMP}  WARN rustygate.telemetry.log: {sentence}", line)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_line_that_cannot_be_rendered_contains_no_values(
    log_format: str, capfd: pytest.CaptureFixture[str]
) -> None:
    class Broken:
        def __str__(self) -> str:
            raise ValueError("sk-" + "canary")

        __repr__ = __str__

    configure("info", log_format)
    logger.info("exchange", value=Broken())
    out = capfd.readouterr().err
    assert out.startswith("a log line could not be written\n")
    assert out.endswith("ValueError\n")
    assert "sk-canary" not in out


def test_configuring_again_replaces_the_sink(capfd: pytest.CaptureFixture[str]) -> None:
    configure("info", "text")
    configure("info", "json")
    logger.info("once")
    [line] = written_lines(capfd)
    assert json.loads(line)["message"] == "once"


def test_closed_stderr_pipe_is_ignored(capfd: pytest.CaptureFixture[str]) -> None:
    configure("info", "text")
    kept = os.dup(2)
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)
    os.close(reading)
    try:
        logger.info("unread")
    finally:
        os.dup2(kept, 2)
        os.close(kept)
    logger.info("read")
    [line] = written_lines(capfd)
    assert line.endswith("read")


def test_without_stderr_nothing_is_written(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Descriptor 2 may have been reused for a socket."""
    monkeypatch.setattr("sys.stderr", None)
    configure("info", "text")
    logger.info("to a socket")
    assert written_lines(capfd) == []


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_record_can_be_written_as_several_lines(
    capfd: pytest.CaptureFixture[str], log_format: str
) -> None:
    configure("info", log_format)
    logger.info("exchange", lines=[{"id": "1", "path": "/v1/x"}, {"id": "2"}])
    first, second = capfd.readouterr().err.splitlines()
    assert ('"id":"1"' in first) if log_format == "json" else first.endswith("id=1 path=/v1/x")
    assert ('"id":"2"' in second) if log_format == "json" else second.endswith("exchange id=2")
    assert "lines" not in first + second


def log_two(target: str) -> None:
    log_lines(target, "exchange", iter([{"id": "1", "path": "/v1/x"}, {"id": "2"}]))


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_lines_are_written_like_those_of_records(
    capfd: pytest.CaptureFixture[str], log_format: str
) -> None:
    configure("info", log_format)
    log_two(__name__)
    logger.info("exchange", id="1", path="/v1/x")
    logger.info("exchange", id="2")
    lines = re.sub(TIMESTAMP, "now", capfd.readouterr().err).splitlines()
    assert len(lines) == 4
    assert lines[:2] == lines[2:]


@pytest.mark.parametrize(
    ("rust_log", "written"),
    [
        ("info", True),
        ("debug", True),
        ("trace", True),
        ("warn", False),
        ("off", False),
        ("rustygate=info", True),
        ("rustygate=off", False),
        ("info,rustygate.telemetry=error", False),
        ("warn,rustygate::telemetry::ledger=info", True),
        ("warn,rustygate.proxy=info", False),
    ],
)
def test_lines_are_written_at_info_level(
    rust_log: str, written: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    configure(rust_log, "text")
    log_two("rustygate.telemetry.ledger")
    assert len(written_lines(capfd)) == 2 * written


def test_unwritable_lines_do_not_raise(capfd: pytest.CaptureFixture[str]) -> None:
    configure("info", "text")
    log_lines(__name__, "exchange", [{"id": 10**5000}])
    out = capfd.readouterr().err
    assert out.startswith("a log line could not be written\n")
    assert out.endswith("ValueError\n")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_lines_have_the_time(capfd: pytest.CaptureFixture[str], log_format: str) -> None:
    configure("info", log_format)
    before = datetime.now(UTC)
    logger.info("of a record")
    log_two(__name__)
    after = datetime.now(UTC)
    times = [
        datetime.fromisoformat(each) for each in re.findall(TIMESTAMP, capfd.readouterr().err)
    ]
    assert len(times) == 3
    assert before - timedelta(milliseconds=1) < min(times) <= max(times) <= after


def test_message_cannot_forge_a_text_line(capfd: pytest.CaptureFixture[str]) -> None:
    configure("info", "text")
    log_lines(__name__, 'a\n"b', [{"id": "1"}])
    [line] = written_lines(capfd)
    assert line.endswith(rf"{__name__}: a\n\"b id=1")


def test_sinks_of_others_get_one_record_for_all_lines() -> None:
    configure("info", "text")
    logger.remove()
    records: list[Any] = []
    logger.add(lambda message: records.append(message.record))
    eval("log_two('ignored')", {"__name__": "another", "log_two": log_two})
    [record] = records
    written = record["name"], record["level"].name, record["message"]
    assert written == (__name__, "INFO", "exchange")
    assert record["extra"] == {"lines": [{"id": "1", "path": "/v1/x"}, {"id": "2"}]}
