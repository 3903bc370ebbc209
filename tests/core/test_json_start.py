"""The members of a JSON object that has not arrived completely."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.json_start import members_in_start

NAMES = {b"model", b"stream"}
MODEL = {b"model": b'"gpt-4o"'}


@pytest.mark.parametrize(
    "start",
    [
        b'{"model":"gpt-4o",',
        b' \r\n\t{ "model" : "gpt-4o" , "messages": [',
        b'{"model":"gpt-4o"}',
        b'{"a":{"model":"x","b":["}",{"c":"]\\""}]},"model":"gpt-4o",',
        b'{"a":"\\",\\"model\\":\\"x\\"","model":"gpt-4o","x":"unfinished',
        b'{"a":[[],[{}],"model",{"model":"x"}],"b":-1.5e9,"c":null,"model":"gpt-4o","d":[[[',
        b'{"model":"first","model":"gpt-4o",',
        '{"a":"ä☃","model":"gpt-4o","b":"ü'.encode(),
        b'{"model":"gpt-4o","stream":tru',
        b'{"model":"gpt-4o","stream":true',
        b'{"model":"gpt-4o", broken',
    ],
)
def test_complete_members_are_read(start: bytes) -> None:
    assert members_in_start(start, NAMES) == MODEL


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"{",
        b'{"model',
        b'{"model"',
        b'{"model":',
        b'{"model":"gpt-4',
        b'{"model":"gpt-4o"',
        b'["model","gpt-4o",{"model":"x"}]',
        b',"model":"gpt-4o",',
        b'{"x":{"model":"gpt-4o",',
        b'{"x":"{\\"model\\":\\"gpt-4o\\",',
        b'{"model" "gpt-4o",',
        b'{"x":1 "model":"gpt-4o",',
        b"\xff\xfe{\x00",
        b"--x\r\n",
    ],
)
def test_nothing_else_is_read(start: bytes) -> None:
    assert members_in_start(start, NAMES) == {}


def test_all_scalars_are_returned_as_json() -> None:
    start = b'{"model": "a\\u00e4", "stream": false, "x": 1'
    assert members_in_start(start, NAMES) == {b"model": b'"a\\u00e4"', b"stream": b"false"}


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(
    st.dictionaries(st.sampled_from(["model", "stream", "a", "b"]), values),
    st.booleans(),
    st.integers(0, 500),
)
def test_start_shows_what_the_whole_has(
    document: dict[str, Any], is_ascii: bool, cut: int
) -> None:
    """And never anything else, wherever the start ends."""
    whole = json.dumps(document, ensure_ascii=is_ascii).encode()
    scalars = {
        name.encode(): value
        for name, value in document.items()
        if name.encode() in NAMES and not isinstance(value, list | dict)
    }
    found = {
        name: json.loads(value)
        for name, value in members_in_start(whole, NAMES).items()
        if value not in {b"{", b"["}
    }
    assert found == scalars
    in_start = members_in_start(whole[:cut], NAMES)
    assert in_start.items() <= members_in_start(whole, NAMES).items()


@given(st.binary())
def test_any_bytes_are_a_start(start: bytes) -> None:
    assert members_in_start(start, NAMES).keys() <= NAMES


@pytest.mark.parametrize(
    "start",
    [
        b'{"a":' + b"[" * 65_000,
        b'{"a":[' + b'"",' * 20_000,
        b'{"' + b'\\"' * 32_000,
        b"{" + b'"a":1,' * 10_000,
        b'{"a":' + b" " * 65_000,
        b'{"a":1' * 10_000,
    ],
    ids=lambda start: repr(start[:12]),
)
def test_hostile_starts_take_little_time(start: bytes) -> None:
    began = time.process_time()
    members_in_start(start, NAMES)
    # A few milliseconds; a collection of garbage may come in between.
    assert time.process_time() - began < 0.5
