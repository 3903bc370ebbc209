"""Uploads in parts."""

from hashlib import md5

import openai
import pytest

from rustygate.simulator.storage.file_store import CAPACITY_BYTES
from tests.support.simulator import FILE_BYTES, Simulator


async def test_sdk_uploads_a_file_in_parts(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        upload = await sdk.uploads.upload_file_chunked(
            file=FILE_BYTES,
            filename="big.bin",
            bytes=len(FILE_BYTES),
            mime_type="application/octet-stream",
            purpose="user_data",
            part_size=50_000,
            md5=md5(FILE_BYTES).hexdigest(),
        )
        assert upload.file is not None
        content = await sdk.files.content(upload.file.id)
    assert upload.status == "completed"
    assert (upload.file.filename, upload.file.bytes) == ("big.bin", len(FILE_BYTES))
    assert content.content == FILE_BYTES


async def test_upload_without_all_parts_kept_has_no_content(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        upload = await sdk.uploads.create(
            bytes=CAPACITY_BYTES + 3, filename="x", mime_type="x/y", purpose="batch"
        )
        small = await sdk.uploads.parts.create(upload.id, data=b"end")
        large = await sdk.uploads.parts.create(upload.id, data=bytes(CAPACITY_BYTES))
        done = await sdk.uploads.complete(upload.id, part_ids=[large.id, small.id])
        assert done.file is not None
        with pytest.raises(openai.NotFoundError) as error:
            await sdk.files.content(done.file.id)
    assert done.file.bytes == CAPACITY_BYTES + 3
    assert error.value.code == "content_not_kept"


async def test_parts_must_match_the_announced_size_and_md5(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        upload = await sdk.uploads.create(bytes=4, filename="x", mime_type="x/y", purpose="batch")
        part = await sdk.uploads.parts.create(upload.id, data=b"abc")
        with pytest.raises(openai.BadRequestError, match="3 bytes, but 4 bytes were announced"):
            await sdk.uploads.complete(upload.id, part_ids=[part.id])
        last = await sdk.uploads.parts.create(upload.id, data=b"d")
        with pytest.raises(openai.BadRequestError, match="MD5"):
            await sdk.uploads.complete(upload.id, part_ids=[part.id, last.id], md5="0" * 32)
        with pytest.raises(openai.NotFoundError):
            await sdk.uploads.complete(upload.id, part_ids=["part_none"])
        done = await sdk.uploads.complete(upload.id, part_ids=[part.id, last.id])
        assert done.file is not None
        assert (await sdk.files.content(done.file.id)).content == b"abcd"


async def test_cancelled_upload_accepts_no_more_parts(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        upload = await sdk.uploads.create(bytes=1, filename="x", mime_type="x/y", purpose="batch")
        assert (await sdk.uploads.cancel(upload.id)).status == "cancelled"
        with pytest.raises(openai.BadRequestError, match="already cancelled"):
            await sdk.uploads.parts.create(upload.id, data=b"x")
        with pytest.raises(openai.BadRequestError, match="already cancelled"):
            await sdk.uploads.cancel(upload.id)
