"""Batches."""

import openai
import pytest

from tests.support.simulator import Simulator


async def test_sdk_follows_a_batch_to_completion(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        file = await sdk.files.create(file=("x.jsonl", b"{}\n"), purpose="batch")
        batch = await sdk.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"a": "b"},
        )
        statuses = [(await sdk.batches.retrieve(batch.id)).status for _ in range(3)]
        assert [listed.id async for listed in sdk.batches.list()] == [batch.id]
        with pytest.raises(openai.BadRequestError, match="already completed"):
            await sdk.batches.cancel(batch.id)
    assert (batch.status, batch.metadata) == ("validating", {"a": "b"})
    assert statuses == ["in_progress", "completed", "completed"]


async def test_batch_requires_an_existing_file(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        with pytest.raises(openai.NotFoundError):
            await sdk.batches.create(
                input_file_id="file-none", endpoint="/v1/responses", completion_window="24h"
            )
