"""Where upstream's `Location` leads, as seen from a client (RFC 9110, 10.2.2 and 8.7).

A URL under upstream's base is one that the gate serves, so the client gets it as a path here. Any
other URL stays as it is: a redirect to another host, and a relative path, which means the same on
both sides.
"""

import re
from urllib.parse import urlsplit

from rustygate.core.paths import PREFIX, has_dot_segment

# `scheme:`, `//authority`, an absolute path, and what follows it (RFC 3986, 4.2 and 4.3).
_REFERENCE = re.compile(r"(?:(?:([A-Za-z][\w+.-]*):)?//([^/?#]*))?(/[^?#]*)?([?#].*)?", re.ASCII)

_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class LocationMap:
    """Maps URLs under one base URL to paths under `/v1/`."""

    __slots__ = ("_authority", "_path", "_scheme")

    def __init__(self, base_url: str) -> None:
        base = urlsplit(base_url)
        self._scheme = base.scheme.lower()
        self._authority = _normalized(self._scheme, base.netloc)
        self._path = base.path.rstrip("/") + "/"

    def to_local(self, location: str) -> str:
        """The path here, if the location is under the base; otherwise the location as it is."""
        reference = _REFERENCE.fullmatch(location)
        if reference is None:
            return location
        scheme, authority, path, rest = reference.groups("")
        if reference[2] is None:
            if not path:
                return location
        elif not self._is_here(scheme, authority):
            return location
        if f"{path}/" == self._path:
            # The base itself. Without a path it is that of the root (RFC 3986, 6.2.3).
            return f"{PREFIX.rstrip('/') if path else PREFIX}{rest}"
        if not path.startswith(self._path) or has_dot_segment(path):
            return location
        return f"{PREFIX}{path[len(self._path) :]}{rest}"

    def to_local_bytes(self, location: bytes) -> bytes:
        """The same for a header's raw value."""
        text = location.decode(errors="surrogateescape")
        return self.to_local(text).encode(errors="surrogateescape")

    def _is_here(self, scheme: str, authority: str) -> bool:
        scheme = scheme.lower() or self._scheme
        return scheme == self._scheme and _normalized(scheme, authority) == self._authority


def _normalized(scheme: str, authority: str) -> str:
    """In lower case, without the scheme's default port (RFC 3986, 6.2.3)."""
    authority = authority.lower()
    return authority.removesuffix(_DEFAULT_PORTS.get(scheme, ":")).removesuffix(":")
