"""The text fields of forms, as clients send them and as no client should."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustygate.core.forms import (
    FIELDS_LIMIT,
    NAME_LIMIT,
    VALUE_LIMIT,
    Form,
    boundary_in,
    is_form,
    read_form,
)

TYPE = "multipart/form-data; boundary=x"
URL_ENCODED = "application/x-www-form-urlencoded"
FILE = 'form-data; name="image"; filename="a.png"\r\nContent-Type: image/png'
MODEL = 'form-data; name="model"'


def part(disposition: str, value: bytes = b"gpt-4o", boundary: str = "x") -> bytes:
    head = f"--{boundary}\r\nContent-Disposition: {disposition}\r\n\r\n"
    return head.encode() + value + b"\r\n"


def form(*parts: bytes, end: bytes = b"--x--\r\n") -> bytes:
    return b"".join(parts) + end


def read(*parts: bytes, end: bytes = b"--x--\r\n") -> Form:
    return read_form(form(*parts, end=end), TYPE)


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("multipart/form-data; boundary=x", True),
        ("Multipart/Form-Data; boundary=x", True),
        ("multipart/related", True),
        ("application/x-www-form-urlencoded; charset=utf-8", True),
        ("application/json", False),
        ("text/multipart/form-data", False),
        ("", False),
    ],
)
def test_forms_are_recognized_by_their_type(content_type: str, expected: bool) -> None:
    assert is_form(content_type) is expected


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=----WebKitFormBoundaryx", b"----WebKitFormBoundaryx"),
        ("multipart/form-data;BOUNDARY = Abc; charset=utf-8", b"Abc"),
        ('multipart/form-data; boundary="a; b=\\"c"', b'a; b="c'),
        ('multipart/form-data; charset="x"; boundary="gc0p4Jq0M:2Yt08jU534c0p"',
         b"gc0p4Jq0M:2Yt08jU534c0p"),
        ("multipart/form-data", None),
        ("multipart/form-data; boundary=", None),
        ('multipart/form-data; boundary=""', None),
        ("multipart/form-data; boundary=x; boundary=y", None),
        ("multipart/form-data; boundary=x, multipart/form-data; boundary=x", None),
        ("multipart/form-data; boundary=\xe4", None),
        ('multipart/form-data; boundary="a\tb"', None),
        ("multipart/form-data; boundary=" + "x" * 257, None),
        ("multipart/form-data; notboundary=x", None),
    ],
)  # fmt: skip
def test_boundary_of_a_content_type(content_type: str, boundary: bytes | None) -> None:
    assert boundary_in(content_type) == boundary


@pytest.mark.parametrize(
    "parts",
    [
        [part(MODEL), part(FILE, b"\x89PNG\r\n--y\r\n")],
        [part(FILE, b"\x89PNG\r\n\r\n-x--x"), part(MODEL)],
        [part("form-data; name=model")],
        [part('FORM-DATA ;\tNAME="model"'.replace(" ;", ";"))],
        [part('form-data; name="model"\r\nContent-Type: text/plain; charset=utf-8')],
        [part('form-data; name="model"\r\nContent-Transfer-Encoding: 8bit')],
        [part(MODEL), part(MODEL)],
        [part(MODEL).replace(b"--x\r\n", b"--x \t\r\n")],
        [part("form-data; name=\"f\"; filename*=UTF-8''%c3%a4.png", b"data"), part(MODEL)],
        [part('form-data; name="f"; filename="a\\"; name=b.png"', b"data"), part(MODEL)],
        [part('form-data; name="prompt"', b""), part(MODEL)],
    ],
    ids=lambda parts: repr(parts[0][:60]),
)
def test_model_of_a_multipart_form(parts: list[bytes]) -> None:
    read_parts = read(*parts)
    assert read_parts.fields["model"] == "gpt-4o"
    assert read_parts.clear


def test_all_text_fields_are_read() -> None:
    parts = [part(MODEL), part('form-data; name="prompt"', "a\r\nb ☃".encode()), part(FILE)]
    assert read(*parts, end=b"--x--") == Form({"model": "gpt-4o", "prompt": "a\r\nb ☃"})


def test_form_without_fields_is_clear() -> None:
    assert read() == Form()
    assert read(part(FILE)) == Form()


@pytest.mark.parametrize(
    ("body", "model"),
    [
        (form(part(MODEL), end=b""), None),
        (form(part(MODEL), part(FILE), end=b""), "gpt-4o"),
        (form(part(MODEL)).replace(b"\r\n", b"\n"), "gpt-4o"),
        (form(part(MODEL)).replace(b'"\r\n', b'"\n'), "gpt-4o"),
        (form(part(MODEL), part(MODEL, b"o1")), "gpt-4o"),
        (form(part(MODEL)) + form(part(MODEL, b"o1")), "gpt-4o"),
        (b"preamble\r\n" + form(part(MODEL)), "gpt-4o"),
        (form(part(FILE, b"--x\r\n\n--xy\r\n"), part(MODEL)), "gpt-4o"),
        (form(part(FILE, b"a\n--x\r\nb"), part(MODEL)), "gpt-4o"),
        (form(part(MODEL, b"\xff")), None),
        (form(part('form-data; name="model"; filename="m"')), None),
        (form(part("form-data; name*=utf-8''model")), None),
        (form(part('form-data; name="mo\\del"')), None),
        (form(part('form-data; name="model"; name="other"')), "gpt-4o"),
        (form(part('form-data; name="model" odd')), "gpt-4o"),
        (form(part('form-data; name="model"\r\nContent-Disposition: form-data; name="n"')), None),
        (form(part('form-data; name="model"\r\nContent-Transfer-Encoding: base64')), "gpt-4o"),
        (form(part('form-data; name="model"\r\nContent-Type: text/plain; charset=utf-16')),
         "gpt-4o"),
        (form(part("attachment; name=model")), None),
        (form(b"--x\r\n\r\ngpt-4o\r\n"), None),
        (form(b"--x\r\n" + b"X-Long: " + b"x" * 9000 + b"\r\n" + part(MODEL)[5:]), None),
        (form(*[part('form-data; name="tag"')] * FIELDS_LIMIT, part(MODEL)), None),
        (b"model=gpt-4o", None),
        (b"", None),
    ],
    ids=lambda value: repr(value[:70]) if isinstance(value, bytes) else None,
)  # fmt: skip
def test_odd_form_is_not_clear(body: bytes, model: str | None) -> None:
    read_parts = read_form(body, TYPE)
    assert read_parts.fields.get("model") == model
    assert not read_parts.clear


def test_form_of_another_multipart_type_is_not_clear() -> None:
    assert not read_form(form(part(MODEL)), "multipart/mixed; boundary=x").clear


def test_longest_values_are_read_and_longer_ones_count_with_their_length() -> None:
    longest = b"x" * VALUE_LIMIT
    prompt = 'form-data; name="prompt"'
    whole = Form({"model": "gpt-4o", "prompt": longest.decode()})
    assert read(part(prompt, longest), part(MODEL)) == whole
    assert read_form(b"model=gpt-4o&prompt=" + longest, URL_ENCODED) == whole
    measured = Form({"model": "gpt-4o"}, {"prompt": VALUE_LIMIT + 1})
    assert read(part(prompt, longest + b"x"), part(MODEL)) == measured
    assert read_form(b"model=gpt-4o&prompt=x" + longest, URL_ENCODED) == measured


def test_longest_names_are_read_and_longer_ones_skipped() -> None:
    name = "n" * NAME_LIMIT
    body = f"a=1&{name}=2&n{name}=3&b=4".encode()
    assert read_form(body, URL_ENCODED) == Form({"a": "1", name: "2", "b": "4"})


@pytest.mark.parametrize(
    ("body", "fields", "clear"),
    [
        (b"model=gpt-4o&stream=true", {"model": "gpt-4o", "stream": "true"}, True),
        (b"a=%C3%A4+b%26&m%6Fdel=gpt%2D4o&", {"a": "ä b&", "model": "gpt-4o"}, True),
        (b"model=&model=", {"model": ""}, True),
        (b"model=a&model=b", {"model": "a"}, False),
        (b"a=1;model=b", {"a": "1;model=b"}, False),
        (b' {"x": "=", "model": "b"}', {' {"x": "': '", "model": "b"}'}, False),
        (b"a=%FF&model=b", {"model": "b"}, False),
        (b"&" * FIELDS_LIMIT + b"model=b", {}, False),
        (b"model", {}, True),
        (b"x" * 200 + b"=1&model=b", {"model": "b"}, True),
        (b"", {}, True),
    ],
    ids=lambda value: repr(value[:40]) if isinstance(value, bytes) else None,
)
def test_fields_of_a_url_encoded_form(body: bytes, fields: dict[str, str], clear: bool) -> None:
    assert read_form(body, URL_ENCODED) == Form(fields, clear=clear)


@given(st.binary(), st.sampled_from([TYPE, URL_ENCODED, "multipart/form-data"]))
def test_any_bytes_are_a_form(body: bytes, content_type: str) -> None:
    assert isinstance(read_form(body, content_type), Form)


PIECES = [
    b"--x", b"--", b"\r\n", b"\n", b"\r", b"Content-Disposition: form-data; name=", b'"model"',
    b'; filename="f"', b"\r\n\r\n", b"gpt-4o", b"\\", b'"', b"\xff",
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES)))
def test_clear_form_has_exactly_the_fields_between_its_delimiters(pieces: list[bytes]) -> None:
    body = b"".join(pieces)
    read_parts = read_form(body, TYPE)
    if read_parts.clear:
        assert body.startswith(b"--x")
        assert body.count(b"\n--x") + 1 >= len(read_parts.fields) + 1
        assert all(value.encode() in body for value in read_parts.fields.values())


HOSTILE = {
    "file": form(part(FILE, bytes(8 << 20)), part(MODEL)),
    "almost delimiters": form(part(FILE, b"\r\n--xy" * (1 << 20))),
    "delimiters": form(b"--x\r\n" * (1 << 20)),
    "quotes": form(part('form-data; name="' + '\\"' * 4000)),
    "parameters": form(part("form-data" + "; name=a" * 1000)),
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_hostile_forms_take_little_time(body: bytes) -> None:
    start = time.process_time()
    read_form(body, TYPE)
    # A few milliseconds; a collection of garbage may come in between.
    assert time.process_time() - start < 0.5
