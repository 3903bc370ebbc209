"""A running gate as apps see it: what compose's `tests` service runs.

`RUSTYGATE_ENDPOINT` names the gate, such as http://rustygate:8080. Without it the demonstration
is started as a process of its own, a gate before the simulator.

Before the real API this spends a fraction of a cent: answers are short, and judged by their shape
alone. `RUSTYGATE_MODELS` names the models to ask, with commas between them; the first one must
know JSON mode. RATE_LIMIT=1 and RATE_LIMIT_BURST=3 are enough.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

ROOT = Path(__file__).parents[2]
ENDPOINT = os.environ.get("RUSTYGATE_ENDPOINT", "").rstrip("/")
MODELS = (os.environ.get("RUSTYGATE_MODELS") or "gpt-4o-mini,gpt-4.1-mini").split(",")

# Where there is no endpoint: a gate that soon has a queue, and soon serves it.
LIMITS = {"RATE_LIMIT": "5", "RATE_LIMIT_BURST": "3"}

# How many requests come at the same time; with compose's limits the last waits five seconds.
CROWD = 8

# A wait of RATE_LIMIT_TIMEOUT, and upstream's time.
PATIENCE_S = 60.0

SHORT: dict[str, Any] = {
    "model": MODELS[0],
    "messages": [{"role": "user", "content": "Say hello in one word."}],
    "max_completion_tokens": 16,
}
FINISHED = {"stop", "length"}


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The gate's URL."""
    if ENDPOINT:
        yield ENDPOINT
        return
    with subprocess.Popen(
        [sys.executable, "-m", "rustygate", "demo"],
        cwd=tmp_path_factory.mktemp("demo"),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PORT": "0", **LIMITS},
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as demo:
        assert demo.stdout
        try:
            yield next(m[1] for line in demo.stdout if (m := re.search(r"curl (\S+)/v1/", line)))
        finally:
            demo.terminate()
    assert demo.returncode == 0


@pytest.fixture(scope="module")
def client(endpoint: str) -> Iterator[openai.OpenAI]:
    """The official SDK; nothing but the base URL tells it of the gate."""
    direct = openai.DefaultHttpxClient(trust_env=False)
    with openai.OpenAI(
        base_url=f"{endpoint}/v1", api_key="unused", timeout=PATIENCE_S, http_client=direct
    ) as client:
        yield client


def get(endpoint: str, path: str) -> tuple[int, str | None, bytes]:
    """The status, the gate's own reason if it has one, and the body."""
    with closing(connected(endpoint)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.headers["X-RustyGate-Error"], answer.read()


def connected(endpoint: str) -> HTTPConnection:
    parts = urlsplit(endpoint)
    assert parts.hostname
    return HTTPConnection(parts.hostname, parts.port, timeout=PATIENCE_S)


def joined(chunks: list[ChatCompletionChunk]) -> tuple[str, str]:
    """A streamed answer's text, and why it ended."""
    choices = [choice for chunk in chunks for choice in chunk.choices]
    [reason] = [choice.finish_reason for choice in choices if choice.finish_reason]
    return "".join(choice.delta.content or "" for choice in choices), reason


# The gate itself.


def test_it_is_alive_and_ready(endpoint: str) -> None:
    assert get(endpoint, "/health") == (200, None, b"OK")
    status, _, body = get(endpoint, "/ready")
    assert status == 200
    assert isinstance(json.loads(body), dict)


@pytest.mark.parametrize("path", ["/", "/v1", "/v2/models", "/chat/completions"])
def test_path_outside_v1_is_not_found(endpoint: str, path: str) -> None:
    status, reason, body = get(endpoint, path)
    assert (status, reason) == (404, "not_found")
    assert json.loads(body)["error"]["code"] == "not_found"


# What passes through it.


@pytest.mark.parametrize("model", MODELS)
def test_model_answers(client: openai.OpenAI, model: str) -> None:
    completion = client.chat.completions.create(**SHORT | {"model": model})
    [choice] = completion.choices
    assert choice.message.role == "assistant"
    assert choice.finish_reason in FINISHED
    assert completion.usage
    assert completion.usage.completion_tokens > 0


def test_answer_tells_what_the_gate_did(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(**SHORT)
    assert int(raw.headers["X-RustyGate-Attempts"]) >= 1
    assert int(raw.headers["X-RustyGate-Queued-Ms"]) >= 0
    assert re.search(r"queue;dur=[\d.]+, upstream;dur=[\d.]+", raw.headers["Server-Timing"])
    assert "X-RustyGate-Error" not in raw.headers


def test_answer_is_streamed(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        **SHORT, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text, reason = joined(chunks)
    assert text
    assert reason in FINISHED
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens > 0


def test_stream_is_whole_on_the_wire(endpoint: str) -> None:
    with closing(connected(endpoint)) as connection:
        body = json.dumps(SHORT | {"stream": True})
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", body, headers)
        answer = connection.getresponse()
        events = answer.read().split(b"\n\n")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert events[-2:] == [b"data: [DONE]", b""]
    kinds = {json.loads(event.partition(b"data: ")[2])["object"] for event in events[:-2]}
    assert kinds == {"chat.completion.chunk"}


def test_json_is_streamed(client: openai.OpenAI) -> None:
    asked: list[ChatCompletionMessageParam] = [
        {"role": "user", "content": 'Answer with this JSON object: {"answer": "yes"}'}
    ]
    stream = client.chat.completions.create(
        model=MODELS[0],
        messages=asked,
        max_completion_tokens=64,
        response_format={"type": "json_object"},
        stream=True,
    )
    text, reason = joined(list(stream))
    assert reason == "length" or isinstance(json.loads(text), dict)


def test_stream_that_is_left_early_disturbs_nobody(client: openai.OpenAI) -> None:
    with client.chat.completions.create(**SHORT, stream=True) as stream:
        next(iter(stream))
    assert client.chat.completions.create(**SHORT).choices


# Errors that are upstream's.


def test_unknown_model_is_upstream_s_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as raised:
        client.chat.completions.create(**SHORT | {"model": "no-such-model"})
    assert raised.value.status_code in {400, 403, 404}
    assert "X-RustyGate-Error" not in raised.value.response.headers


def test_unknown_path_below_v1_is_upstream_s_error(endpoint: str) -> None:
    status, reason, _ = get(endpoint, "/v1/no/such/path")
    assert (status, reason) == (404, None)


# Rate limiting.


def test_simultaneous_requests_wait_rather_than_fail(client: openai.OpenAI) -> None:
    """Listing the models costs nothing but its place in the queue."""
    models = client.with_options(max_retries=0).models.with_raw_response

    def ask(_: int) -> tuple[int, float]:
        began = monotonic()
        raw = models.list()
        return int(raw.headers["X-RustyGate-Queued-Ms"]), (monotonic() - began) * 1000

    with ThreadPoolExecutor(CROWD) as threads:
        answers = list(threads.map(ask, range(CROWD)))
    waited = [queued_ms for queued_ms, _ in answers if queued_ms]
    if ENDPOINT and not waited:
        pytest.skip("this gate's limits are too high for so few requests to queue")
    assert waited
    assert all(queued_ms <= took_ms for queued_ms, took_ms in answers)
