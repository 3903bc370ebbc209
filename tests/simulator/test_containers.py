"""Containers and their files."""

import openai
import pytest

from tests.support.simulator import FILE_BYTES, Simulator


async def test_sdk_adds_lists_and_deletes_container_files(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        file = await sdk.files.create(file=("shared", b"shared"), purpose="user_data")
        container = await sdk.containers.create(name="box", file_ids=[file.id])
        own = await sdk.containers.files.create(container.id, file=("own", FILE_BYTES))
        existing = await sdk.containers.files.create(container.id, file_id=file.id)
        names = [
            listed.path async for listed in sdk.containers.files.list(container.id, order="asc")
        ]
        contents = [
            (
                await sdk.containers.files.content.retrieve(file_id, container_id=container.id)
            ).content
            for file_id in (own.id, existing.id)
        ]
        assert (await sdk.containers.files.retrieve(own.id, container_id=container.id)) is not None
        await sdk.containers.files.delete(own.id, container_id=container.id)
        with pytest.raises(openai.NotFoundError):
            await sdk.containers.files.retrieve(own.id, container_id=container.id)
    assert names == ["/mnt/data/shared", "/mnt/data/own", "/mnt/data/shared"]
    assert contents == [FILE_BYTES, b"shared"]


async def test_sdk_lists_and_deletes_containers(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        first, second = [await sdk.containers.create(name=name) for name in ("one", "two")]
        assert [box.id async for box in sdk.containers.list(limit=1)] == [second.id, first.id]
        assert [box.id async for box in sdk.containers.list(name="one")] == [first.id]
        assert (await sdk.containers.retrieve(first.id)).name == "one"
        await sdk.containers.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            await sdk.containers.retrieve(first.id)
