"""The page's static files: read once at the start, and served from memory.

A browser keeps a copy and asks each time whether it is current (`ETag`, RFC 9110, 8.8.3), so that
a new version of the gate never runs with an old script.
"""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from aiohttp import hdrs, web

from rustygate.access.admin import Page
from rustygate.aiohttp_internals.response import OwnResponse
from rustygate.dashboard.headers import REVALIDATE, SECURITY_HEADERS

# The page itself has the path of the dashboard; the other files are below it.
INDEX = "index.html"

_CONTENT_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


class StaticFile:
    """A file and its headers."""

    def __init__(self, name: str, content: bytes) -> None:
        self._content = content
        self._etag = f'"{sha256(content).hexdigest()[:32]}"'
        self._headers = SECURITY_HEADERS | {
            hdrs.CONTENT_TYPE: _CONTENT_TYPES[name.rpartition(".")[2]],
            hdrs.CACHE_CONTROL: REVALIDATE,
            hdrs.ETAG: self._etag,
        }

    async def get(self, request: web.Request) -> web.Response:
        """The file, or 304 if the browser's copy is current."""
        known = request.headers.get(hdrs.IF_NONE_MATCH, "")
        if known == "*" or self._etag in (tag.strip() for tag in known.split(",")):
            return OwnResponse(status=304, headers=self._headers)
        return OwnResponse(body=self._content, headers=self._headers)


def static_pages(prefix: str) -> Iterator[tuple[str, Page]]:
    """The path and handler of each file. Files of other types are not served."""
    for file in Path(__file__).with_name("static").iterdir():
        if file.name.rpartition(".")[2] in _CONTENT_TYPES:
            path = prefix if file.name == INDEX else f"{prefix}/{file.name}"
            yield path, StaticFile(file.name, file.read_bytes()).get
