"""Speech to text: `POST /v1/audio/transcriptions` and `/v1/audio/translations`.

Nothing is listened to: the text depends on the bytes of the file, its length in time on their
number.
"""

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from rustygate.simulator.errors import ApiError, Failure
from rustygate.simulator.response_bodies import Answer, Event, Whole, json_answer, json_text
from rustygate.simulator.schemas import Generating
from rustygate.simulator.storage.file_store import UploadedFile
from rustygate.simulator.text import SENTENCE, Text, input_tokens, seed_of, write

# OpenAI takes no longer files.
MOST_BYTES = 25 * 1024 * 1024

# An MP3 file of 128 kbit/s has so many bytes for each second, and each second as many tokens.
_BYTES_PER_S = 16_000
_TOKENS_PER_S = 10

PLAIN_TEXT = "text/plain; charset=utf-8"


class AudioFile(UploadedFile):
    """An audio file, which is refused as soon as it is too long."""

    def write(self, data: bytes) -> None:
        super().write(data)
        if self.size > MOST_BYTES:
            message = (
                f"Maximum content size limit ({MOST_BYTES}) exceeded ({self.size} bytes read)"
            )
            raise ApiError(Failure(413, message))


class Segment(msgspec.Struct):
    """A sentence, and the seconds from which to which it is heard."""

    text: str
    start: float
    end: float


class TranslationAsked(Generating, kw_only=True):
    """A request to write down in English what is said in a file."""

    file: AudioFile
    prompt: str = ""
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = "json"

    @property
    def seconds(self) -> float:
        return round(self.file.size / _BYTES_PER_S, 3)

    @property
    def tokens_in(self) -> int:
        return -(-self.file.size * _TOKENS_PER_S // _BYTES_PER_S) + input_tokens(self.prompt)

    @property
    def cap(self) -> int | None:
        return None

    def answer(self, wanted: int | None, origin: str) -> Answer:
        segments = self._segments(wanted)
        match self.response_format:
            case "text":
                return Whole(f"{self._text(wanted)}\n".encode(), PLAIN_TEXT)
            case "srt":
                return Whole(_subtitles(segments, ",").encode(), PLAIN_TEXT)
            case "vtt":
                return Whole(f"WEBVTT\n\n{_subtitles(segments, '.')}".encode(), PLAIN_TEXT)
            case "verbose_json":
                return json_answer(self._verbose(wanted))
        return super().answer(wanted, origin)

    def plain(self, wanted: int | None) -> dict[str, Any]:
        return {"text": str(self._text(wanted))}

    def events(self, wanted: int | None) -> Iterator[Event]:
        raise ApiError(Failure(400, "Translations are not streamed.", param="stream"))

    def _text(self, wanted: int | None) -> Text:
        seed = seed_of(self.model, self.file.sha256, self.prompt)
        return write(seed, None, wanted, as_json=False)

    def _verbose(self, wanted: int | None) -> dict[str, Any]:
        segments = self._segments(wanted)
        return {
            "task": "translate",
            "language": "english",
            "duration": self.seconds,
            "text": str(self._text(wanted)),
            "segments": [_shown(number, segment) for number, segment in enumerate(segments)],
        }

    def _segments(self, wanted: int | None) -> list[Segment]:
        return self._timed(self._text(wanted).tokens, SENTENCE)

    def _timed(self, tokens: tuple[str, ...], size: int) -> list[Segment]:
        """The tokens in groups of `size`; each token takes the same part of the time."""
        pace = self.seconds / len(tokens)
        return [
            Segment(
                "".join(tokens[first : first + size]).strip(),
                round(first * pace, 3),
                round(min(first + size, len(tokens)) * pace, 3),
            )
            for first in range(0, len(tokens), size)
        ]


class TranscriptionAsked(TranslationAsked, kw_only=True):
    """A request to write down what is said in a file."""

    timestamp_granularities: tuple[Literal["word", "segment"], ...] = ()

    def answer(self, wanted: int | None, origin: str) -> Answer:
        if self.stream:
            return Generating.answer(self, wanted, origin)
        return super().answer(wanted, origin)

    def plain(self, wanted: int | None) -> dict[str, Any]:
        return super().plain(wanted) | {"usage": self._usage(wanted)}

    def events(self, wanted: int | None) -> Iterator[Event]:
        text = self._text(wanted)
        for token in text.tokens:
            delta = {"type": "transcript.text.delta", "delta": token}
            yield Event(json_text(delta), paced=True)
        done = {"type": "transcript.text.done", "text": str(text), "usage": self._usage(wanted)}
        yield Event(json_text(done))

    def _verbose(self, wanted: int | None) -> dict[str, Any]:
        usage = {"type": "duration", "seconds": self.seconds}
        answer = super()._verbose(wanted) | {"task": "transcribe", "usage": usage}
        if "word" in self.timestamp_granularities:
            words = self._timed(self._text(wanted).tokens, 1)
            answer["words"] = [{"word": w.text, "start": w.start, "end": w.end} for w in words]
        return answer

    def _usage(self, wanted: int | None) -> dict[str, Any]:
        usage, text_tokens = self.usage(wanted), input_tokens(self.prompt)
        details = {"text_tokens": text_tokens, "audio_tokens": usage.tokens_in - text_tokens}
        return {
            "type": "tokens",
            "input_tokens": usage.tokens_in,
            "input_token_details": details,
            "output_tokens": usage.tokens_out,
            "total_tokens": usage.total,
        }


def _shown(number: int, segment: Segment) -> dict[str, Any]:
    """A segment as `verbose_json` shows it; nothing about how sure it is, is known."""
    return {
        "id": number,
        "seek": 0,
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": 0.0,
        "compression_ratio": 1.0,
        "no_speech_prob": 0.0,
    }


def _subtitles(segments: list[Segment], point: str) -> str:
    blocks = []
    for number, segment in enumerate(segments, 1):
        times = f"{_clock(segment.start, point)} --> {_clock(segment.end, point)}"
        blocks.append(f"{number}\n{times}\n{segment.text}\n\n")
    return "".join(blocks)


def _clock(seconds: float, point: str) -> str:
    """A time as subtitles write it; `point` stands before the milliseconds."""
    whole, ms = divmod(round(seconds * 1000), 1000)
    minutes, whole = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{whole:02}{point}{ms:03}"
