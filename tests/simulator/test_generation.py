"""What the simulator's models answer beyond chat: completions, moderations, audio, images."""

import asyncio
import json
import struct
import wave
from collections.abc import AsyncIterator
from io import BytesIO
from typing import Any, Literal

import openai
import pytest
from openai.types import ModerationMultiModalInputParam

from rustygate.simulator import Options
from rustygate.simulator.endpoints.images import png
from rustygate.simulator.endpoints.transcription import MOST_BYTES
from tests.support.simulator import KEY, SOON_S, Site, form, post, request, running

SOUND = ("speech.mp3", bytes(48_000), "audio/mpeg")
# The SDK says so of some of its functions; they are there for apps that are not new.
deprecated = pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")

PICTURE = ("picture.png", png("ff0000"), "image/png")


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with running(Options()) as site:
        yield site


# Completions


async def test_sdk_completes_each_prompt_n_times(site: Site) -> None:
    async with site.sdk() as sdk:
        answer = await sdk.completions.create(
            model="gpt-3.5-turbo-instruct", prompt=["one", "two"], n=2, max_tokens=3
        )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert len({choice.text for choice in answer.choices}) == 4
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 12)


async def test_sdk_completion_streams_the_same_text_that_a_plain_one_has(site: Site) -> None:
    async with site.sdk() as sdk:
        plain = await sdk.completions.create(model="m", prompt="Once upon", echo=True)
        chunks = [
            chunk
            async for chunk in await sdk.completions.create(
                model="m",
                prompt="Once upon",
                echo=True,
                stream=True,
                stream_options={"include_usage": True},
            )
        ]
    text = "".join(choice.text for chunk in chunks for choice in chunk.choices)
    assert text == plain.choices[0].text
    assert text.startswith("Once upon")
    assert chunks[-1].usage == plain.usage
    assert plain.usage is not None
    assert plain.usage.completion_tokens == 16


@pytest.mark.parametrize("prompt", [[1, 2, 3], [[1, 2], [3]]], ids=["tokens", "lists"])
async def test_tokens_are_a_prompt_too(site: Site, prompt: list[Any]) -> None:
    answer = await site.post("/completions", {"model": "m", "prompt": prompt})
    assert json.loads(answer.body)["usage"]["prompt_tokens"] == 3


@pytest.mark.parametrize("prompt", [["a", 1], [], ["a"] * 129, None, [[]]])
async def test_bad_prompt_is_a_400(site: Site, prompt: object) -> None:
    answer = await site.post("/completions", {"model": "m", "prompt": prompt})
    assert (answer.status, answer.error["param"]) == (400, "prompt")


# Moderations


async def test_sdk_moderates_each_text(site: Site) -> None:
    async with site.sdk() as sdk:
        answer = await sdk.moderations.create(input=["a walk", "violence/graphic"])
    assert answer.model == "omni-moderation-latest"
    assert [result.flagged for result in answer.results] == [False, True]
    assert answer.results[1].categories.violence_graphic
    assert answer.results[1].category_scores.violence_graphic > 0.5
    assert answer.results[0].category_applied_input_types.violence == ["text"]


async def test_sdk_moderates_parts_together(site: Site) -> None:
    parts: list[ModerationMultiModalInputParam] = [
        {"type": "text", "text": "hate"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    async with site.sdk() as sdk:
        answer = await sdk.moderations.create(model="omni-moderation-latest", input=parts)
    [result] = answer.results
    assert result.categories.hate
    assert result.category_applied_input_types.violence == ["image", "text"]
    assert result.category_applied_input_types.hate == ["text"]


# Speech to text


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


# Text to speech


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


# Images


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


# What all have in common


JSON_ENDPOINTS = {
    "/completions": {"model": "m", "prompt": "x"},
    "/moderations": {"model": "m", "input": "x"},
    "/audio/speech": {"model": "m", "input": "x", "voice": "v"},
    "/images/generations": {"model": "m", "prompt": "x"},
}
FORMS: dict[str, dict[str, Any]] = {
    "/audio/transcriptions": {"model": "m", "file": SOUND},
    "/audio/translations": {"model": "m", "file": SOUND},
    "/images/edits": {"model": "m", "prompt": "x", "image": PICTURE},
    "/images/variations": {"model": "m", "image": PICTURE},
}
ENDPOINTS = [post(path, body) for path, body in JSON_ENDPOINTS.items()] + [
    form(f"/v1{path}", **fields) for path, fields in FORMS.items()
]
PATHS = [*JSON_ENDPOINTS, *FORMS]


@pytest.mark.parametrize("raw", ENDPOINTS, ids=PATHS)
async def test_model_answers_with_its_six_headers_and_beyond_its_limit_does_not(
    raw: bytes,
) -> None:
    async with running(Options(rpm=1)) as site:
        answers = [await site.ask(raw) for _ in range(2)]
    assert [answer.status for answer in answers] == [200, 429]
    for answer in answers:
        assert answer.headers["x-ratelimit-limit-requests"] == "1"
        assert answer.headers["x-ratelimit-remaining-requests"] == "0"
        assert answer.headers["x-ratelimit-limit-tokens"] == "200000"
        assert "x-ratelimit-reset-tokens" in answer.headers


@pytest.mark.parametrize("simulate", ["503", "cut", "stall=0"])
@pytest.mark.parametrize("raw", ENDPOINTS, ids=PATHS)
async def test_faults_strike_everywhere(site: Site, raw: bytes, simulate: str) -> None:
    raw = raw.replace(b"\r\n\r\n", f"\r\nX-Simulate: {simulate}\r\n\r\n".encode(), 1)
    reader, writer = await site.send(raw)
    line = await asyncio.wait_for(reader.readline(), SOON_S)
    assert line.startswith(b"HTTP/1.1 503 " if simulate == "503" else b"HTTP/1.1 200 ")
    writer.close()
    await site.stats_until(lambda stats: stats["requests_open"] == 0)


@pytest.mark.parametrize(("path", "body"), JSON_ENDPOINTS.items(), ids=JSON_ENDPOINTS)
async def test_no_value_in_any_field_breaks_it(
    site: Site, path: str, body: dict[str, object]
) -> None:
    fields = {*body, "n", "stream", "response_format", "size", "echo", "stream_format", "user"}
    strange: list[object] = [True, -1, 10**30, 1.5, [], [1], {}, "", "\x00", [[[]]], None]
    for field in fields:
        for value in strange:
            answer = await site.post(path, body | {field: value})
            assert answer.status in (200, 400, 429), (field, value)
            assert answer.whole


@deprecated
async def test_sdk_raises_what_a_form_lacks(site: Site) -> None:
    async with site.sdk() as sdk:
        with pytest.raises(openai.BadRequestError) as error:
            await sdk.images.create_variation(image=PICTURE, n=11)
    assert (error.value.param, error.value.type) == ("n", "invalid_request_error")


async def test_key_is_wanted_before_a_form_is_read(site: Site) -> None:
    raw = form("/v1/audio/transcriptions", model="m", file=SOUND)
    answer = await site.ask(raw.replace(KEY.encode(), b""))
    assert answer.status == 401
