"""Files: with the SDK, and what it hides with bytes."""

import asyncio
import json
import tracemalloc
from hashlib import sha256
from typing import Any

import openai
import pytest

from rustygate.simulator.storage.file_store import ROOM
from tests.support.simulator import BYTES, SOON_S, Site, form, request


async def created(site: Site, content: bytes = BYTES, name: str = "a.bin") -> str:
    """A new file's identifier."""
    raw = form("/v1/files", purpose="user_data", file=(name, content, "x/y"))
    identifier: str = json.loads((await site.ask(raw)).body)["id"]
    return identifier


async def test_sdk_gets_back_the_bytes_it_uploaded(site: Site) -> None:
    async with site.sdk() as sdk:
        file = await sdk.files.create(
            file=("näme.bin", BYTES),
            purpose="user_data",
            expires_after={"anchor": "created_at", "seconds": 3600},
        )
        again = await sdk.files.retrieve(file.id)
        content = await sdk.files.content(file.id)
    assert (file.filename, file.bytes, file.purpose) == ("näme.bin", len(BYTES), "user_data")
    assert file.expires_at == file.created_at + 3600
    assert again == file
    assert content.content == BYTES
    assert content.response.headers["content-length"] == str(len(BYTES))
    assert file.model_extra == {"sha256": sha256(BYTES).hexdigest()}


async def test_sdk_pages_through_files(site: Site) -> None:
    async with site.sdk() as sdk:
        created = [
            (await sdk.files.create(file=(f"{number}", b"x"), purpose=purpose)).id
            for number in range(5)
            for purpose in ("batch", "vision")
        ]
        all_of_them = [file.id async for file in sdk.files.list(limit=3)]
        batch = [file.id async for file in sdk.files.list(purpose="batch", limit=2, order="asc")]
        page = await sdk.files.list(limit=10)
    assert all_of_them == created[::-1]
    assert batch == created[::2]
    assert page.has_more is False


async def test_sdk_deletes_a_file(site: Site) -> None:
    async with site.sdk() as sdk:
        file = await sdk.files.create(file=("x", b"x"), purpose="batch")
        assert (await sdk.files.delete(file.id)).deleted
        with pytest.raises(openai.NotFoundError, match="No such File object"):
            await sdk.files.content(file.id)


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=x", "order=up", "limit=10001", "after=", "after=%FF"]
)
async def test_bad_page_is_a_refusal(site: Site, query: str) -> None:
    answer = await site.ask(request("GET", f"/v1/files?{query}"))
    assert answer.status == (404 if "after" in query else 400)
    assert answer.error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "fields",
    [
        {"purpose": "user_data"},
        {"file": ("x", b"x", "x/y")},
        {"purpose": "fun", "file": ("x", b"x", "x/y")},
        {"purpose": "user_data", "file": "text"},
        {"purpose": "batch", "file": ("x", b"x", "x/y"), "expires_after[seconds]": "1"},
    ],
)
async def test_bad_file_is_a_400(site: Site, fields: dict[str, Any]) -> None:
    assert (await site.ask(form("/v1/files", **fields))).status == 400


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-65535", 0, 65_536),
        ("bytes=65530-65545", 65_530, 65_546),
        ("bytes=100000-", 100_000, len(BYTES)),
        ("bytes=-3", len(BYTES) - 3, len(BYTES)),
        ("bytes=5-999999999", 5, len(BYTES)),
        ("bytes=-999999999", 0, len(BYTES)),
    ],
)
async def test_range_is_answered_with_those_bytes(
    site: Site, asked: str, start: int, stop: int
) -> None:
    target = f"/v1/files/{await created(site)}/content"
    answer = await site.ask(request("GET", target, Range=asked))
    assert answer.status == 206
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(BYTES)}"
    assert answer.body == BYTES[start:stop]
    assert answer.whole


@pytest.mark.parametrize(
    "asked", ["bytes=5-4", "bytes=a-b", "lines=1-2", "bytes=0-1,3-4", "bytes=-", "bytes=1"]
)
async def test_range_that_is_none_is_passed_over(site: Site, asked: str) -> None:
    answer = await site.ask(
        request("GET", f"/v1/files/{await created(site)}/content", Range=asked)
    )
    assert (answer.status, answer.body) == (200, BYTES)


async def test_range_beyond_the_end_is_a_416(site: Site) -> None:
    target = f"/v1/files/{await created(site)}/content"
    answer = await site.ask(request("GET", target, Range=f"bytes={len(BYTES)}-"))
    assert answer.status == 416
    assert answer.headers["content-range"] == f"bytes */{len(BYTES)}"


@pytest.mark.parametrize("tail", ["", "/content"])
async def test_head_is_a_get_without_its_body(site: Site, tail: str) -> None:
    target = f"/v1/files/{await created(site)}{tail}"
    get = await site.ask(request("GET", target))
    head = await site.ask(request("HEAD", target, Range="bytes=0-1"))
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(get.body))


@pytest.mark.parametrize("simulate", ["cut", "cut_inside=3"])
async def test_content_is_cut_in_its_middle(site: Site, simulate: str) -> None:
    target = f"/v1/files/{await created(site)}/content"
    answer = await site.ask(request("GET", target, simulate=simulate))
    assert not answer.whole
    assert answer.body == BYTES[: len(BYTES) // 2]


async def test_upload_can_be_refused_before_it_is_read(site: Site) -> None:
    raw = form("/v1/files", purpose="batch", file=("x", bytes(1_000_000), "x/y"))
    raw = raw.replace(b"\r\n\r\n", b"\r\nX-Simulate: 503\r\n\r\n", 1)
    reader, writer = await site.send(raw[:1000])
    line = await asyncio.wait_for(reader.readline(), SOON_S)
    writer.close()
    assert line.startswith(b"HTTP/1.1 503 ")


async def test_file_beyond_the_room_is_known_but_not_kept(site: Site) -> None:
    content = BYTES * (ROOM // len(BYTES) + 1)
    identifier = await created(site, content)
    file = json.loads((await site.ask(request("GET", f"/v1/files/{identifier}"))).body)
    assert (file["bytes"], file["sha256"]) == (len(content), sha256(content).hexdigest())
    answer = await site.ask(request("GET", f"/v1/files/{identifier}/content"))
    assert (answer.status, answer.error["code"]) == (404, "content_not_kept")


async def test_zeros_are_made_while_they_are_sent(site: Site) -> None:
    size = 100_000_000
    raw = request("GET", f"/v1/files/file-zeros-{size}/content")
    reader, writer = await site.send(raw)
    tracemalloc.start()
    try:
        received = 0
        while data := await reader.read(2**20):
            received += len(data)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
        writer.close()
    assert size < received < size + 1000


async def test_sdk_knows_zeros_as_a_file(site: Site) -> None:
    async with site.sdk() as sdk:
        file = await sdk.files.retrieve("file-zeros-70000")
        content = await sdk.files.content(file.id)
        with pytest.raises(openai.NotFoundError):
            await sdk.files.retrieve("file-zeros-x")
    assert (file.bytes, file.id) == (70_000, "file-zeros-70000")
    assert content.content == bytes(70_000)
