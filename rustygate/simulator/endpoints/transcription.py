"""Speech to text: `POST /v1/audio/transcriptions` and `/v1/audio/translations`.

The audio is not interpreted: the text is made from the bytes of the file, and the duration from
their number.
"""

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from rustygate.simulator.errors import ApiError, ErrorResponse
from rustygate.simulator.response_bodies import (
    CompleteBody,
    Event,
    ResponseBody,
    json_body,
    json_text,
)
from rustygate.simulator.schemas import TextRequest
from rustygate.simulator.storage.file_store import UploadedFile
from rustygate.simulator.text import (
    SENTENCE_WORDS,
    GeneratedText,
    estimate_tokens,
    generate_text,
    seed_from,
)

# OpenAI's limit.
MAX_FILE_BYTES = 25 * 1024 * 1024

# The duration of an MP3 file of 128 kbit/s, and the tokens that a second of audio counts for.
_BYTES_PER_S = 16_000
_TOKENS_PER_S = 10

PLAIN_TEXT = "text/plain; charset=utf-8"


class AudioFile(UploadedFile):
    """An audio file, rejected as soon as it is too long."""

    def write(self, data: bytes) -> None:
        super().write(data)
        if self.size > MAX_FILE_BYTES:
            message = (
                f"Maximum content size limit ({MAX_FILE_BYTES}) exceeded ({self.size} bytes read)"
            )
            raise ApiError(ErrorResponse(413, message))


class Segment(msgspec.Struct):
    """A sentence, with its start and end in seconds."""

    text: str
    start: float
    end: float


class TranslationRequest(TextRequest, kw_only=True):
    """A request to translate the speech in a file to English text."""

    file: AudioFile
    prompt: str = ""
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = "json"

    @property
    def seconds(self) -> float:
        return round(self.file.size / _BYTES_PER_S, 3)

    @property
    def tokens_in(self) -> int:
        return -(-self.file.size * _TOKENS_PER_S // _BYTES_PER_S) + estimate_tokens(self.prompt)

    @property
    def token_limit(self) -> int | None:
        return None

    def response_body(self, forced_tokens: int | None, base_url: str) -> ResponseBody:
        segments = self._segments(forced_tokens)
        match self.response_format:
            case "text":
                return CompleteBody(f"{self._text(forced_tokens)}\n".encode(), PLAIN_TEXT)
            case "srt":
                return CompleteBody(_subtitles(segments, ",").encode(), PLAIN_TEXT)
            case "vtt":
                return CompleteBody(f"WEBVTT\n\n{_subtitles(segments, '.')}".encode(), PLAIN_TEXT)
            case "verbose_json":
                return json_body(self._verbose(forced_tokens))
        return super().response_body(forced_tokens, base_url)

    def json_object(self, forced_tokens: int | None) -> dict[str, Any]:
        return {"text": str(self._text(forced_tokens))}

    def events(self, forced_tokens: int | None) -> Iterator[Event]:
        raise ApiError(ErrorResponse(400, "Translations are not streamed.", param="stream"))

    def _text(self, forced_tokens: int | None) -> GeneratedText:
        seed = seed_from(self.model, self.file.sha256, self.prompt)
        return generate_text(seed, None, forced_tokens, as_json=False)

    def _verbose(self, forced_tokens: int | None) -> dict[str, Any]:
        segments = self._segments(forced_tokens)
        return {
            "task": "translate",
            "language": "english",
            "duration": self.seconds,
            "text": str(self._text(forced_tokens)),
            "segments": [
                _verbose_segment(number, segment) for number, segment in enumerate(segments)
            ],
        }

    def _segments(self, forced_tokens: int | None) -> list[Segment]:
        return self._timed_segments(self._text(forced_tokens), SENTENCE_WORDS)

    def _timed_segments(self, text: GeneratedText, size: int) -> list[Segment]:
        """Segments of `size` words each; all words have the same duration."""
        words = str(text).split()
        word_seconds = self.seconds / max(1, len(words))
        return [
            Segment(
                " ".join(words[first : first + size]),
                round(first * word_seconds, 3),
                round(min(first + size, len(words)) * word_seconds, 3),
            )
            for first in range(0, len(words), size)
        ]


class TranscriptionRequest(TranslationRequest, kw_only=True):
    """A request to transcribe the speech in a file."""

    timestamp_granularities: tuple[Literal["word", "segment"], ...] = ()

    def response_body(self, forced_tokens: int | None, base_url: str) -> ResponseBody:
        if self.stream:
            return TextRequest.response_body(self, forced_tokens, base_url)
        return super().response_body(forced_tokens, base_url)

    def json_object(self, forced_tokens: int | None) -> dict[str, Any]:
        return super().json_object(forced_tokens) | {"usage": self._usage(forced_tokens)}

    def events(self, forced_tokens: int | None) -> Iterator[Event]:
        text = self._text(forced_tokens)
        for token in text.tokens:
            delta = {"type": "transcript.text.delta", "delta": token}
            yield Event(json_text(delta), paced=True)
        done = {
            "type": "transcript.text.done",
            "text": str(text),
            "usage": self._usage(forced_tokens),
        }
        yield Event(json_text(done))

    def _verbose(self, forced_tokens: int | None) -> dict[str, Any]:
        usage = {"type": "duration", "seconds": self.seconds}
        verbose = super()._verbose(forced_tokens) | {"task": "transcribe", "usage": usage}
        if "word" in self.timestamp_granularities:
            words = self._timed_segments(self._text(forced_tokens), 1)
            verbose["words"] = [
                {"word": word.text, "start": word.start, "end": word.end} for word in words
            ]
        return verbose

    def _usage(self, forced_tokens: int | None) -> dict[str, Any]:
        usage, text_tokens = self.usage(forced_tokens), estimate_tokens(self.prompt)
        details = {"text_tokens": text_tokens, "audio_tokens": usage.tokens_in - text_tokens}
        return {
            "type": "tokens",
            "input_tokens": usage.tokens_in,
            "input_token_details": details,
            "output_tokens": usage.tokens_out,
            "total_tokens": usage.total,
        }


def _verbose_segment(number: int, segment: Segment) -> dict[str, Any]:
    """A segment as `verbose_json` shows it; the probabilities are placeholders."""
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


def _subtitles(segments: list[Segment], decimal_mark: str) -> str:
    blocks = []
    for number, segment in enumerate(segments, 1):
        start = _timestamp(segment.start, decimal_mark)
        end = _timestamp(segment.end, decimal_mark)
        blocks.append(f"{number}\n{start} --> {end}\n{segment.text}\n\n")
    return "".join(blocks)


def _timestamp(seconds: float, decimal_mark: str) -> str:
    """A time as in subtitles; `decimal_mark` precedes the milliseconds."""
    whole_seconds, ms = divmod(round(seconds * 1000), 1000)
    minutes, whole_seconds = divmod(whole_seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{whole_seconds:02}{decimal_mark}{ms:03}"
