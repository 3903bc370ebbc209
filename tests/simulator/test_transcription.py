"""Speech to text."""

import asyncio
from typing import Literal

import pytest

from rustygate.simulator.endpoints.transcription import MOST_BYTES
from tests.support.simulator import SOON_S, SOUND, Site, deprecated, form


async def test_sdk_transcribes_the_same_file_to_the_same_text(site: Site) -> None:
    async with site.sdk() as sdk:
        one, two, other = [
            await sdk.audio.transcriptions.create(model="gpt-4o-transcribe", file=file)
            for file in (SOUND, SOUND, ("other.mp3", b"other"))
        ]
    assert one.text == two.text != other.text
    assert one.usage is not None
    assert one.usage.type == "tokens"
    assert one.usage.input_tokens == 30


async def test_sdk_transcription_streams_the_same_text(site: Site) -> None:
    async with site.sdk() as sdk:
        plain = await sdk.audio.transcriptions.create(model="m", file=SOUND)
        events = [
            event
            async for event in await sdk.audio.transcriptions.create(
                model="m", file=SOUND, stream=True
            )
        ]
    deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
    assert "".join(deltas) == plain.text
    done = events[-1]
    assert done.type == "transcript.text.done"
    assert done.text == plain.text
    assert done.usage is not None
    assert (done.usage.input_tokens, done.usage.output_tokens) == (30, 48)
    assert len(events) == len(deltas) + 1


async def test_sdk_transcription_tells_its_words_and_segments(site: Site) -> None:
    async with site.sdk() as sdk:
        answer = await sdk.audio.transcriptions.create(
            model="whisper-1",
            file=SOUND,
            response_format="verbose_json",
            timestamp_granularities=["word", "segment"],
        )
    assert (answer.duration, answer.language) == (3.0, "english")
    assert answer.segments is not None
    assert answer.words is not None
    assert " ".join(segment.text for segment in answer.segments) == answer.text
    assert " ".join(word.word for word in answer.words) == answer.text
    assert answer.segments[-1].end == answer.words[-1].end == 3.0


@pytest.mark.parametrize(
    ("format_", "begins"),
    [
        ("text", ""),
        ("srt", "1\n00:00:00,000 --> 00:00:00,688\n"),
        ("vtt", "WEBVTT\n\n1\n00:00:00.000 --> 00:00:00.688\n"),
    ],
)
async def test_sdk_transcribes_to_text(
    site: Site, format_: Literal["text", "srt", "vtt"], begins: str
) -> None:
    async with site.sdk() as sdk:
        plain = await sdk.audio.transcriptions.create(model="whisper-1", file=SOUND)
        text = await sdk.audio.transcriptions.create(
            model="whisper-1", file=SOUND, response_format=format_
        )
    first_words = plain.text[:30]
    assert isinstance(text, str)
    assert text.startswith(begins + first_words)


@deprecated
async def test_sdk_translates(site: Site) -> None:
    async with site.sdk() as sdk:
        plain = await sdk.audio.translations.create(model="whisper-1", file=SOUND)
        verbose = await sdk.audio.translations.create(
            model="whisper-1", file=SOUND, response_format="verbose_json"
        )
    assert plain.text == verbose.text
    assert verbose.duration == 3.0


async def test_audio_file_is_refused_as_soon_as_it_is_too_long(site: Site) -> None:
    """The answer comes in the middle of the upload, as OpenAI's may."""
    head, _, body = form("/v1/audio/transcriptions", model="m", file=SOUND).partition(b"\r\n\r\n")
    half = body[: len(body) - 100] + bytes(MOST_BYTES)
    length = f"Content-Length: {len(half) + 1_000_000}".encode()
    head = b"\r\n".join(
        length if line.startswith(b"Content-Length") else line for line in head.split(b"\r\n")
    )
    reader, writer = await site.send(head + b"\r\n\r\n" + half)
    line = await asyncio.wait_for(reader.readline(), SOON_S)
    writer.close()
    assert line.startswith(b"HTTP/1.1 413 ")
