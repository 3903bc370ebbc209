"""Text to speech."""

import json
import struct
import wave
from io import BytesIO

import pytest

from tests.support.simulator import Site


async def test_sdk_speech_is_a_wave_that_can_be_read(site: Site) -> None:
    async with site.sdk() as sdk:
        sound = await sdk.audio.speech.create(
            model="tts-1", voice="alloy", input="sixteen letters.", response_format="wav"
        )
    data = bytearray(sound.content)
    # Whoever streams a WAV cannot know its lengths; the reader wants them.
    data[4:8], data[40:44] = struct.pack("<I", len(data) - 8), struct.pack("<I", len(data) - 44)
    with wave.open(BytesIO(data)) as wav:
        assert (wav.getframerate(), wav.getnframes()) == (24_000, 4 * 6000)


@pytest.mark.parametrize(
    ("format_", "type_", "begins"),
    [
        ("mp3", "audio/mpeg", b"\xff\xfb"),
        ("opus", "audio/ogg", b"OggS"),
        ("aac", "audio/aac", b"\xff\xf1"),
        ("flac", "audio/flac", b"fLaC"),
        ("pcm", "audio/pcm", b"\x00\x00\x01\x00"),
    ],
)
async def test_speech_is_chunked_and_of_its_format(
    site: Site, format_: str, type_: str, begins: bytes
) -> None:
    body = {"model": "tts-1", "voice": {"id": "v"}, "input": "hello", "response_format": format_}
    answer = await site.post("/audio/speech", body)
    assert answer.headers["content-type"] == type_
    assert answer.headers["transfer-encoding"] == "chunked"
    assert answer.whole
    assert answer.body.startswith(begins)


async def test_speech_streams_as_events_too(site: Site) -> None:
    body = {"model": "m", "voice": "a", "input": "12345678", "stream_format": "sse"}
    answer = await site.post("/audio/speech", body)
    events = [json.loads(event[6:]) for event in answer.body.split(b"\n\n") if event]
    assert [event["type"] for event in events] == [
        "speech.audio.delta",
        "speech.audio.delta",
        "speech.audio.done",
    ]
    assert events[-1]["usage"]["total_tokens"] == 4


@pytest.mark.parametrize(
    ("simulate", "size"), [("cut=0", 0), ("cut=2", 8340), ("cut_inside=1", 4170 + 2085)]
)
async def test_speech_is_cut_after_so_many_pieces(site: Site, simulate: str, size: int) -> None:
    body = {"model": "m", "voice": "a", "input": "a" * 40}
    answer = await site.post("/audio/speech", body, simulate=simulate)
    assert not answer.whole
    assert len(answer.body) == size
