"""Each family of OpenAI's endpoints works through the gate as it does directly.

The simulator's responses to a request differ only in identifiers and times, so responses through
the gate can be compared with direct ones.
"""

import re
from collections.abc import Awaitable, Callable
from typing import Any

import openai
import pytest

from tests.conftest import StartGate
from tests.support.http import CLIENT_KEY, UPSTREAM_KEY
from tests.support.waiting import SOON_S

Call = Callable[[openai.AsyncOpenAI], Awaitable[Any]]

WAVE = b"RIFF" + bytes(range(256)) * 40
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20
BINARY = bytes(range(256)) * 512 + b"end"

# What differs from one response to the next.
_VARYING = re.compile(
    r"'(id|item_id|created|created_at|response_id|event_id|url|obfuscation|completed_at)': "
    r"('[^']*'|\d+(\.\d+)?|None)"
)


def comparable(value: Any) -> str:
    """A response as text, without identifiers and times."""
    if isinstance(value, list):
        return str([comparable(each) for each in value])
    dumped = value.model_dump() if hasattr(value, "model_dump") else value
    return _VARYING.sub(r"'\1': ...", str(dumped))


async def chat(sdk: openai.AsyncOpenAI) -> Any:
    return await sdk.chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": "Hello \N{GRINNING FACE}"}], n=2
    )


async def chat_stream(sdk: openai.AsyncOpenAI) -> Any:
    stream = await sdk.chat.completions.create(
        model="gpt-4o",
        messages=[{"role": "user", "content": "Hello"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    return [chunk async for chunk in stream]


async def response_stream(sdk: openai.AsyncOpenAI) -> Any:
    stream = await sdk.responses.create(model="gpt-5", input="Hello", stream=True)
    return [event async for event in stream]


async def completion_stream(sdk: openai.AsyncOpenAI) -> Any:
    stream = await sdk.completions.create(
        model="gpt-3.5-turbo-instruct", prompt=["a", "b"], stream=True
    )
    return [chunk async for chunk in stream]


async def transcription_stream(sdk: openai.AsyncOpenAI) -> Any:
    stream = await sdk.audio.transcriptions.create(
        model="gpt-4o-transcribe", file=("a.wav", WAVE), stream=True
    )
    return [event async for event in stream]


async def speech(sdk: openai.AsyncOpenAI) -> Any:
    response = await sdk.audio.speech.create(
        model="gpt-4o-mini-tts", voice="alloy", input="Hello", response_format="pcm"
    )
    return response.content


async def file_content(sdk: openai.AsyncOpenAI) -> Any:
    file = await sdk.files.create(
        file=("n\N{LATIN SMALL LETTER A WITH DIAERESIS}.bin", BINARY), purpose="user_data"
    )
    content = (await sdk.files.content(file.id)).content
    part = await sdk.files.with_raw_response.content(
        file.id, extra_headers={"Range": "bytes=5-104"}
    )
    await sdk.files.delete(file.id)
    assert content == BINARY
    assert part.content == BINARY[5:105]
    return [file.filename, file.bytes, part.http_response.status_code]


async def upload(sdk: openai.AsyncOpenAI) -> Any:
    started_upload = await sdk.uploads.create(
        bytes=len(BINARY), filename="a.bin", mime_type="x/y", purpose="user_data"
    )
    half = len(BINARY) // 2
    parts = [
        (await sdk.uploads.parts.create(started_upload.id, data=data)).id
        for data in (BINARY[:half], BINARY[half:])
    ]
    completed = await sdk.uploads.complete(started_upload.id, part_ids=parts)
    assert completed.file is not None
    return (await sdk.files.content(completed.file.id)).content


CALLS: dict[str, Call] = {
    "chat": chat,
    "chat, streamed": chat_stream,
    "response": lambda sdk: sdk.responses.create(model="gpt-5", input="Hello"),
    "response, streamed": response_stream,
    "completion": lambda sdk: sdk.completions.create(
        model="gpt-3.5-turbo-instruct", prompt="Hello"
    ),
    "completion, streamed": completion_stream,
    "embeddings": lambda sdk: sdk.embeddings.create(
        model="text-embedding-3-small", input=["a", "b"]
    ),
    "moderation": lambda sdk: sdk.moderations.create(input=["violence", "flowers"]),
    "transcription": lambda sdk: sdk.audio.transcriptions.create(
        model="whisper-1", file=("a.wav", WAVE), response_format="verbose_json"
    ),
    "transcription, streamed": transcription_stream,
    "translation": lambda sdk: sdk.audio.translations.create(
        model="whisper-1", file=("a.wav", WAVE)
    ),
    "speech": speech,
    "image": lambda sdk: sdk.images.generate(model="gpt-image-1", prompt="a gate"),
    "image, edited": lambda sdk: sdk.images.edit(
        model="gpt-image-1", image=("a.png", PICTURE), prompt="a gate"
    ),
    "files": file_content,
    "upload in parts": upload,
    "models": lambda sdk: sdk.models.retrieve("gpt-4o"),
}


def sdk(base_url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=base_url, api_key=CLIENT_KEY, max_retries=0, timeout=SOON_S)


# The SDK deprecates translations, but OpenAI still serves them.
@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_endpoint_works_as_it_does_directly(
    gate: StartGate, simulator: str, call: Call
) -> None:
    running = await gate(OPENAI_BASE_URL=simulator)
    async with sdk(simulator) as direct, sdk(f"{running.url}/v1") as through_gate:
        expected = comparable(await call(direct))
        assert comparable(await call(through_gate)) == expected
    assert {line["outcome"] for line in running.log.exchanges} <= {"ok"}


async def conversation(client: openai.AsyncOpenAI) -> list[str]:
    """A realtime conversation: the types and texts of its events."""
    events = []
    async with client.realtime.connect(model="gpt-realtime") as connection:
        await connection.session.update(
            session={"type": "realtime", "output_modalities": ["text"]}
        )
        await connection.conversation.item.create(
            item={
                "type": "message",
                "role": "user",
                "content": [{"type": "input_text", "text": "Hello"}],
            }
        )
        await connection.response.create()
        async for event in connection:
            events.append(f"{event.type} {getattr(event, 'delta', '')}")
            if event.type == "response.done":
                break
    return events


async def test_realtime_works_as_it_does_directly(gate: StartGate, simulator: str) -> None:
    running = await gate(OPENAI_BASE_URL=simulator)
    async with sdk(simulator) as direct, sdk(f"{running.url}/v1") as through_gate:
        expected = await conversation(direct)
        assert await conversation(through_gate) == expected
    turn, socket = await running.settled(2)
    assert (socket["status"], socket["outcome"], socket["model"]) == (101, "ok", "gpt-realtime")
    assert turn["id"].startswith(f"{socket['id']}.")
    assert (turn["outcome"], turn["model"]) == ("ok", "gpt-realtime")
    assert turn["tokens_out"]


async def test_client_key_is_not_sent_upstream(gate: StartGate, simulator: str) -> None:
    running = await gate(OPENAI_BASE_URL=simulator)
    async with sdk(f"{running.url}/v1") as through_gate:
        await through_gate.models.list()
        stats = await through_gate.get(
            f"{simulator.removesuffix('/v1')}/simulator/stats", cast_to=dict[str, Any]
        )
    assert list(stats["keys"]) == [f"...{UPSTREAM_KEY[-4:]}"]
