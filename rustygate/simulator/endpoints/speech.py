"""Text to speech: `POST /v1/audio/speech`.

The sound is a quiet buzz or silence. MP3, WAV and PCM can be played; the other formats have
their first bytes right, and no more.
"""

import struct
from base64 import b64encode
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from msgspec import Meta

from rustygate.simulator.response_bodies import Answer, Event, Events, Pieces, json_text
from rustygate.simulator.schemas import Asked, Name, Usage
from rustygate.simulator.text import input_tokens

# A quarter of a second of 16 bits at 24 kHz, as OpenAI's PCM is.
_PCM = struct.pack("<6000h", *(number % 64 for number in range(6000)))

# A WAV head whose lengths are unknown, as of all that is streamed.
_WAV = b"RIFF\xff\xff\xff\xffWAVEfmt " + struct.pack(
    "<IHHIIHH4sI", 16, 1, 1, 24_000, 48_000, 2, 16, b"data", 0xFFFFFFFF
)

# Frames of 26 ms: MPEG-1 layer III, 128 kbit/s, 44.1 kHz, and nothing in it.
_MP3 = (b"\xff\xfb\x90\x64" + bytes(413)) * 10

# Format to media type, what stands at the beginning, and a token's sound.
_FORMATS = {
    "mp3": ("audio/mpeg", b"", _MP3),
    "opus": ("audio/ogg", b"OggS\x00\x02", bytes(1200)),
    "aac": ("audio/aac", b"\xff\xf1\x50\x80", bytes(4000)),
    "flac": ("audio/flac", b"fLaC\x00\x00\x00\x22", bytes(8000)),
    "wav": ("audio/wav", _WAV, _PCM),
    "pcm": ("audio/pcm", b"", _PCM),
}


class SpeechAsked(Asked, kw_only=True):
    """A request to read a text aloud; each of its tokens takes a quarter of a second."""

    input: Annotated[str, Meta(min_length=1, max_length=4096)]
    voice: Name | dict[str, Any]
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] = "mp3"
    stream_format: Literal["audio", "sse"] = "audio"

    def usage(self, wanted: int | None) -> Usage:
        tokens = input_tokens(self.input)
        return Usage(tokens, wanted or tokens)

    def cost(self, wanted: int | None) -> int:
        return self.usage(wanted).total

    def answer(self, wanted: int | None, origin: str) -> Answer:
        if self.stream_format == "sse":
            return Events(self._events(wanted))
        return Pieces(self._sound(wanted), _FORMATS[self.response_format][0])

    def _sound(self, wanted: int | None) -> Iterator[bytes]:
        _, head, token = _FORMATS[self.response_format]
        for number in range(self.usage(wanted).tokens_out):
            yield token if number else head + token

    def _events(self, wanted: int | None) -> Iterator[Event]:
        for sound in self._sound(wanted):
            delta = {"type": "speech.audio.delta", "audio": b64encode(sound).decode()}
            yield Event(json_text(delta), paced=True)
        usage = self.usage(wanted)
        tokens = {
            "input_tokens": usage.tokens_in,
            "output_tokens": usage.tokens_out,
            "total_tokens": usage.total,
        }
        yield Event(json_text({"type": "speech.audio.done", "usage": tokens}))
