"""Multipart forms: invalid ones, and valid ones split at any byte."""

import asyncio
import json
from hashlib import sha256

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from rustygate.simulator.storage.file_store import FileStore, StoredFile
from rustygate.simulator.transport.multipart import MAX_PARTS, MAX_TEXT_BYTES, read_form
from tests.support.simulator import Simulator, build_form, build_part, build_request
from tests.support.waiting import SOON_S

TRANSCRIPTIONS = "/v1/audio/transcriptions"
AUDIO = ("a.mp3", b"sound", "audio/mpeg")


def post_form(body: bytes, kind: str = "multipart/form-data; boundary=limit") -> bytes:
    return build_request("POST", TRANSCRIPTIONS, body, **{"Content-Type": kind})


END = b"--limit--\r\n"
MODEL, FILE = build_part("model", "m"), build_part("file", AUDIO)
BAD_FORMS = {
    "empty": post_form(b""),
    "no-form": post_form(b"{}", "application/json"),
    "no-boundary": post_form(MODEL + FILE + END, "multipart/form-data"),
    "other-boundary": post_form(MODEL + FILE + END, "multipart/form-data; boundary=other"),
    "long-boundary": post_form(MODEL, f"multipart/form-data; boundary={'x' * 71}"),
    "no-type": build_request("POST", TRANSCRIPTIONS, MODEL + FILE + END),
    "only-preamble": post_form(b"once upon a time"),
    "cut-in-head": post_form(MODEL + FILE[:30]),
    "cut-in-file": post_form(MODEL + FILE[:-4]),
    "cut-before-end": post_form(MODEL + FILE),
    "no-parts": post_form(END),
    "no-name": post_form(build_part("", "m") + FILE + END),
    "odd-name": post_form(build_part("model]", "m") + FILE + END),
    "not-utf8": post_form(
        build_part("model", "m").replace(b"\r\nm\r\n", b"\r\n\xff\r\n") + FILE + END
    ),
    "file-as-text": post_form(MODEL + build_part("file", "sound") + END),
    "text-as-file": post_form(build_part("model", AUDIO) + FILE + END),
    "text-and-field": post_form(MODEL + build_part("model[x]", "m") + FILE + END),
    "text-twice": post_form(MODEL + MODEL + FILE + END),
    "no-model": post_form(FILE + END),
    "no-file": post_form(MODEL + END),
    "nested": post_form(
        MODEL.replace(b"\r\n\r\n", b"\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n") + END
    ),
    "many-parts": post_form(build_part("x", "") * (MAX_PARTS + 1) + END),
    "long-text": post_form(build_part("prompt", "x" * (MAX_TEXT_BYTES + 1)) + END),
    "long-charset": post_form(build_part("_charset_", "x" * 40) + MODEL + FILE + END),
    "long-header": post_form(build_part("x" * 10_000, "") + END),
    "bad-header": post_form(b"--limit\r\n\x00\r\n\r\n\r\n" + END),
}


@pytest.mark.parametrize("raw", BAD_FORMS.values(), ids=BAD_FORMS)
async def test_bad_form_returns_400(
    simulator: Simulator, raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    response = await simulator.send(raw)
    assert (response.status, response.error["type"]) == (400, "invalid_request_error")
    assert caplog.text == ""


@pytest.mark.filterwarnings("ignore::aiohttp.multipart.BadContentDispositionHeader")
@pytest.mark.parametrize("disposition", [b"form-data; name", b"\xff", b"a b"])
async def test_bad_content_disposition_returns_400(
    simulator: Simulator, disposition: bytes
) -> None:
    head = b'form-data; name="model"'
    response = await simulator.send(post_form(MODEL.replace(head, disposition) + FILE + END))
    assert response.status == 400


async def test_bad_chunked_encoding_returns_400(simulator: Simulator) -> None:
    raw = post_form(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") + b"xyz\r\n"
    assert (await simulator.send(raw)).status == 400


async def test_fields_may_come_in_any_order_and_unknown_ones_are_ignored(
    simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    unknown = build_part("other", AUDIO) + build_part("x[y]", "1")
    body = b"preamble\r\n" + FILE + unknown + MODEL + END + b"end"
    reordered = await simulator.send(post_form(body))
    ordered = await simulator.send(post_form(MODEL + FILE + END))
    assert reordered.status == ordered.status == 200
    assert json.loads(reordered.body)["text"] == json.loads(ordered.body)["text"]
    assert caplog.text == ""


async def test_filename_may_be_invalid_utf8(simulator: Simulator) -> None:
    response = await simulator.send(post_form(MODEL + FILE.replace(b"a.mp3", b"\xff.mp3") + END))
    assert response.status == 200


async def test_client_disconnect_during_a_form_ends_the_request(simulator: Simulator) -> None:
    raw = build_form(TRANSCRIPTIONS, model="m", file=("a", bytes(100_000), "audio/mpeg"))
    _, writer = await simulator.open(raw[:-50_000])
    await simulator.wait_for_stats(lambda stats: stats["requests_open"] == 1)
    writer.close()
    stats = await simulator.wait_for_stats(lambda stats: stats["requests_open"] == 0)
    assert stats["left"] == 1


class Fields(Struct):
    one: StoredFile
    list: list[str]
    nested: dict[str, int]


async def read_in_pieces(raw: bytes, cuts: list[int], file_store: FileStore) -> Fields | None:
    """The fields of a form whose bytes arrive split at `cuts`."""
    results: list[Fields] = []

    async def handle(request: web.BaseRequest) -> web.Response:
        assert isinstance(request, web.BaseRequest)
        fields = await read_form(request, Fields, file_store.create)  # type: ignore[arg-type]
        results.append(fields)
        return web.Response()

    server = await asyncio.get_running_loop().create_server(web.Server(handle), "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for start, stop in zip([0, *cuts], [*cuts, len(raw)], strict=True):
            writer.write(raw[start:stop])
            await writer.drain()
            await asyncio.sleep(0)
        await asyncio.wait_for(reader.read(), SOON_S)
        writer.close()
    return results[0] if results else None


@settings(max_examples=60)
@given(data=st.data(), content=st.binary(max_size=300), rest=st.integers(0, 200_000))
def test_form_does_not_depend_on_how_its_bytes_are_split(
    data: st.DataObject, content: bytes, rest: int
) -> None:
    """The contents are full of near misses of the boundary."""
    content = content.replace(b"--limit", b"") + b"\r\n--limi\r\n--lim" * 3 + bytes(rest)
    raw = build_form(
        "/",
        **{
            "one": ("näme", content, "x/y"),
            "list[]": "a",
            "nested[x]": "1",
            "nested[y]": "2",
        },
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=12)))
    file_store = FileStore()
    fields = asyncio.run(read_in_pieces(raw, cuts, file_store))
    assert fields is not None
    assert (fields.list, fields.nested) == (["a"], {"x": 1, "y": 2})
    assert (fields.one.name, fields.one.size) == ("näme", len(content))
    assert b"".join(fields.one.chunks or ()) == content
    assert fields.one.sha256 == sha256(content).hexdigest()
    assert file_store.used_bytes == len(content)
