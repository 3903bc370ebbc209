"""Uploads in parts."""

from hashlib import md5

import openai
import pytest

from rustygate.simulator.storage.file_store import ROOM
from tests.support.simulator import BYTES, Site


async def test_sdk_uploads_a_file_in_parts(site: Site) -> None:
    async with site.sdk() as sdk:
        upload = await sdk.uploads.upload_file_chunked(
            file=BYTES,
            filename="big.bin",
            bytes=len(BYTES),
            mime_type="application/octet-stream",
            purpose="user_data",
            part_size=50_000,
            md5=md5(BYTES).hexdigest(),
        )
        assert upload.file is not None
        content = await sdk.files.content(upload.file.id)
    assert upload.status == "completed"
    assert (upload.file.filename, upload.file.bytes) == ("big.bin", len(BYTES))
    assert content.content == BYTES


async def test_upload_of_which_a_part_was_not_kept_is_a_file_without_a_content(
    site: Site,
) -> None:
    async with site.sdk() as sdk:
        upload = await sdk.uploads.create(
            bytes=ROOM + 3, filename="x", mime_type="x/y", purpose="batch"
        )
        small = await sdk.uploads.parts.create(upload.id, data=b"end")
        large = await sdk.uploads.parts.create(upload.id, data=bytes(ROOM))
        done = await sdk.uploads.complete(upload.id, part_ids=[large.id, small.id])
        assert done.file is not None
        with pytest.raises(openai.NotFoundError) as error:
            await sdk.files.content(done.file.id)
    assert done.file.bytes == ROOM + 3
    assert error.value.code == "content_not_kept"


async def test_parts_must_be_what_was_announced(site: Site) -> None:
    async with site.sdk() as sdk:
        upload = await sdk.uploads.create(bytes=4, filename="x", mime_type="x/y", purpose="batch")
        part = await sdk.uploads.parts.create(upload.id, data=b"abc")
        with pytest.raises(openai.BadRequestError, match="3 bytes, 4 were announced"):
            await sdk.uploads.complete(upload.id, part_ids=[part.id])
        last = await sdk.uploads.parts.create(upload.id, data=b"d")
        with pytest.raises(openai.BadRequestError, match="MD5"):
            await sdk.uploads.complete(upload.id, part_ids=[part.id, last.id], md5="0" * 32)
        with pytest.raises(openai.NotFoundError):
            await sdk.uploads.complete(upload.id, part_ids=["part_none"])
        done = await sdk.uploads.complete(upload.id, part_ids=[part.id, last.id])
        assert done.file is not None
        assert (await sdk.files.content(done.file.id)).content == b"abcd"


async def test_cancelled_upload_takes_nothing_more(site: Site) -> None:
    async with site.sdk() as sdk:
        upload = await sdk.uploads.create(bytes=1, filename="x", mime_type="x/y", purpose="batch")
        assert (await sdk.uploads.cancel(upload.id)).status == "cancelled"
        with pytest.raises(openai.BadRequestError, match="cancelled already"):
            await sdk.uploads.parts.create(upload.id, data=b"x")
        with pytest.raises(openai.BadRequestError, match="cancelled already"):
            await sdk.uploads.cancel(upload.id)
