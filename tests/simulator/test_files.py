"""Files: with the official SDK, and as raw bytes."""

import asyncio
import json
import tracemalloc
from hashlib import sha256
from typing import Any

import openai
import pytest

from rustygate.simulator.storage.file_store import CAPACITY_BYTES
from tests.support.simulator import FILE_BYTES, Simulator, build_form, build_request
from tests.support.waiting import SOON_S


async def upload_file(
    simulator: Simulator, content: bytes = FILE_BYTES, name: str = "a.bin"
) -> str:
    """Upload a file, and return its identifier."""
    raw = build_form("/v1/files", purpose="user_data", file=(name, content, "x/y"))
    file_id: str = json.loads((await simulator.send(raw)).body)["id"]
    return file_id


async def test_sdk_downloads_the_bytes_it_uploaded(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        file = await sdk.files.create(
            file=("näme.bin", FILE_BYTES),
            purpose="user_data",
            expires_after={"anchor": "created_at", "seconds": 3600},
        )
        again = await sdk.files.retrieve(file.id)
        content = await sdk.files.content(file.id)
    assert (file.filename, file.bytes, file.purpose) == ("näme.bin", len(FILE_BYTES), "user_data")
    assert file.expires_at == file.created_at + 3600
    assert again == file
    assert content.content == FILE_BYTES
    assert content.response.headers["content-length"] == str(len(FILE_BYTES))
    assert file.model_extra == {"sha256": sha256(FILE_BYTES).hexdigest()}


async def test_sdk_pages_through_files(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        file_ids = [
            (await sdk.files.create(file=(f"{number}", b"x"), purpose=purpose)).id
            for number in range(5)
            for purpose in ("batch", "vision")
        ]
        listed = [file.id async for file in sdk.files.list(limit=3)]
        batch = [file.id async for file in sdk.files.list(purpose="batch", limit=2, order="asc")]
        page = await sdk.files.list(limit=10)
    assert listed == file_ids[::-1]
    assert batch == file_ids[::2]
    assert page.has_more is False


async def test_sdk_deletes_a_file(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        file = await sdk.files.create(file=("x", b"x"), purpose="batch")
        assert (await sdk.files.delete(file.id)).deleted
        with pytest.raises(openai.NotFoundError, match="No such File object"):
            await sdk.files.content(file.id)


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=x", "order=up", "limit=10001", "after=", "after=%FF"]
)
async def test_bad_page_query_is_rejected(simulator: Simulator, query: str) -> None:
    response = await simulator.send(build_request("GET", f"/v1/files?{query}"))
    assert response.status == (404 if "after" in query else 400)
    assert response.error["type"] == "invalid_request_error"


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
async def test_bad_file_returns_400(simulator: Simulator, fields: dict[str, Any]) -> None:
    assert (await simulator.send(build_form("/v1/files", **fields))).status == 400


@pytest.mark.parametrize(
    ("range_header", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-65535", 0, 65_536),
        ("bytes=65530-65545", 65_530, 65_546),
        ("bytes=100000-", 100_000, len(FILE_BYTES)),
        ("bytes=-3", len(FILE_BYTES) - 3, len(FILE_BYTES)),
        ("bytes=5-999999999", 5, len(FILE_BYTES)),
        ("bytes=-999999999", 0, len(FILE_BYTES)),
    ],
)
async def test_range_request_returns_those_bytes(
    simulator: Simulator, range_header: str, start: int, stop: int
) -> None:
    target = f"/v1/files/{await upload_file(simulator)}/content"
    response = await simulator.send(build_request("GET", target, Range=range_header))
    assert response.status == 206
    assert response.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(FILE_BYTES)}"
    assert response.body == FILE_BYTES[start:stop]
    assert response.complete


@pytest.mark.parametrize(
    "range_header", ["bytes=5-4", "bytes=a-b", "lines=1-2", "bytes=0-1,3-4", "bytes=-", "bytes=1"]
)
async def test_invalid_range_is_ignored(simulator: Simulator, range_header: str) -> None:
    target = f"/v1/files/{await upload_file(simulator)}/content"
    response = await simulator.send(build_request("GET", target, Range=range_header))
    assert (response.status, response.body) == (200, FILE_BYTES)


async def test_range_beyond_the_end_returns_416(simulator: Simulator) -> None:
    target = f"/v1/files/{await upload_file(simulator)}/content"
    response = await simulator.send(
        build_request("GET", target, Range=f"bytes={len(FILE_BYTES)}-")
    )
    assert response.status == 416
    assert response.headers["content-range"] == f"bytes */{len(FILE_BYTES)}"


@pytest.mark.parametrize("suffix", ["", "/content"])
async def test_head_returns_the_headers_of_get(simulator: Simulator, suffix: str) -> None:
    target = f"/v1/files/{await upload_file(simulator)}{suffix}"
    get = await simulator.send(build_request("GET", target))
    head = await simulator.send(build_request("HEAD", target, Range="bytes=0-1"))
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(get.body))


@pytest.mark.parametrize("simulate", ["cut", "cut_inside=3"])
async def test_content_is_cut_in_its_middle(simulator: Simulator, simulate: str) -> None:
    target = f"/v1/files/{await upload_file(simulator)}/content"
    response = await simulator.send(build_request("GET", target, simulate=simulate))
    assert not response.complete
    assert response.body == FILE_BYTES[: len(FILE_BYTES) // 2]


async def test_file_can_be_rejected_before_it_is_read(simulator: Simulator) -> None:
    raw = build_form("/v1/files", purpose="batch", file=("x", bytes(1_000_000), "x/y"))
    raw = raw.replace(b"\r\n\r\n", b"\r\nX-Simulate: 503\r\n\r\n", 1)
    reader, writer = await simulator.open(raw[:1000])
    line = await asyncio.wait_for(reader.readline(), SOON_S)
    writer.close()
    assert line.startswith(b"HTTP/1.1 503 ")


async def test_file_above_the_capacity_is_listed_but_not_kept(simulator: Simulator) -> None:
    content = FILE_BYTES * (CAPACITY_BYTES // len(FILE_BYTES) + 1)
    file_id = await upload_file(simulator, content)
    file = json.loads((await simulator.send(build_request("GET", f"/v1/files/{file_id}"))).body)
    assert (file["bytes"], file["sha256"]) == (len(content), sha256(content).hexdigest())
    response = await simulator.send(build_request("GET", f"/v1/files/{file_id}/content"))
    assert (response.status, response.error["code"]) == (404, "content_not_kept")


async def test_zero_file_is_generated_while_it_is_sent(simulator: Simulator) -> None:
    size = 100_000_000
    raw = build_request("GET", f"/v1/files/file-zeros-{size}/content")
    reader, writer = await simulator.open(raw)
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


async def test_sdk_retrieves_a_zero_file(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        file = await sdk.files.retrieve("file-zeros-70000")
        content = await sdk.files.content(file.id)
        with pytest.raises(openai.NotFoundError):
            await sdk.files.retrieve("file-zeros-x")
    assert (file.bytes, file.id) == (70_000, "file-zeros-70000")
    assert content.content == bytes(70_000)
