"""Images: `POST /v1/images/generations`, `/edits` and `/variations`.

Each image is a PNG of 8 by 8 pixels in one colour, which depends on the request. The URL of an
image leads to the simulator itself: `/simulator/images/COLOUR.png`.
"""

import struct
import time
import zlib
from abc import abstractmethod
from base64 import b64encode
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from rustygate.simulator.response_bodies import Event, ResponseBody, json_body, named_event
from rustygate.simulator.schemas import Name, StreamableRequest, Usage
from rustygate.simulator.storage.file_store import UploadedFile
from rustygate.simulator.text import estimate_tokens, output_tokens, seed_from

_SIDE_PIXELS = 8


def png(colour: str) -> bytes:
    """An image in one colour, given as six hexadecimal digits."""
    header = struct.pack(">IIBBBBB", _SIDE_PIXELS, _SIDE_PIXELS, 8, 2, 0, 0, 0)
    rows = (b"\0" + bytes.fromhex(colour) * _SIDE_PIXELS) * _SIDE_PIXELS
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


class ImagesRequest(StreamableRequest, kw_only=True):
    """A request for images; subclasses define what they are made from."""

    KIND: ClassVar[str]

    model: Name = "gpt-image-1"
    n: Annotated[int, Meta(ge=1, le=10)] | None = None
    size: Name | None = None
    response_format: Literal["url", "b64_json"] | None = None
    partial_images: Annotated[int, Meta(ge=0, le=3)] | None = None

    @property
    @abstractmethod
    def source(self) -> str:
        """The input that the colours are made from."""

    @property
    def tokens_in(self) -> int:
        return estimate_tokens(self.source)

    @property
    def _as_url(self) -> bool:
        """Whether the response has URLs; by default, only that of older models does."""
        if self.response_format is None:
            return self.model.startswith("dall-e")
        return self.response_format == "url"

    def usage(self, forced_tokens: int | None) -> Usage:
        return Usage(self.tokens_in, (self.n or 1) * output_tokens(None, forced_tokens))

    def cost(self, forced_tokens: int | None) -> int:
        return self.usage(forced_tokens).total

    def response_body(self, forced_tokens: int | None, base_url: str) -> ResponseBody:
        if self._as_url and not self.stream:
            images = f"{base_url}/simulator/images"
            data = [{"url": f"{images}/{colour}.png"} for colour in self._colours()]
            return json_body({"created": int(time.time()), "data": data})
        return super().response_body(forced_tokens, base_url)

    def json_object(self, forced_tokens: int | None) -> dict[str, Any]:
        return {
            "created": int(time.time()),
            "data": [{"b64_json": _b64(colour)} for colour in self._colours()],
            "background": "opaque",
            "output_format": "png",
            "quality": "low",
            "size": self._size,
            "usage": _usage(self.usage(forced_tokens)),
        }

    def events(self, forced_tokens: int | None) -> Iterator[Event]:
        image = {
            "b64_json": _b64(next(self._colours())),
            "created_at": int(time.time()),
            "size": self._size,
            "quality": "low",
            "background": "opaque",
            "output_format": "png",
        }
        for index in range(self.partial_images or 0):
            kind = {"type": f"{self.KIND}.partial_image", "partial_image_index": index}
            yield named_event(kind | image, paced=True)
        done = {"type": f"{self.KIND}.completed", "usage": _usage(self.usage(forced_tokens))}
        yield named_event(done | image, paced=True)

    @property
    def _size(self) -> str:
        return self.size or "1024x1024"

    def _colours(self) -> Iterator[str]:
        for index in range(self.n or 1):
            seed = seed_from(self.model, self.source, str(index))
            yield f"{seed % 0x1000000:06x}"


class ImageGenerationRequest(ImagesRequest, kw_only=True):
    """A request for images that match a prompt."""

    KIND: ClassVar[str] = "image_generation"

    prompt: Annotated[str, Meta(min_length=1, max_length=32_000)]

    @property
    def source(self) -> str:
        return self.prompt


class ImageEditRequest(ImageGenerationRequest, kw_only=True):
    """A request for edited versions of images."""

    KIND: ClassVar[str] = "image_edit"

    # One file or a list of files; msgspec does not support such a union of custom types.
    image: Any
    mask: UploadedFile | None = None

    def __post_init__(self) -> None:
        """Reject invalid input that the types allow."""
        if not self._files or not all(isinstance(file, UploadedFile) for file in self._files):
            raise ValueError("Expected a file or a list of files - at `$.image`")

    @property
    def _files(self) -> list[UploadedFile]:
        return self.image if isinstance(self.image, list) else [self.image]

    @property
    def source(self) -> str:
        return " ".join([self.prompt, *(file.sha256 for file in self._files)])

    @property
    def tokens_in(self) -> int:
        return estimate_tokens(self.prompt)


class ImageVariationRequest(ImagesRequest, kw_only=True):
    """A request for variations of an image."""

    model: Name = "dall-e-2"
    image: UploadedFile

    @property
    def source(self) -> str:
        return self.image.sha256

    @property
    def tokens_in(self) -> int:
        return 0


def _b64(colour: str) -> str:
    return b64encode(png(colour)).decode()


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.tokens_in,
        "input_tokens_details": {"text_tokens": usage.tokens_in, "image_tokens": 0},
        "output_tokens": usage.tokens_out,
        "total_tokens": usage.total,
    }
