"""`RUST_LOG` directives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.log_levels import is_debug, is_trace, parse_rust_log


@pytest.mark.parametrize(
    ("rust_log", "levels"),
    [
        ("info", {"": "INFO"}),
        ("WARN", {"": "WARNING"}),
        ("off", {"": False}),
        ("rustygate=info", {"": "ERROR", "rustygate": "INFO"}),
        ("rustygate=info,other=debug", {"": "ERROR", "rustygate": "INFO"}),
        ("other=debug", {"": "ERROR"}),
        ("warn, rustygate = Debug ,", {"": "WARNING", "rustygate": "DEBUG"}),
        ("rustygate::proxy=trace,off", {"": False, "rustygate.proxy": "TRACE"}),
        ("rustygate.proxy=trace,off", {"": False, "rustygate.proxy": "TRACE"}),
        ("rustygate", {"": "ERROR", "rustygate": "TRACE"}),
        ("info,debug", {"": "DEBUG"}),
        ("my-crate::x=info,rustygates=info", {"": "ERROR"}),
    ],
)
def test_parses_directives(rust_log: str, levels: dict[str, str | bool]) -> None:
    assert parse_rust_log(rust_log) == levels


@pytest.mark.parametrize(
    "rust_log",
    [
        *("", ",", "loud", "warning", "other", "info/regex", "3", "=info", "a b=info", "a=b=info"),
        *(
            "rustygate=",
            "rustygate=loud",
            "other=loud",
            "rustygate[span]=info",
            "rustygate::=info",
        ),
    ],
)
def test_invalid_directive_is_rejected(rust_log: str) -> None:
    with pytest.raises(ValueError, match=r"^no(t a)? directive$"):
        parse_rust_log(rust_log)


@given(st.text())
def test_any_text_is_parsed_or_rejected(rust_log: str) -> None:
    try:
        assert "" in parse_rust_log(rust_log)
    except ValueError:
        return


@pytest.mark.parametrize(
    ("rust_log", "debug", "trace"),
    [
        ("info", False, False),
        ("debug", True, False),
        ("trace", True, True),
        ("info,rustygate.proxy=trace", True, True),
        ("info,other=trace", False, False),
    ],
)
def test_most_detailed_level_of_the_gate_is_known(rust_log: str, debug: bool, trace: bool) -> None:
    assert (is_debug(rust_log), is_trace(rust_log)) == (debug, trace)
