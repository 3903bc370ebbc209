"""Images: `POST /v1/images/generations`, `/edits` and `/variations`.

Each is a PNG of 8 by 8 pixels in one colour, which depends on the request. An image that is
answered as a URL is served by the simulator itself, at `/simulator/images/COLOUR.png`.
"""

import struct
import time
import zlib
from abc import abstractmethod
from base64 import b64encode
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from rustygate.simulator.response_bodies import Answer, Event, json_answer, named
from rustygate.simulator.schemas import Name, Streamable, Usage
from rustygate.simulator.storage.file_store import UploadedFile
from rustygate.simulator.text import input_tokens, length, seed_of

_SIDE = 8


def png(colour: str) -> bytes:
    """An image in a colour of six hexadecimal digits."""
    header = struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 2, 0, 0, 0)
    rows = (b"\0" + bytes.fromhex(colour) * _SIDE) * _SIDE
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


class ImagesAsked(Streamable, kw_only=True):
    """A request for images; what they are made from is the subclasses' to say."""

    KIND: ClassVar[str]

    model: Name = "gpt-image-1"
    n: Annotated[int, Meta(ge=1, le=10)] | None = None
    size: Name | None = None
    response_format: Literal["url", "b64_json"] | None = None
    partial_images: Annotated[int, Meta(ge=0, le=3)] | None = None

    @property
    @abstractmethod
    def source(self) -> str:
        """What the images are made from."""

    @property
    def tokens_in(self) -> int:
        return input_tokens(self.source)

    @property
    def _as_url(self) -> bool:
        """Whether images are answered as URLs: the older models' way, unless told otherwise."""
        if self.response_format is None:
            return self.model.startswith("dall-e")
        return self.response_format == "url"

    def usage(self, wanted: int | None) -> Usage:
        return Usage(self.tokens_in, (self.n or 1) * length(None, wanted))

    def cost(self, wanted: int | None) -> int:
        return self.usage(wanted).total

    def answer(self, wanted: int | None, origin: str) -> Answer:
        if self._as_url and not self.stream:
            data = [{"url": f"{origin}/simulator/images/{one}.png"} for one in self._colours()]
            return json_answer({"created": int(time.time()), "data": data})
        return super().answer(wanted, origin)

    def plain(self, wanted: int | None) -> dict[str, Any]:
        return {
            "created": int(time.time()),
            "data": [{"b64_json": _b64(colour)} for colour in self._colours()],
            "background": "opaque",
            "output_format": "png",
            "quality": "low",
            "size": self._size,
            "usage": _usage(self.usage(wanted)),
        }

    def events(self, wanted: int | None) -> Iterator[Event]:
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
            yield named(kind | image, paced=True)
        done = {"type": f"{self.KIND}.completed", "usage": _usage(self.usage(wanted))}
        yield named(done | image, paced=True)

    @property
    def _size(self) -> str:
        return self.size or "1024x1024"

    def _colours(self) -> Iterator[str]:
        for index in range(self.n or 1):
            seed = seed_of(self.model, self.source, str(index))
            yield f"{seed % 0x1000000:06x}"


class GenerationAsked(ImagesAsked, kw_only=True):
    """A request for images of what is described."""

    KIND: ClassVar[str] = "image_generation"

    prompt: Annotated[str, Meta(min_length=1, max_length=32_000)]

    @property
    def source(self) -> str:
        return self.prompt


class EditAsked(GenerationAsked, kw_only=True):
    """A request for images made from others."""

    KIND: ClassVar[str] = "image_edit"

    # A file or a list of them, which msgspec cannot say of a type that is not its own.
    image: Any
    mask: UploadedFile | None = None

    def __post_init__(self) -> None:
        """Refuse what the types let pass."""
        if not self._files or not all(isinstance(one, UploadedFile) for one in self._files):
            raise ValueError("Expected a file, or files - at `$.image`")

    @property
    def _files(self) -> list[UploadedFile]:
        return self.image if isinstance(self.image, list) else [self.image]

    @property
    def source(self) -> str:
        return " ".join([self.prompt, *(file.sha256 for file in self._files)])

    @property
    def tokens_in(self) -> int:
        return input_tokens(self.prompt)


class VariationAsked(ImagesAsked, kw_only=True):
    """A request for images like another."""

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
