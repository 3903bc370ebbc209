"""The bytes on the wire: requests and responses that upstream and the load clients agree on.

The prompt of a streaming request contains the number of events and their interval, so that proxies
which know only OpenAI's endpoints forward it. The text of an event is the time it was sent at, in
nanoseconds of the machine's monotonic clock.
"""

import json
import re

PATH = "/v1/chat/completions"
SOCKET = "/v1/realtime?model=gpt-realtime"
KEY = "sk-bench"


def body(prompt: str, **fields: object) -> bytes:
    """The body of a chat request."""
    message = {"role": "user", "content": prompt}
    return json.dumps({"model": "gpt-4o", "messages": [message], **fields}).encode()


BODY = body("Say hello to the bench.")
STREAM_PARAMETERS = re.compile(rb"Say (\d+) words, one each (\d+) us")


def stream_body(events: int, pause_us: int) -> bytes:
    """The body of a streaming request; `STREAM_PARAMETERS` finds its parameters."""
    return body(f"Say {events} words, one each {pause_us} us", stream=True)


SHORT_STREAM_EVENTS = 5


HEAD = (
    "POST {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {key}\r\n"
    "Content-Type: application/json\r\nContent-Length: {length}\r\n"
    "Accept: application/json\r\nAccept-Encoding: {encoding}\r\n"
    "User-Agent: OpenAI/Python 3.0.0\r\nx-stainless-lang: python\r\n"
    "x-stainless-package-version: 3.0.0\r\nx-stainless-os: Linux\r\n"
    "x-stainless-arch: x64\r\nx-stainless-runtime: CPython\r\n"
    "x-stainless-runtime-version: 3.11.7\r\nx-stainless-async: async:asyncio\r\n"
    "x-stainless-retry-count: 0\r\nx-stainless-read-timeout: 600\r\n"
)


def request(content: bytes, headers: str = "", encoding: str = "gzip, deflate") -> bytes:
    """A request as OpenAI's SDK sends it.

    Args:
        headers: additional header lines.
        encoding: `identity` where events must be found in the response as it arrives.
    """
    head = HEAD.format(path=PATH, key=KEY, length=len(content), encoding=encoding)
    return f"{head}{headers}\r\n".encode() + content


CHAT = {"id": "chatcmpl-1", "created": 1893456000, "model": "gpt-4o"}
RESPONSE_BODY = json.dumps(
    {
        **CHAT,
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello, bench!"},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13},
    }
).encode()
# So high that a gate which learns these limits never reaches them.
RESPONSE = (
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    f"Content-Length: {len(RESPONSE_BODY)}\r\n"
    "x-request-id: req_1\r\nopenai-processing-ms: 12\r\nopenai-version: 2020-10-01\r\n"
    "x-ratelimit-limit-requests: 10000000000\r\nx-ratelimit-limit-tokens: 10000000000000\r\n"
    "x-ratelimit-remaining-requests: 9999999999\r\n"
    "x-ratelimit-remaining-tokens: 9999999999990\r\n"
    "x-ratelimit-reset-requests: 6ms\r\nx-ratelimit-reset-tokens: 0s\r\n"
    "Date: Tue, 01 Jan 2030 00:00:00 GMT\r\nServer: bench\r\n\r\n"
).encode() + RESPONSE_BODY

# As OpenAI refuses a request over the limit.
REFUSAL_BODY = json.dumps(
    {
        "error": {
            "message": "Rate limit reached for gpt-4o on requests per min (RPM).",
            "type": "requests",
            "param": None,
            "code": "rate_limit_exceeded",
        }
    }
).encode()
REFUSAL = (
    "HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\n"
    f"Content-Length: {len(REFUSAL_BODY)}\r\nRetry-After: 1\r\n"
    "Date: Tue, 01 Jan 2030 00:00:00 GMT\r\nServer: bench\r\n\r\n"
).encode() + REFUSAL_BODY

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
    b"Date: Tue, 01 Jan 2030 00:00:00 GMT\r\nServer: bench\r\n\r\n"
)
EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1893456000,'
    b'"model":"gpt-4o","choices":[{"index":0,"delta":{"content":"%020d"},'
    b'"finish_reason":null}]}\n\n'
)
CHUNK = b"%x\r\n%s\r\n" % (len(EVENT % 0), EVENT)
SENT_AT = re.compile(rb'"content": ?"(\d{20})"')
DONE = b"data: [DONE]\n\n"
LAST_CHUNK = b"0\r\n\r\n"
STREAM_END = b"%x\r\n%s\r\n%s" % (len(DONE), DONE, LAST_CHUNK)

# Large bodies. The path of a download ends with its size in MiB.
DOWNLOAD_PATH = "/v1/bytes/"
UPLOAD_PATH = "/v1/files"
BLOCK = bytes(range(256)) * 256
DOWNLOAD_HEAD = (
    "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\n"
    "Date: Tue, 01 Jan 2030 00:00:00 GMT\r\nServer: bench\r\n\r\n"
)
DOWNLOAD = (
    f"GET {DOWNLOAD_PATH}{{}} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {KEY}\r\n"
    "Connection: close\r\n{}\r\n"
)
UPLOAD = (
    f"POST {UPLOAD_PATH} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {KEY}\r\n"
    "Content-Length: {}\r\nContent-Type: multipart/form-data; boundary=x\r\n{}\r\n"
)

SWITCHING_PROTOCOLS = (
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Accept: {}\r\n\r\n"
)
UPGRADE = (
    f"GET {SOCKET} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {KEY}\r\n"
    "Connection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
).encode()
TEXT_EVENT = b'{"type":"response.output_text.delta","response_id":"resp_1","delta":" word"}'
FRAME = bytes([0x81, len(TEXT_EVENT)]) + TEXT_EVENT
MASKED_FRAME = bytes([0x81, 0x80 | len(TEXT_EVENT), 0, 0, 0, 0]) + TEXT_EVENT
