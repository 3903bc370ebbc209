"""Text to speech: `POST /v1/audio/speech`.

The audio is a quiet buzz or silence. MP3, WAV and PCM can be played; in other formats only the
first bytes are valid.
"""

import struct
from base64 import b64encode
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from msgspec import Meta

from rustygate.simulator.response_bodies import (
    Event,
    EventStream,
    ResponseBody,
    StreamedBody,
    json_text,
)
from rustygate.simulator.schemas import ModelRequest, Name, Usage
from rustygate.simulator.text import estimate_tokens

# A quarter of a second of 16-bit audio at 24 kHz, the format of OpenAI's PCM.
_PCM = struct.pack("<6000h", *(number % 64 for number in range(6000)))

# A WAV header whose lengths are unknown, as usual when streaming.
_WAV = b"RIFF\xff\xff\xff\xffWAVEfmt " + struct.pack(
    "<IHHIIHH4sI", 16, 1, 1, 24_000, 48_000, 2, 16, b"data", 0xFFFFFFFF
)

# Silent frames of 26 ms: MPEG-1 layer III, 128 kbit/s, 44.1 kHz.
_MP3 = (b"\xff\xfb\x90\x64" + bytes(413)) * 10

# Media type, header, and the audio of one token, by format.
_FORMATS = {
    "mp3": ("audio/mpeg", b"", _MP3),
    "opus": ("audio/ogg", b"OggS\x00\x02", bytes(1200)),
    "aac": ("audio/aac", b"\xff\xf1\x50\x80", bytes(4000)),
    "flac": ("audio/flac", b"fLaC\x00\x00\x00\x22", bytes(8000)),
    "wav": ("audio/wav", _WAV, _PCM),
    "pcm": ("audio/pcm", b"", _PCM),
}


class SpeechRequest(ModelRequest, kw_only=True):
    """A request to read a text aloud; each token is a quarter of a second of audio."""

    input: Annotated[str, Meta(min_length=1, max_length=4096)]
    voice: Name | dict[str, Any]
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] = "mp3"
    stream_format: Literal["audio", "sse"] = "audio"

    def usage(self, forced_tokens: int | None) -> Usage:
        tokens = estimate_tokens(self.input)
        return Usage(tokens, forced_tokens or tokens)

    def cost(self, forced_tokens: int | None) -> int:
        return self.usage(forced_tokens).total

    def response_body(self, forced_tokens: int | None, base_url: str) -> ResponseBody:
        if self.stream_format == "sse":
            return EventStream(self._events(forced_tokens))
        return StreamedBody(self._audio_chunks(forced_tokens), _FORMATS[self.response_format][0])

    def _audio_chunks(self, forced_tokens: int | None) -> Iterator[bytes]:
        _, header, token = _FORMATS[self.response_format]
        for number in range(self.usage(forced_tokens).tokens_out):
            yield token if number else header + token

    def _events(self, forced_tokens: int | None) -> Iterator[Event]:
        for chunk in self._audio_chunks(forced_tokens):
            delta = {"type": "speech.audio.delta", "audio": b64encode(chunk).decode()}
            yield Event(json_text(delta), paced=True)
        usage = self.usage(forced_tokens)
        tokens = {
            "input_tokens": usage.tokens_in,
            "output_tokens": usage.tokens_out,
            "total_tokens": usage.total,
        }
        yield Event(json_text({"type": "speech.audio.done", "usage": tokens}))
