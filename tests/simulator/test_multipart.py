"""Multipart forms: however they are cut, and whatever they hold."""

import asyncio
import json
from hashlib import sha256

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from rustygate.simulator.storage.file_store import KeptFile, Shelf
from rustygate.simulator.transport.multipart import MOST_PARTS, MOST_TEXT, read_form
from tests.support.simulator import SOON_S, Site, form, part, request

SPEECH = "/v1/audio/transcriptions"


SOUND = ("a.mp3", b"sound", "audio/mpeg")


def posted(body: bytes, kind: str = "multipart/form-data; boundary=limit") -> bytes:
    return request("POST", SPEECH, body, **{"Content-Type": kind})


END = b"--limit--\r\n"


MODEL, FILE = part("model", "m"), part("file", SOUND)


BAD_FORMS = {
    "empty": posted(b""),
    "no-form": posted(b"{}", "application/json"),
    "no-boundary": posted(MODEL + FILE + END, "multipart/form-data"),
    "other-boundary": posted(MODEL + FILE + END, "multipart/form-data; boundary=other"),
    "long-boundary": posted(MODEL, f"multipart/form-data; boundary={'x' * 71}"),
    "no-type": request("POST", SPEECH, MODEL + FILE + END),
    "only-preamble": posted(b"once upon a time"),
    "cut-in-head": posted(MODEL + FILE[:30]),
    "cut-in-file": posted(MODEL + FILE[:-4]),
    "cut-before-end": posted(MODEL + FILE),
    "no-parts": posted(END),
    "no-name": posted(part("", "m") + FILE + END),
    "odd-name": posted(part("model]", "m") + FILE + END),
    "not-utf8": posted(part("model", "m").replace(b"\r\nm\r\n", b"\r\n\xff\r\n") + FILE + END),
    "file-as-text": posted(MODEL + part("file", "sound") + END),
    "text-as-file": posted(part("model", SOUND) + FILE + END),
    "text-and-field": posted(MODEL + part("model[x]", "m") + FILE + END),
    "text-twice": posted(MODEL + MODEL + FILE + END),
    "no-model": posted(FILE + END),
    "no-file": posted(MODEL + END),
    "nested": posted(
        MODEL.replace(b"\r\n\r\n", b"\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n") + END
    ),
    "many-parts": posted(part("x", "") * (MOST_PARTS + 1) + END),
    "long-text": posted(part("prompt", "x" * (MOST_TEXT + 1)) + END),
    "long-charset": posted(part("_charset_", "x" * 40) + MODEL + FILE + END),
    "long-header": posted(part("x" * 10_000, "") + END),
    "bad-header": posted(b"--limit\r\n\x00\r\n\r\n\r\n" + END),
}


@pytest.mark.parametrize("raw", BAD_FORMS.values(), ids=BAD_FORMS)
async def test_bad_form_is_a_400_that_says_so(
    site: Site, raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await site.ask(raw)
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
    assert caplog.text == ""


@pytest.mark.filterwarnings("ignore::aiohttp.multipart.BadContentDispositionHeader")
@pytest.mark.parametrize("disposition", [b"form-data; name", b"\xff", b"a b"])
async def test_bad_disposition_is_a_400(site: Site, disposition: bytes) -> None:
    head = b'form-data; name="model"'
    answer = await site.ask(posted(MODEL.replace(head, disposition) + FILE + END))
    assert answer.status == 400


async def test_bad_chunks_are_a_400(site: Site) -> None:
    raw = posted(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") + b"xyz\r\n"
    assert (await site.ask(raw)).status == 400


async def test_fields_come_in_any_order_and_unknown_ones_are_passed_over(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    body = b"preamble\r\n" + FILE + part("other", SOUND) + part("x[y]", "1") + MODEL + END + b"end"
    one, two = await site.ask(posted(body)), await site.ask(posted(MODEL + FILE + END))
    assert one.status == two.status == 200
    assert json.loads(one.body)["text"] == json.loads(two.body)["text"]
    assert caplog.text == ""


async def test_filename_that_is_not_utf8_is_no_hindrance(site: Site) -> None:
    answer = await site.ask(posted(MODEL + FILE.replace(b"a.mp3", b"\xff.mp3") + END))
    assert answer.status == 200


async def test_client_that_leaves_in_its_form_ends_its_request(site: Site) -> None:
    raw = form(SPEECH, model="m", file=("a", bytes(100_000), "audio/mpeg"))
    _, writer = await site.send(raw[:-50_000])
    await site.stats_until(lambda stats: stats["requests_open"] == 1)
    writer.close()
    stats = await site.stats_until(lambda stats: stats["requests_open"] == 0)
    assert stats["left"] == 1


class Fields(Struct):
    one: KeptFile
    list: list[str]
    nested: dict[str, int]


async def read_in_cuts(raw: bytes, cuts: list[int], shelf: Shelf) -> Fields | None:
    """What is read of a form that arrives in pieces."""
    found: list[Fields] = []

    async def handle(asked: web.BaseRequest) -> web.Response:
        assert isinstance(asked, web.BaseRequest)
        found.append(await read_form(asked, Fields, shelf.file))  # type: ignore[arg-type]
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
    return found[0] if found else None


@settings(deadline=None, max_examples=60)
@given(data=st.data(), content=st.binary(max_size=300), rest=st.integers(0, 200_000))
def test_form_does_not_depend_on_how_it_is_cut(
    data: st.DataObject, content: bytes, rest: int
) -> None:
    """Contents are full of what looks like a boundary, but is none."""
    content = content.replace(b"--limit", b"") + b"\r\n--limi\r\n--lim" * 3 + bytes(rest)
    raw = form(
        "/",
        **{
            "one": ("näme", content, "x/y"),
            "list[]": "a",
            "nested[x]": "1",
            "nested[y]": "2",
        },
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=12)))
    shelf = Shelf()
    fields = asyncio.run(read_in_cuts(raw, cuts, shelf))
    assert fields is not None
    assert (fields.list, fields.nested) == (["a"], {"x": 1, "y": 2})
    assert (fields.one.name, fields.one.size) == ("näme", len(content))
    assert b"".join(fields.one.pieces or ()) == content
    assert fields.one.sha256 == sha256(content).hexdigest()
    assert shelf.used == len(content)
