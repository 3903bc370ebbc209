import pytest

from rustygate.core.ambiguous_json import is_ambiguous


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a"}',
        b'\xef\xbb\xbf {"model" : "a"}',
        b'{"m\\u006fdel":"a"}',
        b'{"input":"a"}',
        b"{}",
        b'{"model":"a","tools":[{"properties":{"model":{},"Model":{}}}]}',
        b'{"tools":{"MODEL":1}}',
        b'{"model":"a","input":"say \\"model\\": b"}',
        b'{"model":"a","models":["b"],"my_model":"c"}',
        b'[{"model":"a","model":"b"}]',
        b'--x\r\n{"model":"a","model":"b"}',
        b"",
    ],
)
def test_one_plain_name_is_clear(body: bytes) -> None:
    assert not is_ambiguous(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","model":"b"}',
        b'\xef\xbb\xbf {"model":"a","model":"b"}',
        b'{"model":"a","m\\u006Fdel":"b"}',
        b'{"model":"a","\\u004dODE\\u006c" :"b"}',
        b'{"Model":"b"}',
        b'{"MODEL":"b","model":"a"}',
        b'{"x":{"y":[1]},"model":"a","mOdel"\n:"b"}',
        b'{"model":"a","x":{"model":"b"}',
        b'{"Model":"b","x":' + b"[" * 100_000,
    ],
)
def test_repeated_or_odd_names_are_ambiguous(body: bytes) -> None:
    assert is_ambiguous(body)


@pytest.mark.parametrize(
    "message",
    [
        b'{"type":"x","type":"response.create"}',
        b'{"type":"x","t\\u0079pe":"y"}',
        b'{"\\u0054YPE":"y","input":[]}',
        b'{"type":"x","Type":"y"}',
    ],
)
def test_types_are_examined_in_the_same_way(message: bytes) -> None:
    assert is_ambiguous(message, "type")
    assert not is_ambiguous(message)
    assert not is_ambiguous(b'{"type":"x","items":[{"type":"y","Type":"z"}]}', "type")
    assert not is_ambiguous(b'{"t\\u0079pe":"x","subtype":"y"}', "type")
