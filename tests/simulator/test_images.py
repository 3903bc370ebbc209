"""Images."""

from typing import Literal

import pytest

from rustygate.simulator.endpoints.images import png
from tests.support.simulator import PICTURE, Site, deprecated, request


@pytest.mark.parametrize(
    ("model", "told", "as_url"),
    [
        ("gpt-image-1", None, False),
        ("dall-e-3", None, True),
        ("dall-e-3", "b64_json", False),
        ("gpt-image-1", "url", True),
    ],
)
async def test_sdk_generates_images(
    site: Site, model: str, told: Literal["url", "b64_json"] | None, as_url: bool
) -> None:
    async with site.sdk() as sdk:
        answer = await sdk.images.generate(model=model, prompt="A", n=2, response_format=told)
    assert answer.data is not None
    assert [image.b64_json is None for image in answer.data] == [as_url, as_url]
    assert len({image.b64_json or image.url for image in answer.data}) == 2


async def test_url_of_an_image_is_the_simulators_own(site: Site) -> None:
    async with site.sdk() as sdk:
        answer = await sdk.images.generate(model="dall-e-2", prompt="A")
    assert answer.data is not None
    url = answer.data[0].url
    assert url is not None
    path = url.removeprefix(f"http://127.0.0.1:{site.port}")
    image = await site.ask(request("GET", path))
    assert image.headers["content-type"] == "image/png"
    assert image.body == png(path[-10:-4])
    head = await site.ask(request("HEAD", path))
    assert (head.headers["content-length"], head.body) == (str(len(image.body)), b"")


async def test_sdk_edits_images(site: Site) -> None:
    async with site.sdk() as sdk:
        one = await sdk.images.edit(image=PICTURE, prompt="Bluer", model="gpt-image-1")
        two = await sdk.images.edit(image=[PICTURE, PICTURE], prompt="Bluer", mask=PICTURE)
    assert one.data is not None
    assert two.data is not None
    assert one.data[0].b64_json != two.data[0].b64_json
    assert one.usage is not None
    assert one.usage.input_tokens == 2


@deprecated
async def test_sdk_varies_an_image(site: Site) -> None:
    async with site.sdk() as sdk:
        answer = await sdk.images.create_variation(image=PICTURE, n=2)
    assert answer.data is not None
    assert all(image.url for image in answer.data)


async def test_sdk_streams_images(site: Site) -> None:
    async with site.sdk() as sdk:
        generated = [
            event.type
            async for event in await sdk.images.generate(
                model="gpt-image-1", prompt="A", stream=True, partial_images=2
            )
        ]
        edited = [
            event.type
            async for event in await sdk.images.edit(
                model="gpt-image-1", image=PICTURE, prompt="A", stream=True
            )
        ]
    assert generated == [
        "image_generation.partial_image",
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    assert edited == ["image_edit.completed"]
