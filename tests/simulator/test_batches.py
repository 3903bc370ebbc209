"""Batches."""

import openai
import pytest

from tests.support.simulator import Site


async def test_sdk_sees_a_batch_to_its_end(site: Site) -> None:
    async with site.sdk() as sdk:
        file = await sdk.files.create(file=("x.jsonl", b"{}\n"), purpose="batch")
        batch = await sdk.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"a": "b"},
        )
        seen = [(await sdk.batches.retrieve(batch.id)).status for _ in range(3)]
        assert [one.id async for one in sdk.batches.list()] == [batch.id]
        with pytest.raises(openai.BadRequestError, match="completed already"):
            await sdk.batches.cancel(batch.id)
    assert (batch.status, batch.metadata) == ("validating", {"a": "b"})
    assert seen == ["in_progress", "completed", "completed"]


async def test_batch_needs_its_file(site: Site) -> None:
    async with site.sdk() as sdk:
        with pytest.raises(openai.NotFoundError):
            await sdk.batches.create(
                input_file_id="file-none", endpoint="/v1/responses", completion_window="24h"
            )
