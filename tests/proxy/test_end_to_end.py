"""A running gate as apps see it. The `tests` service of compose.yaml runs these tests.

`RUSTYGATE_ENDPOINT` is the URL of the gate, such as http://rustygate:8080. Without it, the tests
start `rustygate demo`, a gate in front of the simulator.

Against the real API the tests cost a fraction of a cent: responses are short, and only their shape
is checked. `RUSTYGATE_MODELS` is a comma-separated list of models; the first one must support JSON
mode. RATE_LIMIT=1 and RATE_LIMIT_BURST=3 suffice.
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

# Limits of the demo: the gate soon has a queue, and soon serves it.
LIMITS = {"RATE_LIMIT": "5", "RATE_LIMIT_BURST": "3"}

# With the limits in compose.yaml, the last of them waits five seconds.
CONCURRENT_REQUESTS = 8

# RATE_LIMIT_TIMEOUT, plus time for upstream.
TIMEOUT_S = 60.0

SHORT_CHAT: dict[str, Any] = {
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
    """The official SDK; only its base URL refers to the gate."""
    direct = openai.DefaultHttpxClient(trust_env=False)
    with openai.OpenAI(
        base_url=f"{endpoint}/v1", api_key="unused", timeout=TIMEOUT_S, http_client=direct
    ) as client:
        yield client


def get(endpoint: str, path: str) -> tuple[int, str | None, bytes]:
    """The status, the reason if the gate responded itself, and the body."""
    with closing(open_connection(endpoint)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.headers["X-RustyGate-Error"], response.read()


def open_connection(endpoint: str) -> HTTPConnection:
    parts = urlsplit(endpoint)
    assert parts.hostname
    return HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT_S)


def text_and_finish_reason(chunks: list[ChatCompletionChunk]) -> tuple[str, str]:
    """The text of a streamed response, and its finish reason."""
    choices = [choice for chunk in chunks for choice in chunk.choices]
    [reason] = [choice.finish_reason for choice in choices if choice.finish_reason]
    return "".join(choice.delta.content or "" for choice in choices), reason


# The gate itself.


def test_gate_is_healthy_and_ready(endpoint: str) -> None:
    assert get(endpoint, "/health") == (200, None, b"OK")
    status, _, body = get(endpoint, "/ready")
    assert status == 200
    assert isinstance(json.loads(body), dict)


@pytest.mark.parametrize("path", ["/", "/v1", "/v2/models", "/chat/completions"])
def test_path_outside_v1_returns_404(endpoint: str, path: str) -> None:
    status, reason, body = get(endpoint, path)
    assert (status, reason) == (404, "not_found")
    assert json.loads(body)["error"]["code"] == "not_found"


# Responses from upstream.


@pytest.mark.parametrize("model", MODELS)
def test_model_responds(client: openai.OpenAI, model: str) -> None:
    completion = client.chat.completions.create(**SHORT_CHAT | {"model": model})
    [choice] = completion.choices
    assert choice.message.role == "assistant"
    assert choice.finish_reason in FINISHED
    assert completion.usage
    assert completion.usage.completion_tokens > 0


def test_response_has_the_gates_headers(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(**SHORT_CHAT)
    assert int(raw.headers["X-RustyGate-Attempts"]) >= 1
    assert int(raw.headers["X-RustyGate-Queued-Ms"]) >= 0
    assert re.search(r"queue;dur=[\d.]+, upstream;dur=[\d.]+", raw.headers["Server-Timing"])
    assert "X-RustyGate-Error" not in raw.headers


def test_response_is_streamed(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        **SHORT_CHAT, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text, reason = text_and_finish_reason(chunks)
    assert text
    assert reason in FINISHED
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens > 0


def test_stream_is_complete_on_the_wire(endpoint: str) -> None:
    with closing(open_connection(endpoint)) as connection:
        body = json.dumps(SHORT_CHAT | {"stream": True})
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", body, headers)
        response = connection.getresponse()
        events = response.read().split(b"\n\n")
    assert response.status == 200
    assert response.headers["Content-Type"].startswith("text/event-stream")
    assert events[-2:] == [b"data: [DONE]", b""]
    kinds = {json.loads(event.partition(b"data: ")[2])["object"] for event in events[:-2]}
    assert kinds == {"chat.completion.chunk"}


def test_json_mode_is_streamed(client: openai.OpenAI) -> None:
    messages: list[ChatCompletionMessageParam] = [
        {"role": "user", "content": 'Answer with this JSON object: {"answer": "yes"}'}
    ]
    stream = client.chat.completions.create(
        model=MODELS[0],
        messages=messages,
        max_completion_tokens=64,
        response_format={"type": "json_object"},
        stream=True,
    )
    text, reason = text_and_finish_reason(list(stream))
    assert reason == "length" or isinstance(json.loads(text), dict)


def test_stream_closed_early_does_not_affect_the_next_request(client: openai.OpenAI) -> None:
    with client.chat.completions.create(**SHORT_CHAT, stream=True) as stream:
        next(iter(stream))
    assert client.chat.completions.create(**SHORT_CHAT).choices


# Errors from upstream.


def test_unknown_model_is_an_upstream_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as raised:
        client.chat.completions.create(**SHORT_CHAT | {"model": "no-such-model"})
    assert raised.value.status_code in {400, 403, 404}
    assert "X-RustyGate-Error" not in raised.value.response.headers


def test_unknown_path_below_v1_is_an_upstream_error(endpoint: str) -> None:
    status, reason, _ = get(endpoint, "/v1/no/such/path")
    assert (status, reason) == (404, None)


# Rate limiting.


def test_concurrent_requests_wait_instead_of_failing(client: openai.OpenAI) -> None:
    """Listing the models costs only its place in the queue."""
    models = client.with_options(max_retries=0).models.with_raw_response

    def list_models(_: int) -> tuple[int, float]:
        started = monotonic()
        raw = models.list()
        return int(raw.headers["X-RustyGate-Queued-Ms"]), (monotonic() - started) * 1000

    with ThreadPoolExecutor(CONCURRENT_REQUESTS) as threads:
        results = list(threads.map(list_models, range(CONCURRENT_REQUESTS)))
    waited = [queued_ms for queued_ms, _ in results if queued_ms]
    if ENDPOINT and not waited:
        pytest.skip("the limits of this gate are too high for a queue to form")
    assert waited
    assert all(queued_ms <= took_ms for queued_ms, took_ms in results)
