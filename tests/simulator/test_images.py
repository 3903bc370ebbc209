"""Images."""

from typing import Literal

import pytest

from rustygate.simulator.endpoints.images import png
from tests.support.simulator import IMAGE, Simulator, build_request, ignore_deprecation


@pytest.mark.parametrize(
    ("model", "response_format", "as_url"),
    [
        ("gpt-image-1", None, False),
        ("dall-e-3", None, True),
        ("dall-e-3", "b64_json", False),
        ("gpt-image-1", "url", True),
    ],
)
async def test_sdk_generates_images(
    simulator: Simulator,
    model: str,
    response_format: Literal["url", "b64_json"] | None,
    as_url: bool,
) -> None:
    async with simulator.sdk() as sdk:
        response = await sdk.images.generate(
            model=model, prompt="A", n=2, response_format=response_format
        )
    assert response.data is not None
    assert [image.b64_json is None for image in response.data] == [as_url, as_url]
    assert len({image.b64_json or image.url for image in response.data}) == 2


async def test_image_url_is_served_by_the_simulator(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        response = await sdk.images.generate(model="dall-e-2", prompt="A")
    assert response.data is not None
    url = response.data[0].url
    assert url is not None
    path = url.removeprefix(f"http://127.0.0.1:{simulator.port}")
    image = await simulator.send(build_request("GET", path))
    assert image.headers["content-type"] == "image/png"
    assert image.body == png(path[-10:-4])
    head = await simulator.send(build_request("HEAD", path))
    assert (head.headers["content-length"], head.body) == (str(len(image.body)), b"")


async def test_sdk_edits_images(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        first = await sdk.images.edit(image=IMAGE, prompt="Bluer", model="gpt-image-1")
        second = await sdk.images.edit(image=[IMAGE, IMAGE], prompt="Bluer", mask=IMAGE)
    assert first.data is not None
    assert second.data is not None
    assert first.data[0].b64_json != second.data[0].b64_json
    assert first.usage is not None
    assert first.usage.input_tokens == 2


@ignore_deprecation
async def test_sdk_varies_an_image(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        response = await sdk.images.create_variation(image=IMAGE, n=2)
    assert response.data is not None
    assert all(image.url for image in response.data)


async def test_sdk_streams_images(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        generated = [
            event.type
            async for event in await sdk.images.generate(
                model="gpt-image-1", prompt="A", stream=True, partial_images=2
            )
        ]
        edited = [
            event.type
            async for event in await sdk.images.edit(
                model="gpt-image-1", image=IMAGE, prompt="A", stream=True
            )
        ]
    assert generated == [
        "image_generation.partial_image",
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    assert edited == ["image_edit.completed"]
