"""The gate as a process, and requests to it."""

import socket
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

from tests.conftest import Start
from tests.support.process import PROCESS_TIMEOUT_S, Process

SECRET = "sk-proj-0123456789-abcdefghij-wxyz"


def serve(start: Start, upstream: socket.socket | None = None, **environ: Any) -> Process:
    if upstream:
        environ["OPENAI_BASE_URL"] = f"http://127.0.0.1:{upstream.getsockname()[1]}/v1"
    return start(**{"OPENAI_API_KEY": SECRET, "PORT": "0"} | environ)


def connect(url: str) -> HTTPConnection:
    parts = urlsplit(url)
    assert parts.hostname
    return HTTPConnection(parts.hostname, parts.port, timeout=PROCESS_TIMEOUT_S)


def get(url: str, path: str) -> tuple[int, bytes]:
    connection = connect(url)
    connection.request("GET", path, headers={"Authorization": "Bearer any"})
    response = connection.getresponse()
    status_and_body = response.status, response.read()
    connection.close()
    return status_and_body


def in_flight(url: str, upstream: socket.socket) -> tuple[HTTPConnection, socket.socket]:
    """An exchange whose request has reached upstream, without a response yet."""
    client = connect(url)
    client.request("GET", "/v1/models")
    accepted, _ = upstream.accept()
    accepted.settimeout(PROCESS_TIMEOUT_S)
    assert accepted.recv(65536).startswith(b"GET /v1/models HTTP/1.1\r\n")
    return client, accepted
