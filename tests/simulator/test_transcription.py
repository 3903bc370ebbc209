"""Speech to text."""

import asyncio
from typing import Literal

import pytest

from rustygate.simulator.endpoints.transcription import MAX_FILE_BYTES
from tests.support.simulator import AUDIO, Simulator, build_form, ignore_deprecation
from tests.support.waiting import SOON_S


async def test_sdk_transcribes_the_same_file_to_the_same_text(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        first, second, other = [
            await sdk.audio.transcriptions.create(model="gpt-4o-transcribe", file=file)
            for file in (AUDIO, AUDIO, ("other.mp3", b"other"))
        ]
    assert first.text == second.text != other.text
    assert first.usage is not None
    assert first.usage.type == "tokens"
    assert first.usage.input_tokens == 30


async def test_sdk_transcription_streams_the_same_text(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        plain = await sdk.audio.transcriptions.create(model="m", file=AUDIO)
        events = [
            event
            async for event in await sdk.audio.transcriptions.create(
                model="m", file=AUDIO, stream=True
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


async def test_sdk_transcription_has_words_and_segments(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        response = await sdk.audio.transcriptions.create(
            model="whisper-1",
            file=AUDIO,
            response_format="verbose_json",
            timestamp_granularities=["word", "segment"],
        )
    assert (response.duration, response.language) == (3.0, "english")
    assert response.segments is not None
    assert response.words is not None
    assert " ".join(segment.text for segment in response.segments) == response.text
    assert " ".join(word.word for word in response.words) == response.text
    assert response.segments[-1].end == response.words[-1].end == 3.0


@pytest.mark.parametrize(
    ("response_format", "prefix"),
    [
        ("text", ""),
        ("srt", "1\n00:00:00,000 --> 00:00:00,805\n"),
        ("vtt", "WEBVTT\n\n1\n00:00:00.000 --> 00:00:00.805\n"),
    ],
)
async def test_sdk_transcribes_to_plain_text_formats(
    simulator: Simulator, response_format: Literal["text", "srt", "vtt"], prefix: str
) -> None:
    async with simulator.sdk() as sdk:
        plain = await sdk.audio.transcriptions.create(model="whisper-1", file=AUDIO)
        text = await sdk.audio.transcriptions.create(
            model="whisper-1", file=AUDIO, response_format=response_format
        )
    first_words = plain.text[:30]
    assert isinstance(text, str)
    assert text.startswith(prefix + first_words)


@ignore_deprecation
async def test_sdk_translates(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        plain = await sdk.audio.translations.create(model="whisper-1", file=AUDIO)
        verbose = await sdk.audio.translations.create(
            model="whisper-1", file=AUDIO, response_format="verbose_json"
        )
    assert plain.text == verbose.text
    assert verbose.duration == 3.0


async def test_audio_file_is_rejected_as_soon_as_it_is_too_long(simulator: Simulator) -> None:
    """The response comes in the middle of the upload, as OpenAI's may."""
    raw = build_form("/v1/audio/transcriptions", model="m", file=AUDIO)
    head, _, body = raw.partition(b"\r\n\r\n")
    partial_body = body[: len(body) - 100] + bytes(MAX_FILE_BYTES)
    content_length = f"Content-Length: {len(partial_body) + 1_000_000}".encode()
    head = b"\r\n".join(
        content_length if line.startswith(b"Content-Length") else line
        for line in head.split(b"\r\n")
    )
    reader, writer = await simulator.open(head + b"\r\n\r\n" + partial_body)
    line = await asyncio.wait_for(reader.readline(), SOON_S)
    writer.close()
    assert line.startswith(b"HTTP/1.1 413 ")
