"""Text to speech."""

import json
import struct
import wave
from io import BytesIO

import pytest

from tests.support.simulator import Simulator


async def test_sdk_speech_is_a_readable_wav(simulator: Simulator) -> None:
    async with simulator.sdk() as sdk:
        speech = await sdk.audio.speech.create(
            model="tts-1", voice="alloy", input="sixteen letters.", response_format="wav"
        )
    data = bytearray(speech.content)
    # A streamed WAV has no lengths, but the reader needs them.
    data[4:8], data[40:44] = struct.pack("<I", len(data) - 8), struct.pack("<I", len(data) - 44)
    with wave.open(BytesIO(data)) as wav:
        assert (wav.getframerate(), wav.getnframes()) == (24_000, 4 * 6000)


@pytest.mark.parametrize(
    ("response_format", "content_type", "prefix"),
    [
        ("mp3", "audio/mpeg", b"\xff\xfb"),
        ("opus", "audio/ogg", b"OggS"),
        ("aac", "audio/aac", b"\xff\xf1"),
        ("flac", "audio/flac", b"fLaC"),
        ("pcm", "audio/pcm", b"\x00\x00\x01\x00"),
    ],
)
async def test_speech_is_chunked_and_has_its_format(
    simulator: Simulator, response_format: str, content_type: str, prefix: bytes
) -> None:
    body = {
        "model": "tts-1",
        "voice": {"id": "v"},
        "input": "hello",
        "response_format": response_format,
    }
    response = await simulator.post("/audio/speech", body)
    assert response.headers["content-type"] == content_type
    assert response.headers["transfer-encoding"] == "chunked"
    assert response.complete
    assert response.body.startswith(prefix)


async def test_speech_streams_as_events(simulator: Simulator) -> None:
    body = {"model": "m", "voice": "a", "input": "12345678", "stream_format": "sse"}
    response = await simulator.post("/audio/speech", body)
    events = [json.loads(event[6:]) for event in response.body.split(b"\n\n") if event]
    assert [event["type"] for event in events] == [
        "speech.audio.delta",
        "speech.audio.delta",
        "speech.audio.done",
    ]
    assert events[-1]["usage"]["total_tokens"] == 4


@pytest.mark.parametrize(
    ("simulate", "size"), [("cut=0", 0), ("cut=2", 8340), ("cut_inside=1", 4170 + 2085)]
)
async def test_speech_is_cut_after_the_requested_chunks(
    simulator: Simulator, simulate: str, size: int
) -> None:
    body = {"model": "m", "voice": "a", "input": "a" * 40}
    response = await simulator.post("/audio/speech", body, simulate=simulate)
    assert not response.complete
    assert len(response.body) == size
